//! What the rounds come to, beside the floor and the targets.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::runs::{Private, Round, Seen, FAULTS, READERS};
use super::times::{hundredths, median, Times};
use crate::bench::table::Table;

/// What a fault must cost: the parts that nothing can do without.
#[derive(Debug, Serialize)]
struct Floor {
    /// A page filled on the same node while a vCPU waits.
    fill: Times,
    /// 64 bytes there and a page back, over bare TCP.
    tcp: Times,
    /// The sum of the two medians.
    sum_us: f64,
}

/// A kind of fault beside the floor.
#[derive(Debug, Serialize)]
struct Fault {
    guest: Times,
    node: Times,
    p50_to_floor: f64,
    p99_to_floor: f64,
}

#[derive(Debug, Serialize)]
struct Scan {
    mib: u64,
    mib_per_s: f64,
    tcp_mib_per_s: f64,
    to_tcp: f64,
}

/// Private memory in a guest of two nodes beside the same guest on one, where nothing is tracked.
#[derive(Debug, Serialize)]
struct PrivateMemory {
    access_ns: f64,
    access_one_node_ns: f64,
    /// How fast it is, beside one node: 1 is as fast.
    speed: f64,
    touch_ns: f64,
    touch_one_node_ns: f64,
}

#[derive(Debug, Serialize)]
struct Rate {
    vcpus: u32,
    faults_per_s: f64,
}

/// What is wanted.
#[derive(Debug, Serialize)]
struct Target {
    what: &'static str,
    wanted: f64,
    seen: f64,
    reached: bool,
}

impl Target {
    fn at_most(what: &'static str, wanted: f64, seen: f64) -> Self {
        Self { what, wanted, seen, reached: seen <= wanted }
    }

    fn at_least(what: &'static str, wanted: f64, seen: f64) -> Self {
        Self { what, wanted, seen, reached: seen >= wanted }
    }
}

/// What the rounds came to, as a part of the last line.
#[derive(Debug, Serialize)]
pub struct Summary {
    rounds: usize,
    floor: Floor,
    faults: BTreeMap<&'static str, Fault>,
    scan: Scan,
    private: PrivateMemory,
    rates: Vec<Rate>,
    targets: Vec<Target>,
}

impl Summary {
    /// Each figure is the median of the rounds.
    pub fn of(scan_mib: u64, rounds: &[Round]) -> Self {
        let of = |pick: &dyn Fn(&Round) -> f64| hundredths(median(rounds.iter().map(pick)));
        let times =
            |pick: &dyn Fn(&Round) -> Times| Times::median(&rounds.iter().map(pick).collect::<Vec<Times>>());
        let (fill, tcp) = (times(&|round| round.fill), times(&|round| round.tcp));
        let sum_us = hundredths(fill.p50_us + tcp.p50_us);
        let fault = |index: usize| {
            let seen = |round: &Round| round.faults.get(index).copied().unwrap_or_default();
            let guest = times(&|round| Seen::guest(&seen(round)));
            let node = times(&|round| Seen::node(&seen(round)));
            let to_floor = |us: f64| ratio(us, sum_us);
            let (p50_to_floor, p99_to_floor) = (to_floor(guest.p50_us), to_floor(guest.p99_us));
            Fault { guest, node, p50_to_floor, p99_to_floor }
        };
        let faults = FAULTS.iter().enumerate().map(|(index, kind)| (kind.key, fault(index))).collect();
        let (mib_per_s, tcp_mib_per_s) =
            (of(&|round| round.scan_mib_per_s), of(&|round| round.tcp_mib_per_s));
        let to_tcp =
            hundredths(median(rounds.iter().map(|round| round.scan_mib_per_s / round.tcp_mib_per_s)));
        let rate = |(index, vcpus): (usize, u32)| Rate {
            vcpus,
            faults_per_s: of(&|round| round.faults_per_s.get(index).copied().unwrap_or(0.0)),
        };
        let mut summary = Summary {
            rounds: rounds.len(),
            floor: Floor { fill, tcp, sum_us },
            faults,
            scan: Scan { mib: scan_mib, mib_per_s, tcp_mib_per_s, to_tcp },
            private: PrivateMemory::of(rounds),
            rates: READERS.into_iter().enumerate().map(rate).collect(),
            targets: Vec::new(),
        };
        summary.targets = summary.targets();
        summary
    }

