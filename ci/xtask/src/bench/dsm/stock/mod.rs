//! The boot of a stock guest over lab hosts: what travels, why, and which pages travel most.

mod naming;
mod report;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use self::naming::{Map, Name};
use crate::cluster::{Cluster, ClusterSpec, Kind};
use crate::dialogue::Dialogue;
use crate::guest::{GuestSpec, OnReset};
use crate::kernels::symbols::Symbols;
use crate::kernels::{Kernel, Series};
use crate::lab::LabSpec;
use crate::progress::Step;
use crate::tessera::{ArrivalStats, FaultStats, NodeStats};
use crate::{images, setup};

/// Over how many hosts the guest boots; the boot on one is what the others are compared with.
const HOSTS: [usize; 3] = [1, 2, 3];
/// The guest's memory, in MiB.
const MEMORY_MIB: u64 = 512;
/// How many pages are named.
const HOT_MAX: usize = 20;
/// What the guest's shell says when it listens.
const PROMPT: &str = "tessera> ";
/// A slow machine is no failure; a hang is.
const LIMIT: Duration = Duration::from_secs(600);

/// Faults of one kind on all nodes.
#[derive(Clone, Debug, Serialize)]
struct Faults {
    kind: String,
    count: u64,
    /// The worst of the nodes' medians, in microseconds.
    p50_us: u64,
    /// The worst of the nodes' 99th percentiles.
    p99_us: u64,
}

/// A page that faults often, and what it is.
#[derive(Clone, Debug, Serialize)]
struct HotPage {
    frame: u64,
    reads: u64,
    writes: u64,
    #[serde(flatten)]
    name: Name,
}

/// One boot.
#[derive(Clone, Debug, Serialize)]
struct Boot {
    hosts: usize,
    /// To the first word of the guest's first process, by the wall's clock.
    boot_s: f64,
    faults: Vec<Faults>,
    arrivals: Vec<ArrivalStats>,
    bytes_between_hosts: u64,
    messages: u64,
    hottest: Vec<HotPage>,
}

/// All boots.
#[derive(Debug, Serialize)]
pub struct Boots {
    lab: &'static str,
    kernel: String,
    boots: Vec<Boot>,
}

/// Boots a guest of this kernel over one, two and three hosts.
///
/// # Errors
/// When the lab or a guest does not come up, or a guest does not answer.
pub fn measure(kind: Kind, series: Series) -> Result<Boots> {
    setup::ensure()?;
    let files = images::guest_files(&[series])?;
    let kernel = Kernel::get(series)?;
    let image = kernel.unpacked()?;
    let image = std::fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let symbols = Symbols::read(&image)?;
    let hosts = HOSTS.into_iter().max().unwrap_or(1);
    let lab = LabSpec { hosts, memory_mib: MEMORY_MIB + LabSpec::HOST_OWN_MIB, ..LabSpec::default() };
    let cluster = Cluster::start(ClusterSpec { kind, lab, files: files.files() })?;
    let mut boots = Vec::new();
    for hosts in HOSTS {
        let step = Step::start(format!("boot over {hosts} host{}", if hosts == 1 { "" } else { "s" }));
        let boot = boot(&cluster, &symbols, series, hosts).with_context(|| format!("over {hosts} hosts"))?;
        step.done(&format!("{:.1} s", boot.boot_s));
        boots.push(boot);
    }
    Ok(Boots { lab: cluster.kind(), kernel: kernel.release, boots })
}

/// One guest with a vCPU on each host.
fn boot(cluster: &Cluster, symbols: &Symbols, series: Series, hosts: usize) -> Result<Boot> {
    let vcpus = hosts.max(2);
    let spec = GuestSpec {
        name: "bench-boot".to_owned(),
        hosts,
        vcpus: vcpus as u32,
        vcpus_per_host: Vec::new(),
        memory_mib: MEMORY_MIB,
        kernel: images::kernel_name(series),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: "quiet maxcpus=1 tessera.end=shell".to_owned(),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: Vec::new(),
        limit: LIMIT,
    };
    let start = Instant::now();
    let mut guest = Dialogue::start(cluster, &spec)?;
    guest.expect("TESSERA-READY ", LIMIT)?;
    let boot_s = (start.elapsed().as_secs_f64() * 100.0).round() / 100.0;
    let nodes = cluster.control(&spec.name).node_stats()?;
    guest.expect(PROMPT, LIMIT)?;
    let hottest = match hosts {
        1 => Vec::new(),
        _ => named(&mut guest, symbols, vcpus, hottest(&nodes))?,
    };
    guest.say("poweroff\n")?;
    let ending = guest.end(LIMIT)?;
    anyhow::ensure!(ending.status == 0, "status {}\n{}", ending.status, ending.launcher_said);
    Ok(Boot {
        hosts,
        boot_s,
        faults: faults(&nodes),
        arrivals: arrivals(&nodes),
        bytes_between_hosts: nodes.iter().map(|node| node.traffic.bytes_out).sum(),
        messages: nodes.iter().map(|node| node.traffic.messages_out).sum(),
        hottest,
    })
}

