//! The lane that checks the lab itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::Counts;
use crate::lab::{Lab, LabSpec};
use crate::setup;

/// A slow machine is no failure; a hang is.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// One named check.
struct Check<'a> {
    name: String,
    run: Box<dyn Fn() -> Result<()> + 'a>,
}

/// Checks what Tessera needs of the lab's hosts.
///
/// # Errors
/// When the lab cannot be started.
pub fn lab() -> Result<Counts> {
    setup::ensure()?;
    let lab = Lab::start(&LabSpec { hosts: 3, memory_mib: 512, ..LabSpec::default() })?;
    let shell = |line: &str, wanted: &str| {
        for host in lab.hosts() {
            let said = host.remote().shell(line, COMMAND_LIMIT).with_context(|| host.console_tail())?;
            ensure!(
                said.trim() == wanted,
                "{line} on host {}: {said:?}, not {wanted:?}",
                host.index().number()
            );
        }
        Ok(())
    };
    let checks = [
        check("every host has KVM and userfaultfd", || shell("ls /dev/kvm /dev/userfaultfd | wc -l", "2")),
        check("nested paging is off", || shell("cat /sys/module/kvm_amd/parameters/npt", "N")),
        check("the time-stamp counter is the clock", || {
            shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc")
        }),
        check("all hosts have the same time-stamp counter frequency", || same_frequency(&lab)),
        check("every host reaches every other one, with big packets", || everyone_reaches_everyone(&lab)),
        check("no host has a way beyond the lab", || shell("ip route | grep -c default || true", "0")),
        check("bytes and exit status come through unchanged", || bytes_come_through(&lab)),
        check("files come through unchanged", || files_come_through(&lab)),
    ];
    Ok(run_all(&checks))
}

fn check<'a>(name: &str, run: impl Fn() -> Result<()> + 'a) -> Check<'a> {
    Check { name: name.to_owned(), run: Box::new(run) }
}

fn run_all(checks: &[Check]) -> Counts {
    let mut counts = Counts::default();
    for check in checks {
        match (check.run)() {
            Ok(()) => {
                counts.passed += 1;
                println!("ok: {}", check.name);
            }
            Err(error) => {
                counts.failed += 1;
                println!("FAILED: {}: {error:#}", check.name);
            }
        }
    }
    counts
}

fn same_frequency(lab: &Lab) -> Result<()> {
    let mut seen = Vec::new();
    for host in lab.hosts() {
        // What the clock source's limits come from is the frequency, after any refinement.
        let line = r"dmesg | sed -n 's/.*clocksource: tsc: .*max_cycles: \(0x[0-9a-f]*\).*/\1/p'";
        seen.push(
            host.remote()
                .shell(line, COMMAND_LIMIT)?
                .split_whitespace()
                .last()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    ensure!(
        !seen[0].is_empty() && seen.iter().all(|frequency| *frequency == seen[0]),
        "cycles before the clock must be read: {seen:?}"
    );
    Ok(())
}

fn everyone_reaches_everyone(lab: &Lab) -> Result<()> {
    for from in lab.hosts() {
        for to in lab.hosts().iter().filter(|to| to.index() != from.index()) {
            let address: Ipv4Addr = *to.index().node_address().ip();
            from.remote().shell(&format!("ping -q -c 3 -W 10 -s 8000 {address}"), COMMAND_LIMIT)?;
        }
    }
    Ok(())
}

fn bytes_come_through(lab: &Lab) -> Result<()> {
    let said = lab.first().remote().run(
        &["sh", "-c", "printf 'a\\000b\\377\\r\\n'; printf 'err' >&2; exit 42"].map(str::to_owned),
        COMMAND_LIMIT,
    )?;
    ensure!(said.status == 42, "status {}", said.status);
    ensure!(said.out.starts_with("a\0b") && said.out.ends_with("\r\n") && said.err == "err", "{said:?}");
    Ok(())
}

fn files_come_through(lab: &Lab) -> Result<()> {
    let path = std::env::current_exe()?;
    let remote = lab.first().remote();
    remote.put(&path, "/tmp/file", 0o755)?;
    let here = crate::shell::output(std::process::Command::new("sha256sum").arg(&path))?;
    let there = remote.shell("sha256sum /tmp/file", COMMAND_LIMIT)?;
    let sum = |text: &str| text.split_whitespace().next().map(str::to_owned);
    ensure!(sum(&here).is_some() && sum(&here) == sum(&there), "{here} here, {there} there");
    Ok(())
}