    fn targets(&self) -> Vec<Target> {
        let p50 = |key| self.faults.get(key).map_or(0.0, |fault: &Fault| fault.guest.p50_us);
        let read = |pick: fn(&Fault) -> f64| self.faults.get("read").map_or(f64::INFINITY, pick);
        vec![
            Target::at_most("remote read, p50 to the floor", 1.25, read(|fault| fault.p50_to_floor)),
            Target::at_most("remote read, p99 to the floor", 3.0, read(|fault| fault.p99_to_floor)),
            Target::at_most("upgrade, 7 other copies to 1", 1.3, ratio(p50("upgrade_7"), p50("upgrade_1"))),
            // With one copy at the home there is one hop less; seven have to be elsewhere, too.
            Target::at_most(
                "upgrade, 7 other copies to 1 that is not at the home",
                1.3,
                ratio(p50("upgrade_7"), p50("upgrade_1_apart")),
            ),
            Target::at_least("scan to bare TCP", 0.8, self.scan.to_tcp),
            Target::at_least("private memory to one node", 0.98, self.private.speed),
        ]
    }
}

impl Seen {
    fn guest(&self) -> Times {
        self.guest
    }

    fn node(&self) -> Times {
        self.node
    }
}

impl PrivateMemory {
    fn of(rounds: &[Round]) -> Self {
        let of = |pick: fn(&[Private; 2]) -> f64| rounds.iter().map(move |round| pick(&round.private));
        // Accesses depend on nothing but the processor: the fastest pass is the one that was let alone.
        let two = of(|[two, _]| two.access_ns).fold(f64::INFINITY, f64::min);
        let one = of(|[_, one]| one.access_ns).fold(f64::INFINITY, f64::min);
        Self {
            access_ns: hundredths(two),
            access_one_node_ns: hundredths(one),
            speed: (one / two * 1000.0).round() / 1000.0,
            touch_ns: hundredths(median(of(|[two, _]| two.touch_ns))),
            touch_one_node_ns: hundredths(median(of(|[_, one]| one.touch_ns))),
        }
    }
}