/// All nodes' faults of each kind.
fn faults(nodes: &[NodeStats]) -> Vec<Faults> {
    let mut sums: Vec<Faults> = Vec::new();
    for FaultStats { kind, latency } in nodes.iter().flat_map(|node| &node.faults) {
        if let Some(sum) = sums.iter_mut().find(|sum| sum.kind == *kind) {
            sum.count += latency.count;
            (sum.p50_us, sum.p99_us) = (sum.p50_us.max(latency.p50_us), sum.p99_us.max(latency.p99_us));
        } else {
            let (count, p50_us, p99_us) = (latency.count, latency.p50_us, latency.p99_us);
            sums.push(Faults { kind: kind.clone(), count, p50_us, p99_us });
        }
    }
    sums
}

/// All nodes' pages that came, by what they came for.
fn arrivals(nodes: &[NodeStats]) -> Vec<ArrivalStats> {
    let mut sums: Vec<ArrivalStats> = Vec::new();
    for arrived in nodes.iter().flat_map(|node| &node.arrivals) {
        match sums.iter_mut().find(|sum| sum.kind == arrived.kind) {
            Some(sum) => sum.add(arrived),
            None => sums.push(arrived.clone()),
        }
    }
    sums
}

/// The pages that fault most on all nodes together: frame, loads, stores. (Each node tells its own hottest; what is lukewarm on all of
/// them may be missing.)
fn hottest(nodes: &[NodeStats]) -> Vec<(u64, u64, u64)> {
    let mut pages: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for page in nodes.iter().flat_map(|node| &node.hottest) {
        let (reads, writes) = pages.entry(page.gfn).or_default();
        (*reads, *writes) = (*reads + page.reads, *writes + page.writes);
    }
    let mut pages: Vec<(u64, u64, u64)> =
        pages.into_iter().map(|(frame, (reads, writes))| (frame, reads, writes)).collect();
    pages.sort_by_key(|(frame, reads, writes)| (std::cmp::Reverse(reads + writes), *frame));
    pages.truncate(HOT_MAX);
    pages
}

fn named(
    guest: &mut Dialogue,
    symbols: &Symbols,
    vcpus: usize,
    hottest: Vec<(u64, u64, u64)>,
) -> Result<Vec<HotPage>> {
    let mut console = Console(guest);
    let map = Map::ask(symbols, &mut console, vcpus, MEMORY_MIB << 20)?;
    let frames: Vec<u64> = hottest.iter().map(|(frame, ..)| *frame).collect();
    let names = map.names(&mut console, &frames)?;
    let page = |((frame, reads, writes), name)| HotPage { frame, reads, writes, name };
    Ok(hottest.into_iter().zip(names).map(page).collect())
}

/// The guest's kernel, asked over its console.
struct Console<'a, 'b>(&'a mut Dialogue<'b>);

impl Console<'_, '_> {
    fn ask(&mut self, line: &str, count: usize) -> Result<Vec<u64>> {
        let answer = self.0.ask(line, PROMPT, LIMIT)?;
        let words: Option<Vec<u64>> =
            answer.split_whitespace().map(|word| u64::from_str_radix(word, 16).ok()).collect();
        let words = words.filter(|words| words.len() == count);
        words.with_context(|| format!("the guest answered {answer:?} to {line:?}"))
    }
}

impl naming::Kernel for Console<'_, '_> {
    fn words(&mut self, address: u64, count: usize) -> Result<Vec<u64>> {
        self.ask(&format!("words {address:x} {count}"), count)
    }

    fn flags(&mut self, frames: &[u64]) -> Result<Vec<u64>> {
        let numbers: Vec<String> = frames.iter().map(|frame| format!("{frame:x}")).collect();
        self.ask(&format!("frames {}", numbers.join(" ")), frames.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tessera::HotPage;

    fn node(pages: &[(u64, u64, u64)], read_us: u64) -> NodeStats {
        let hottest = pages.iter().map(|&(gfn, reads, writes)| HotPage { gfn, reads, writes }).collect();
        let latency = crate::tessera::Spread { count: 2, p50_us: read_us, p99_us: 9, ..Default::default() };
        let faults = vec![FaultStats { kind: "read".to_owned(), latency }];
        let arrivals = vec![ArrivalStats { kind: "read".to_owned(), pages: 2, zero_pages: 1, bytes: 8192 }];
        NodeStats { hottest, faults, arrivals, ..NodeStats::default() }
    }

    #[test]
    fn nodes_are_added_up() {
        let nodes = [node(&[(7, 1, 2), (8, 9, 0)], 5), node(&[(7, 10, 20)], 4)];
        assert_eq!(hottest(&nodes), [(7, 11, 22), (8, 9, 0)]);
        let faults = faults(&nodes);
        assert_eq!((faults[0].count, faults[0].p50_us, faults.len()), (4, 5, 1));
        let arrivals = arrivals(&nodes);
        assert_eq!((arrivals[0].pages, arrivals[0].zero_pages, arrivals[0].bytes), (4, 2, 16384));
    }

    #[test]
    fn no_more_pages_are_named_than_wanted() {
        let pages: Vec<(u64, u64, u64)> = (0..50).map(|gfn| (gfn, gfn, 0)).collect();
        let hottest = hottest(&[node(&pages, 1)]);
        assert_eq!((hottest.len(), hottest[0]), (HOT_MAX, (49, 49, 0)));
    }
}
