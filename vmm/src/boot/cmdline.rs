//! The kernel's command line, which is ours to begin.

use super::BootError;

/// Parameters that every Linux guest here starts from. A parameter stays out if the user gives one of the same
/// name, or one of the names after it. Kept because:
///
/// - `console=`: where the guest is heard.
/// - `clocksource=tsc tsc=reliable no-kvmclock`: there is no other clock, and Linux must not look for one to
///   check this one against; kvmclock is per host.
/// - `nowatchdog`: no per-CPU watchdog threads and no lock-up reports while a page travels.
/// - `skew_tick=1`: the ticks of different CPUs do not all want the same page at the same moment.
/// - `nohz=on idle=halt`: an idle CPU neither ticks nor spins; HLT is what KVM waits on.
/// - `nokaslr`: the kernel unpacks into node 0's memory, where it was loaded; at a random place it would be
///   written into another host's share page by page. Give `kaslr` to have it.
/// - `reboot=a`: by the ACPI reset register. Linux otherwise takes a hardware-reduced platform for one with EFI, and
///   resets through services that are not there.
/// - `panic=-1`: a panic resets, and a reset ends the guest, instead of hanging.
/// - `numa_balancing=disable`: memory goes to where it is used by itself here; the kernel would unmap pages to see who
///   touches them, and copy them.
/// - `noreplace-smp`: a kernel that starts with one CPU (`maxcpus=1`) otherwise takes the lock prefixes out of its code, and
///   puts them back one by one when the second one comes.
const OURS: &[(&str, &[&str])] = &[
    ("console=ttyS0", &[]),
    ("clocksource=tsc", &[]),
    ("tsc=reliable", &[]),
    ("no-kvmclock", &[]),
    ("nowatchdog", &["watchdog", "nmi_watchdog", "softlockup_panic"]),
    ("skew_tick=1", &[]),
    ("nohz=on", &[]),
    ("idle=halt", &[]),
    ("nokaslr", &["kaslr"]),
    ("reboot=a", &[]),
    ("panic=-1", &[]),
    ("numa_balancing=disable", &[]),
    ("noreplace-smp", &[]),
];

/// What the command line says of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// The frequency of its TSC as it is told.
    pub tsc_khz: u32,
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// How many hosts it spans.
    pub hosts: usize,
}

/// CONFIG_HZ of Debian's kernels.
const TICKS_PER_SECOND: u64 = 250;

/// A guest's whole command line: our parameters, then the user's, so that the user's win where both are read.
/// Of ours, none is there that the user gave too.
///
/// More come from what the guest is like. Of its clock:
///
/// - `tsc_early_khz=`: Linux cannot measure it without a timer of the PC, and on AMD does not read it from CPUID.
/// - `lpj=`, how long a delay loop is. Linux 6.1 measures it anew on the first CPU of each package against the
///   tick, and gets it badly wrong where a vCPU is not always running. It counts in ticks, of which a distribution's
///   kernel makes [`TICKS_PER_SECOND`]; a kernel with more of them would only delay for longer than it meant to.
///
/// Of its CPUs, where it has several hosts:
///
/// - `nohz_full=`, all but the first: a CPU that runs one task does not tick. Each tick reads and writes what the other
///   CPUs' ticks do, 250 times a second: jiffies, the timekeeper, load averages.
pub fn compose(user: &str, guest: &Guest) -> String {
    let names: Vec<&str> = words(user).iter().map(|word| name(word)).collect();
    let given = |parameter: &str, others: &[&str]| {
        names.iter().any(|given| *given == name(parameter) || others.contains(given))
    };
    let tsc_khz = guest.tsc_khz;
    let mut more = vec![
        format!("tsc_early_khz={tsc_khz}"),
        format!("lpj={}", u64::from(tsc_khz) * 1000 / TICKS_PER_SECOND),
    ];
    if guest.hosts > 1 && guest.vcpus > 1 {
        more.push(format!("nohz_full=1-{}", guest.vcpus - 1));
    }
    let ours = OURS.iter().copied().chain(more.iter().map(|word| (word.as_str(), &[][..])));
    let mut line: Vec<&str> = ours
        .filter(|(parameter, others)| !given(parameter, others))
        .map(|(parameter, _)| parameter)
        .collect();
    line.extend((!user.trim().is_empty()).then(|| user.trim()));
    line.join(" ")
}