fn ratio(value: f64, base: f64) -> f64 {
    hundredths(if base > 0.0 { value / base } else { 0.0 })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pages of other nodes, {} rounds; times in us\n", self.rounds)?;
        let row = |about: &str, times: &Times| -> Vec<String> {
            let times = [times.p50_us, times.p99_us, times.mean_us];
            std::iter::once(about.to_owned()).chain(times.map(|us| format!("{us:.1}"))).collect()
        };
        let Floor { fill, tcp, sum_us } = &self.floor;
        let mut table =
            Table::new(&["", "p50", "p99", "mean", "p50/floor", "p99/floor", "node's p50", "p99", "mean"]);
        table.row(row("page filled on the same node", fill));
        table.row(row("64 B and a page over TCP", tcp));
        table.row(["floor: the sum".to_owned(), format!("{sum_us:.1}")]);
        for (kind, fault) in FAULTS.iter().filter_map(|kind| Some((kind, self.faults.get(kind.key)?))) {
            let mut cells = row(kind.about, &fault.guest);
            cells.extend([fault.p50_to_floor, fault.p99_to_floor].map(|ratio| format!("{ratio:.2}")));
            cells.extend(row("", &fault.node).into_iter().skip(1));
            table.row(cells);
        }
        writeln!(f, "{table}")?;
        let Scan { mib, mib_per_s, tcp_mib_per_s, to_tcp } = self.scan;
        writeln!(
            f,
            "scan of {mib} MiB: {mib_per_s:.0} MiB/s; bare TCP {tcp_mib_per_s:.0} MiB/s ({to_tcp:.2})"
        )?;
        let PrivateMemory { access_ns, access_one_node_ns, speed, touch_ns, touch_one_node_ns } =
            self.private;
        writeln!(
            f,
            "private memory: {access_ns:.1} ns an access, on one node {access_one_node_ns:.1} (speed {speed:.3}); \
             first touch {touch_ns:.0} ns, on one node {touch_one_node_ns:.0}"
        )?;
        for Rate { vcpus, faults_per_s } in &self.rates {
            writeln!(f, "{vcpus} vCPUs at once: {faults_per_s:.0} read faults a second")?;
        }
        let mut table = Table::new(&["", "wanted", "seen", ""]);
        for Target { what, wanted, seen, reached } in &self.targets {
            let verdict = if *reached { "reached" } else { "MISSED" };
            table.row([(*what).to_owned(), format!("{wanted:.2}"), format!("{seen:.2}"), verdict.to_owned()]);
        }
        write!(f, "\n{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(p50_us: f64) -> Times {
        Times { count: 10, p50_us, p99_us: 2.0 * p50_us, mean_us: p50_us }
    }

    fn round(factor: f64) -> Round {
        Round {
            fill: times(30.0 * factor),
            tcp: times(10.0 * factor),
            faults: vec![Seen { guest: times(50.0 * factor), node: times(40.0 * factor) }; FAULTS.len()],
            scan_mib_per_s: 900.0,
            tcp_mib_per_s: 1000.0,
            private: [
                Private { touch_ns: 1000.0, access_ns: 103.0 },
                Private { touch_ns: 900.0, access_ns: 100.0 },
            ],
            faults_per_s: vec![1e4, 2e4, 3e4, 3e4],
        }
    }

    #[test]
    fn the_last_line_has_the_promised_keys() {
        let json = serde_json::to_value(Summary::of(64, &[round(1.0)])).unwrap();
        for key in ["fill", "tcp"] {
            for figure in ["count", "p50_us", "p99_us", "mean_us"] {
                assert!(json["floor"][key][figure].is_number(), "{key} {figure}: {json}");
            }
        }
        assert_eq!(json["floor"]["sum_us"], 40.0);
        let promised = ["read", "write", "read_three_party", "write_three_party", "ping_pong"];
        let upgrades = ["upgrade_1", "upgrade_1_apart", "upgrade_2", "upgrade_3", "upgrade_7"];
        let shared =
            ["read_shared", "write_shared", "ping_pong_shared", "upgrade_1_shared", "upgrade_7_shared"];
        for key in promised.into_iter().chain(upgrades).chain(shared) {
            let fault = &json["faults"][key];
            assert_eq!(
                (&fault["p50_to_floor"], &fault["p99_to_floor"]),
                (&1.25.into(), &2.5.into()),
                "{key}"
            );
            for side in ["guest", "node"] {
                assert!(fault[side]["p50_us"].is_number(), "{key} {side}: {json}");
            }
        }
        for key in ["mib", "mib_per_s", "tcp_mib_per_s", "to_tcp"] {
            assert!(json["scan"][key].is_number(), "{key}: {json}");
        }
        for key in ["access_ns", "access_one_node_ns", "speed", "touch_ns", "touch_one_node_ns"] {
            assert!(json["private"][key].is_number(), "{key}: {json}");
        }
        let rates = json["rates"].as_array().unwrap();
        assert_eq!(
            rates.iter().map(|rate| rate["vcpus"].as_u64()).collect::<Vec<_>>(),
            READERS.map(|n| Some(n.into()))
        );
        assert_eq!(json["targets"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn targets_are_judged_by_medians_over_the_rounds() {
        let summary = Summary::of(64, &[round(1.0), round(9.0), round(1.0)]);
        let reached: Vec<bool> = summary.targets.iter().map(|target| target.reached).collect();
        assert_eq!(reached, [true, true, true, true, true, false], "{:?}", summary.targets);
        assert!((summary.private.speed - 0.971).abs() < 1e-9);
        let text = summary.to_string();
        assert!(text.contains("private memory to one node") && text.contains("MISSED"), "{text}");
    }
}
