//! What the demo shows: a table for people, and a line of JSON for programs.

use anyhow::Result;
use serde::Serialize;

use super::run::Summary;
use super::spread::Percentiles;
use crate::guest::Outcome;
use crate::tessera::FaultStats;

/// The last line of the demo.
#[derive(Debug, Serialize)]
struct Line {
    hosts: usize,
    vcpus: u32,
    lab: &'static str,
    boot_s: Option<f64>,
    boot_one_host_s: Option<f64>,
    workload_s: Option<f64>,
    workload_one_host_s: Option<f64>,
    moves: usize,
    move_errors: usize,
    move_blackout_us: Percentiles,
    remote_faults: u64,
    remote_fault_us: FaultTimes,
    bytes_between_hosts: u64,
    resident_mib: Vec<u64>,
    result_ok: bool,
    guest_log_problems: Option<u64>,
}

/// How long pages took to come, over all nodes and kinds of faults.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct FaultTimes {
    /// The median of the kind in which the middle fault lies.
    p50: u64,
    /// The greatest 99th percentile of any kind on any node: all faults together are not above it more often.
    p99: u64,
}

impl FaultTimes {
    fn of(faults: &[FaultStats]) -> Self {
        let mut kinds: Vec<_> = faults.iter().map(|fault| fault.latency).collect();
        kinds.sort_by_key(|latency| latency.p50_us);
        let half = kinds.iter().map(|latency| latency.count).sum::<u64>().div_ceil(2);
        let mut before = 0;
        let middle = kinds.iter().find(|latency| {
            before += latency.count;
            before >= half
        });
        Self {
            p50: middle.map_or(0, |latency| latency.p50_us),
            p99: kinds.iter().map(|latency| latency.p99_us).max().unwrap_or(0),
        }
    }
}

/// Prints both.
///
/// # Errors
/// When the JSON cannot be written.
pub fn print(summary: &Summary) -> Result<()> {
    let line = line(summary);
    print_table(summary, &line);
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

fn line(summary: &Summary) -> Line {
    let seconds =
        |time: Option<std::time::Duration>| time.map(|time| (time.as_secs_f64() * 1000.0).round() / 1000.0);
    let one = summary.one.as_ref().unwrap_or(&summary.all);
    let faults: Vec<FaultStats> =
        summary.nodes().iter().flat_map(|node| node.remote_faults().cloned()).collect();
    Line {
        hosts: summary.hosts,
        vcpus: summary.vcpus,
        lab: summary.kind,
        boot_s: seconds(summary.all.boot),
        boot_one_host_s: seconds(one.boot),
        workload_s: seconds(summary.all.workload),
        workload_one_host_s: seconds(one.workload),
        moves: summary.moves.blackout_us.len(),
        move_errors: summary.moves.errors.len(),
        move_blackout_us: summary.blackout_us(),
        remote_faults: faults.iter().map(|fault| fault.latency.count).sum(),
        remote_fault_us: FaultTimes::of(&faults),
        bytes_between_hosts: summary.nodes().iter().map(|node| node.traffic.bytes_out).sum(),
        resident_mib: summary.nodes().iter().map(|node| node.memory.resident_bytes >> 20).collect(),
        result_ok: summary.results_equal,
        guest_log_problems: summary.log_problems(),
    }
}

fn print_table(summary: &Summary, line: &Line) {
    let time = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s"));
    println!();
    println!("{:<34}{:>16}{:>24}", "", "one host", format!("{} hosts", line.hosts));
    row("boot to userspace", &time(line.boot_one_host_s), &time(line.boot_s));
    row("workload", &time(line.workload_one_host_s), &time(line.workload_s));
    row("vCPU moves while it works", "-", &line.moves.to_string());
    row("  failed", "-", &line.move_errors.to_string());
    let blackout = line.move_blackout_us;
    row(
        "  blackout p50 / p99 / max, us",
        "-",
        &format!("{} / {} / {}", blackout.p50, blackout.p99, blackout.max),
    );
    row("page faults between hosts", "-", &line.remote_faults.to_string());
    row("  p50 / p99, us", "-", &format!("{} / {}", line.remote_fault_us.p50, line.remote_fault_us.p99));
    for (number, node) in summary.nodes().iter().enumerate() {
        for fault in node.remote_faults() {
            let FaultStats { kind, latency } = fault;
            let times = format!("{} / {}", latency.p50_us, latency.p99_us);
            row(&format!("  host {}: {} {kind}", number + 1, latency.count), "-", &times);
        }
    }
    row(
        "sent between hosts",
        "-",
        &format!("{:.1} MiB", line.bytes_between_hosts as f64 / f64::from(1 << 20)),
    );
    let resident = line.resident_mib.iter().map(u64::to_string).collect::<Vec<_>>().join(" + ");
    row("memory in use, MiB", "-", &resident);
    row("results", "", if line.result_ok { "equal" } else { "DIFFERENT" });
    let problems = line.guest_log_problems.map_or("?".to_owned(), |count| count.to_string());
    row("trouble in the guest's log, lines", "", &problems);
    println!();
    for error in summary.moves.errors.iter().take(5) {
        println!("a move failed: {error}");
    }
    if !line.result_ok {
        let show = |outcome: &Outcome| outcome.results.iter().map(|r| format!("  {r}\n")).collect::<String>();
        println!("over one host:\n{}", summary.one.as_ref().map_or(String::new(), show));
        println!("over {} hosts:\n{}", line.hosts, show(&summary.all));
    }
}

fn row(name: &str, one: &str, all: &str) {
    println!("{name:<34}{one:>16}{all:>24}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tessera::Spread;

    fn fault(count: u64, p50_us: u64, p99_us: u64) -> FaultStats {
        FaultStats { kind: "read".into(), latency: Spread { count, p50_us, p99_us, ..Spread::default() } }
    }

    #[test]
    fn the_middle_fault_decides_the_median() {
        assert_eq!(FaultTimes::of(&[]), FaultTimes::default());
        let times = FaultTimes::of(&[fault(10, 100, 150), fault(90, 20, 50)]);
        assert_eq!(times, FaultTimes { p50: 20, p99: 150 });
    }
}
