//! What came of programs over one host and over several: a table for people, JSON for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{Plan, Run};
use crate::bench::table::Table;
use crate::demo::spread::Percentiles;
use crate::guest::Outcome;
use crate::tessera::Report;

/// All figures.
#[derive(Debug, Serialize)]
pub struct Summary {
    hosts: usize,
    vcpus: u32,
    lab: &'static str,
    boot_s: f64,
    boot_one_host_s: f64,
    moves: usize,
    move_errors: usize,
    move_blackout_us: Percentiles,
    remote_faults: u64,
    bytes_between_hosts: u64,
    guest_log_problems: u64,
    programs: Vec<Program>,
}

/// One program in both guests.
#[derive(Debug, Serialize)]
struct Program {
    name: String,
    one_host_s: f64,
    hosts_s: f64,
    /// How many times as fast as on one host.
    speed: f64,
    /// Both runs found nothing wrong and came to the same.
    equal: bool,
    /// What it came to.
    checksum: Value,
}

impl Summary {
    /// The figures of both runs.
    pub fn of(plan: &Plan, lab: &'static str, one: &Run, all: &Run) -> Self {
        let pairs = one.outcome.results.iter().zip(&all.outcome.results);
        let times = one.took.iter().zip(&all.took);
        let programs = pairs.zip(times).map(|((first, second), (one, all))| Program {
            name: first["program"].as_str().unwrap_or_default().to_owned(),
            one_host_s: tenths(*one),
            hosts_s: tenths(*all),
            speed: (one.as_secs_f64() / all.as_secs_f64().max(0.001) * 100.0).round() / 100.0,
            equal: first["ok"] == true && second["ok"] == true && is_same(first, second),
            checksum: second["checksum"].clone(),
        });
        let nodes = all.outcome.report.as_ref().map_or(&[][..], Report::nodes);
        let faults = nodes.iter().flat_map(|node| node.remote_faults()).map(|fault| fault.latency.count);
        let boot = |outcome: &Outcome| outcome.boot.map_or(0.0, tenths);
        Self {
            hosts: plan.hosts,
            vcpus: plan.vcpus,
            lab,
            boot_s: boot(&all.outcome),
            boot_one_host_s: boot(&one.outcome),
            moves: all.moves.blackout_us.len(),
            move_errors: all.moves.errors.len(),
            move_blackout_us: Percentiles::of(&all.moves.blackout_us),
            remote_faults: faults.sum(),
            bytes_between_hosts: nodes.iter().map(|node| node.traffic.bytes_out).sum(),
            guest_log_problems: [one, all].iter().filter_map(|run| run.outcome.log_problems).sum(),
            programs: programs.collect(),
        }
    }

    /// Whether every program came to the same over several hosts, every move succeeded and the kernel saw no trouble.
    pub fn is_good(&self) -> bool {
        self.programs.iter().all(|program| program.equal)
            && self.move_errors == 0
            && self.guest_log_problems == 0
    }
}

/// Whether two results of a program say the same about what it computed; times and rates differ.
fn is_same(one: &Value, other: &Value) -> bool {
    one["program"] == other["program"] && one["checksum"] == other["checksum"]
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = format!("{} hosts", self.hosts);
        let mut table = Table::new(&["", "one host", &hosts, "speed", "result"]);
        let seconds = |seconds: f64| format!("{seconds:.1} s");
        table.row(["boot".to_owned(), seconds(self.boot_one_host_s), seconds(self.boot_s)]);
        for program in &self.programs {
            table.row([
                program.name.clone(),
                seconds(program.one_host_s),
                seconds(program.hosts_s),
                format!("{:.2}", program.speed),
                if program.equal { "equal" } else { "DIFFERENT" }.to_owned(),
            ]);
        }
        writeln!(f, "{table}")?;
        let Percentiles { p50, p99, max } = self.move_blackout_us;
        writeln!(
            f,
            "{} moves, {} failed, blackout p50 / p99 / max {p50} / {p99} / {max} us",
            self.moves, self.move_errors
        )?;
        writeln!(
            f,
            "{} page faults between hosts, {:.1} MiB sent; {} lines of trouble in the guests' logs",
            self.remote_faults,
            self.bytes_between_hosts as f64 / f64::from(1 << 20),
            self.guest_log_problems
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Kind;
    use serde_json::json;

    fn run(checksum: &str, ok: bool) -> Run {
        let result = json!({"program": "pgbench", "ok": ok, "checksum": checksum, "tps": 7.5});
        let outcome = Outcome { results: vec![result], log_problems: Some(0), ..Outcome::default() };
        Run { outcome, took: vec![Duration::from_secs(3)], moves: crate::mover::Moves::default() }
    }

    fn summary(one: &Run, all: &Run) -> Summary {
        let plan = Plan {
            hosts: 2,
            vcpus: 2,
            memory_mib: 512,
            jobs: vec!["pgbench".to_owned()],
            scale: 1,
            every: Duration::ZERO,
            limit: Duration::from_secs(1),
            kind: Kind::Auto,
        };
        Summary::of(&plan, "nested", one, all)
    }

    #[test]
    fn only_the_same_result_without_fault_is_good() {
        assert!(summary(&run("a", true), &run("a", true)).is_good());
        assert!(!summary(&run("a", true), &run("b", true)).is_good());
        assert!(!summary(&run("a", true), &run("a", false)).is_good());
        let mut trouble = run("a", true);
        trouble.outcome.log_problems = Some(1);
        assert!(!summary(&run("a", true), &trouble).is_good());
    }

    #[test]
    fn the_table_names_what_differs() {
        let text = summary(&run("a", true), &run("b", true)).to_string();
        assert!(text.contains("pgbench") && text.contains("DIFFERENT"), "{text}");
    }
}