/// Checks that a kernel which takes `max` bytes takes `line`.
pub(super) fn check(line: &str, max: usize) -> Result<(), BootError> {
    if let Some(at) = line.bytes().position(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
        return Err(BootError::CmdlineBytes(at));
    }
    if line.len() > max {
        return Err(BootError::CmdlineTooLong { bytes: line.len(), max });
    }
    Ok(())
}

/// What stands before the first `=`. Linux takes `-` and `_` for the same, but spells the ones above in one way.
fn name(word: &str) -> &str {
    word.split('=').next().unwrap_or(word).trim_matches('"')
}

/// The kernel's parameters in `line`: split at white space outside double quotes, up to `--`, behind which are
/// arguments for init.
fn words(line: &str) -> Vec<&str> {
    let mut quoted = false;
    line.split(|c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
    .take_while(|word| *word != "--")
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(tsc_khz: u32) -> Guest {
        Guest { tsc_khz, vcpus: 1, hosts: 1 }
    }

    #[test]
    fn ours_come_first_and_the_users_last() {
        let line = compose("root=/dev/vda quiet", &guest(2_596_148));
        assert!(
            line.starts_with("console=ttyS0 clocksource=tsc tsc=reliable no-kvmclock nowatchdog"),
            "{line}"
        );
        assert!(line.ends_with(" tsc_early_khz=2596148 lpj=10384592 root=/dev/vda quiet"), "{line}");
        assert!(!compose("", &guest(1)).ends_with(' '));
    }

    #[test]
    fn what_the_user_gives_is_not_given_twice() {
        let line = compose("console=ttyS1,115200 idle=poll nowatchdog tsc_early_khz=5 kaslr", &guest(7));
        assert_eq!(line.matches("console=").count(), 1, "{line}");
        assert!(!line.contains("idle=halt") && !line.contains("tsc_early_khz=7"), "{line}");
        assert_eq!(line.matches("nowatchdog").count(), 1);
        assert!(!line.contains("nokaslr"), "{line}");
    }

    #[test]
    fn only_kernel_parameters_count_as_given() {
        let line = compose("foo=\"a idle=poll b\" -- console=tty0 panic=1", &guest(7));
        assert!(line.contains("idle=halt"), "a quoted value is no parameter: {line}");
        assert!(line.contains("console=ttyS0") && line.contains("panic=-1"), "arguments of init: {line}");
    }

    #[test]
    fn cpus_tick_only_when_they_must_if_there_are_several_hosts() {
        let line = |vcpus, hosts| compose("", &Guest { tsc_khz: 1, vcpus, hosts });
        assert!(line(4, 2).contains("nohz_full=1-3"), "{}", line(4, 2));
        assert!(!line(4, 1).contains("nohz_full") && !line(1, 2).contains("nohz_full"));
        assert!(!compose("nohz_full=2", &Guest { tsc_khz: 1, vcpus: 4, hosts: 2 }).contains("1-3"));
    }

    #[test]
    fn lines_that_a_kernel_would_cut_are_refused() {
        assert!(check(&"x".repeat(10), 10).is_ok());
        assert!(matches!(check(&"x".repeat(11), 10), Err(BootError::CmdlineTooLong { bytes: 11, max: 10 })));
        assert!(matches!(check("a\0b", 10), Err(BootError::CmdlineBytes(1))));
        assert!(matches!(check("a\nb", 10), Err(BootError::CmdlineBytes(1))));
    }
}
