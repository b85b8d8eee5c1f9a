//! What is measured, one guest for each figure.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::tcp;
use super::times::Times;
use crate::bench::payload::{Bench, Run};
use crate::builds;
use crate::guest::{Follower, Outcome};
use crate::shell;

/// Samples of each kind of fault in each round.
const SAMPLES: u64 = 2048;
/// Round trips of bare TCP in each round.
const PINGS: usize = 5000;
/// Memory of the guests whose faults are measured, in MiB.
const MEMORY_MIB: u64 = 512;
/// Nodes of the guest with the most.
pub const NODES_MAX: usize = 8;
/// Numbers of vCPUs that fault at the same time.
pub const READERS: [u32; 4] = [1, 2, 4, 8];
/// What all upgrades are asked for by.
const UPGRADE: &str = "test=bench_fault kind=upgrade from=1";

/// A kind of fault that is measured.
pub struct Fault {
    /// Its name in the JSON.
    pub key: &'static str,
    /// Its name for people.
    pub about: &'static str,
    nodes: usize,
    words: &'static str,
    /// What the nodes are joined by, as `tessera run --links` has it.
    links: &'static str,
    /// The kind by which the node counts it.
    kind: &'static str,
}

/// All of them. Node 0 faults; memory is in as many shares as nodes, each at home on one, and a stripe is an eighth of it.
pub const FAULTS: &[Fault] = &[
    Fault {
        key: "read",
        about: "read, home and owner one node",
        nodes: 2,
        words: "test=bench_fault kind=read from=1 stripe=7",
        links: "tcp",
        kind: "read",
    },
    Fault {
        key: "write",
        about: "write, home and owner one node",
        nodes: 2,
        words: "test=bench_fault kind=write from=1 stripe=7",
        links: "tcp",
        kind: "write",
    },
    Fault {
        key: "read_three_party",
        about: "read, home and owner two nodes",
        nodes: 3,
        words: "test=bench_fault kind=read from=1 stripe=6",
        links: "tcp",
        kind: "read",
    },
    Fault {
        key: "write_three_party",
        about: "write, home and owner two nodes",
        nodes: 3,
        words: "test=bench_fault kind=write from=1 stripe=6",
        links: "tcp",
        kind: "write",
    },
    upgrade("upgrade_1", "upgrade, 1 other copy, at the home", "stripe=1 sharers=1", "tcp"),
    upgrade("upgrade_1_apart", "upgrade, 1 other copy, not at the home", "stripe=7 sharers=1", "tcp"),
    upgrade("upgrade_2", "upgrade, 2 other copies", "stripe=1 sharers=2", "tcp"),
    upgrade("upgrade_3", "upgrade, 3 other copies", "stripe=1 sharers=3", "tcp"),
    upgrade("upgrade_7", "upgrade, 7 other copies", "stripe=1 sharers=7", "tcp"),
    Fault {
        key: "ping_pong",
        about: "ping-pong, one way",
        nodes: 2,
        words: "test=bench_pingpong from=1 stripe=7",
        links: "tcp",
        kind: "read",
    },
    shared("read_shared", "read, over shared memory", "test=bench_fault kind=read from=1 stripe=7", "read"),
    shared(
        "write_shared",
        "write, over shared memory",
        "test=bench_fault kind=write from=1 stripe=7",
        "write",
    ),
    shared(
        "ping_pong_shared",
        "ping-pong, one way, over shared memory",
        "test=bench_pingpong from=1 stripe=7",
        "read",
    ),
    upgrade("upgrade_1_shared", "upgrade, 1 other copy, over shared memory", "stripe=1 sharers=1", "shared"),
    upgrade(
        "upgrade_7_shared",
        "upgrade, 7 other copies, over shared memory",
        "stripe=1 sharers=7",
        "shared",
    ),
];

const fn shared(key: &'static str, about: &'static str, words: &'static str, kind: &'static str) -> Fault {
    Fault { key, about, nodes: 2, words, links: "shared", kind }
}

const fn upgrade(key: &'static str, about: &'static str, words: &'static str, links: &'static str) -> Fault {
    Fault { key, about, nodes: NODES_MAX, words, links, kind: "upgrade" }
}

/// One kind of fault in one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// By the time-stamp counter of the vCPU that waits.
    pub guest: Times,
    /// By the pager of its node.
    pub node: Times,
}

/// Memory that one node uses alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Private {
    /// The first store to a page, on average, in nanoseconds.
    pub touch_ns: f64,
    /// A locked addition to a random word after that, in the fastest of many passes.
    pub access_ns: f64,
}

/// All figures of one round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// A page that is filled on the same node.
    pub fill: Times,
    /// A request and its answer of a page over bare TCP.
    pub tcp: Times,
    /// As [`FAULTS`].
    pub faults: Vec<Seen>,
    /// A scan of the other node's memory, in MiB a second.
    pub scan_mib_per_s: f64,
    /// As much through one TCP connection.
    pub tcp_mib_per_s: f64,
    /// Private memory in a guest of two nodes, and in the same guest on one.
    pub private: [Private; 2],
    /// Faults a second, as [`READERS`].
    pub faults_per_s: Vec<f64>,
}

/// Ready to measure.
pub struct Runs {
    bench: Bench,
    floor: PathBuf,
    payload: PathBuf,
    scan_mib: u64,
}

