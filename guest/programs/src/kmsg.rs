//! The kernel's own opinion: its log, searched for what a healthy machine does not say.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Bytes of the longest record that the kernel gives at once.
const RECORD_BYTES: usize = 8192;
/// Records read at most: the log's buffer holds fewer.
const RECORDS: usize = 1 << 16;

/// What makes a line a problem.
const SIGNS: &[&str] = &[
    "lockup",
    "LOCKUP",
    "stall",
    "starved for",
    "hung_task",
    "blocked for more than",
    "WARNING:",
    "BUG:",
    "BUG at",
    "Oops",
    "Call Trace",
    "general protection",
    "segfault at",
    "nobody cared",
    "No irq handler",
    "APIC error",
    "unchecked MSR access",
    "Machine check",
    "Hardware Error",
    "unstable",
    "skewed",
    "TSC warp",
    "not responding",
    "do_boot_cpu failed",
    "CPUs stuck",
    "failed to come online",
    "didn't stop",
    "NMI watchdog",
    "NMI received for unknown reason",
    "clock skew",
    "long sleep interval",
    "interrupt took too long",
    "Kernel panic",
    "Out of memory",
    "Bad page",
    "corrupt",
    "inconsistent",
    "timekeeping: Marking",
];

/// What is said on healthy machines too, although it contains a sign.
const HARMLESS: &[&str] = &[
    "NMI watchdog: Enabled",
    "NMI watchdog: Perf NMI watchdog permanently disabled",
    "Spectre V2 : WARNING: Unprivileged eBPF",
    "Scanning for low memory corruption",
    "Command line:",
    "Kernel command line:",
];

/// Whether a log line tells of a problem.
pub fn is_problem(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign)) && !HARMLESS.iter().any(|harmless| line.contains(harmless))
}

/// The text of a record of /dev/kmsg: `priority,sequence,time,flags;text\n`, continued by lines that start
/// with a space.
fn text(record: &str) -> &str {
    record.split_once(';').map_or(record, |(_, text)| text.split('\n').next().unwrap_or(text))
}

/// All problems in the kernel's log since it started. A log that cannot be read is itself a problem.
pub fn problems() -> Vec<String> {
    let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") {
        Ok(file) => file,
        Err(error) => return vec![format!("/dev/kmsg cannot be opened: {error}")],
    };
    let mut problems = vec![];
    let mut record = [0; RECORD_BYTES];
    for _ in 0..RECORDS {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let line = String::from_utf8_lossy(&record[..length]);
                if is_problem(text(&line)) {
                    problems.push(text(&line).to_owned());
                }
            }
            // EPIPE: records were overwritten before they were read; the next read goes on after them.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => {
                problems.push(format!("/dev/kmsg cannot be read: {error}"));
                break;
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_lose_their_heads_and_tails() {
        assert_eq!(
            text("4,12,345,-;rcu: INFO: rcu_sched detected stalls\n SUBSYSTEM=cpu\n"),
            "rcu: INFO: rcu_sched detected stalls"
        );
        assert_eq!(text("odd"), "odd");
    }

    #[test]
    fn what_kernels_say_in_trouble_is_a_problem() {
        for line in [
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [swapper/1:0]",
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable because the skew is too large:",
            "clocksource:                       'tsc' cs_nsec: 1 cs_now: 2 skewed 12 ns",
            "WARNING: CPU: 0 PID: 1 at kernel/smp.c:904",
            "INFO: task init:1 blocked for more than 120 seconds.",
            "check_tsc_sync_source failed: Measured 5 cycles TSC warp between CPUs",
            "smpboot: do_boot_cpu failed(-1) to wakeup CPU#2",
        ] {
            assert!(is_problem(line), "{line}");
        }
    }

    #[test]
    fn what_healthy_kernels_say_is_none() {
        for line in [
            "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
            "clocksource: tsc: mask: 0xffffffffffffffff max_cycles: 0x1, max_idle_ns: 5 ns",
            "Kernel command line: nowatchdog panic=-1 x=unstable",
            "smp: Brought up 2 nodes, 4 CPUs",
            "rcu: Hierarchical RCU implementation.",
        ] {
            assert!(!is_problem(line), "{line}");
        }
    }
}