/// Nobody listens to these guests while they run.
struct Silent;
impl Follower for Silent {}

impl Runs {
    /// Builds what is needed and starts the nodes.
    ///
    /// # Errors
    /// When something does not build or come up.
    pub fn start(scan_mib: u64) -> Result<Self> {
        let floor = builds::static_programs(&[builds::FLOOR])?.remove(0);
        let bench = Bench::start(NODES_MAX)?;
        let payload = bench.cluster.file(builds::PAYLOAD)?.into();
        Ok(Self { bench, floor, payload, scan_mib })
    }

    /// Measures everything once; `tell` hears what comes next.
    ///
    /// # Errors
    /// When a guest does not come to a good end.
    pub fn round(&self, tell: impl Fn(&str)) -> Result<Round> {
        tell("the floor");
        let mut round =
            Round { fill: fill(&self.floor, &self.payload)?, tcp: tcp::ping(PINGS)?, ..Round::default() };
        for fault in FAULTS {
            tell(fault.about);
            round.faults.push(self.fault(fault).with_context(|| fault.about)?);
        }
        tell("scan");
        round.tcp_mib_per_s = tcp::stream_mib_per_s(self.scan_mib)?;
        round.scan_mib_per_s = self.scan()?;
        tell("private memory");
        round.private = [self.private(vec![1, 1])?, self.private(vec![2])?];
        for readers in READERS {
            tell(&format!("{readers} vCPUs that fault"));
            round.faults_per_s.push(self.rate(readers)?);
        }
        Ok(round)
    }

    fn run(&self, vcpus_per_node: Vec<u32>, memory_mib: u64, words: String) -> Result<(Value, Outcome)> {
        self.run_over("tcp", vcpus_per_node, memory_mib, words)
    }

    fn run_over(
        &self,
        links: &str,
        vcpus_per_node: Vec<u32>,
        memory_mib: u64,
        words: String,
    ) -> Result<(Value, Outcome)> {
        let run = Run { name: "bench-dsm".to_owned(), vcpus_per_node, memory_mib, cmdline: words };
        let mut outcome = self.bench.run_over(links, &run, &mut Silent)?;
        Ok((outcome.results.remove(0), outcome))
    }

    fn fault(&self, fault: &Fault) -> Result<Seen> {
        let words = match fault.kind {
            "upgrade" => format!("{UPGRADE} {} rounds={SAMPLES}", fault.words),
            _ => format!("{} rounds={SAMPLES}", fault.words),
        };
        let (result, outcome) = self.run_over(fault.links, vec![1; fault.nodes], MEMORY_MIB, words)?;
        let report = outcome.report.context("the launcher has written no report")?;
        let nodes = report.nodes();
        let counted = nodes[0].faults.iter().find(|counted| counted.kind == fault.kind);
        let node = counted.map_or_else(Times::default, |counted| Times::of_node(&counted.latency));
        let member = if result["access"].is_object() { "access" } else { "half" };
        let guest = Times::of_payload(&result[member])?;
        if member == "access" {
            // What was measured must be what it is called: the node has counted it so (but for those that
            // were asked for ahead, with their block), and the last node, home to the pages of three parties, has ordered each transfer.
            ensure!(
                node.count >= SAMPLES * 3 / 4,
                "node 0 has counted only {} {} faults",
                node.count,
                fault.kind
            );
            let home = nodes.last().map_or(0, |home| home.traffic.messages_out);
            ensure!(
                fault.nodes != 3 || home >= SAMPLES,
                "node 2 has sent only {home} messages: it is no home"
            );
        }
        Ok(Seen { guest, node })
    }

    fn scan(&self) -> Result<f64> {
        // The payload scans the last three of its memory's eight stripes.
        let memory_mib = self.scan_mib * 8 / 3 + 64;
        let (result, _) =
            self.run(vec![1, 1], memory_mib, format!("test=bench_scan mb={}", self.scan_mib))?;
        number(&result, "mib_per_s")
    }

    fn private(&self, vcpus_per_node: Vec<u32>) -> Result<Private> {
        let words = "test=bench_private mb=32 passes=400".to_owned();
        let (result, _) = self.run(vcpus_per_node, MEMORY_MIB, words)?;
        let ns = |name| number(&result, name).map(|ps| ps / 1000.0);
        Ok(Private { touch_ns: ns("touch_ps_per_page")?, access_ns: ns("fastest_ps")? })
    }

    fn rate(&self, readers: u32) -> Result<f64> {
        let words = format!("test=bench_rate readers={readers} rounds=1024");
        let (result, _) = self.run(vec![readers, 1], MEMORY_MIB, words)?;
        number(&result, "faults_per_s")
    }
}

/// A local fill: a vCPU whose pages a plain thread copies in.
fn fill(floor: &Path, payload: &Path) -> Result<Times> {
    let mut command = Command::new(floor);
    command.arg(payload).arg(MEMORY_MIB.to_string()).arg(format!("test=bench_touch rounds={SAMPLES}"));
    let said = shell::output(&mut command)?;
    let result = said.lines().find_map(|line| line.strip_prefix("TESSERA-RESULT ")).context("no result")?;
    Times::of_payload(&serde_json::from_str::<Value>(result)?["access"])
}

fn number(result: &Value, name: &str) -> Result<f64> {
    result[name].as_f64().with_context(|| format!("the payload's result has no {name}: {result}"))
}
