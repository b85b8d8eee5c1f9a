//! A guest larger than any host: its memory spans them, and what moves away leaves.

use anyhow::{ensure, Result};

use super::{guest_on_two, json, BOOT_LIMIT, STEP_LIMIT};
use crate::cluster::Cluster;
use crate::dialogue::Dialogue;
use crate::tessera::{Control, NodeStats};

/// The guest's memory, in MiB: more than a host has free.
const GUEST_MIB: u64 = 640;
/// What it fills, in MiB, half of it on each host: more than a host has free.
const FILLED_MIB: u64 = 480;
/// What moves from the second host to the first, in MiB.
const PULLED_MIB: u64 = 24;
/// What else the guest's kernel touches, in MiB: itself, its page tables, its page structures, what it freed again.
const KERNELS_OWN_MIB: u64 = 128;
const PAGE_BYTES: u64 = 4096;
const PROMPT: &str = "tessera> ";

/// Runs the scenario.
///
/// # Errors
/// What does not hold.
pub fn run(cluster: &Cluster) -> Result<()> {
    let before = free_mib(cluster)?;
    println!("free on the hosts: {before:?} MiB; the guest has {GUEST_MIB} MiB and fills {FILLED_MIB}");
    ensure!(
        before.iter().all(|free| *free < FILLED_MIB),
        "the hosts are too large for this test: {before:?} MiB free"
    );
    let cmdline = "loglevel=4 maxcpus=1 tessera.end=shell";
    let mut guest = Dialogue::start(cluster, &guest_on_two("large", GUEST_MIB, cmdline))?;
    guest.expect(PROMPT, BOOT_LIMIT)?;
    let control = cluster.control("large");
    let empty = resident(&control)?;
    guest.say(&format!("run haul:mb={FILLED_MIB}:pull_mb={PULLED_MIB}\n"))?;
    guest.expect("TESSERA-PHASE filled", STEP_LIMIT)?;
    let filled = resident(&control)?;
    guest.say("\n")?;
    guest.expect("TESSERA-PHASE pulled", STEP_LIMIT)?;
    let pulled = resident(&control)?;
    guest.say("\n")?;
    let result = guest.expect_line("TESSERA-RESULT ", STEP_LIMIT)?;
    println!("resident on the hosts, MiB: {empty:?} after the boot, {filled:?} filled, {pulled:?} pulled; {result}");
    ensure!(json(&result)?["ok"] == true, "memory did not keep what was written: {result}");
    check(&filled, &pulled)?;
    let log = guest.ask("log", PROMPT, STEP_LIMIT)?;
    ensure!(log.trim().is_empty(), "the kernel's log tells of trouble:\n{log}");
    guest.say("poweroff\n")?;
    let ending = guest.end(STEP_LIMIT)?;
    ensure!(ending.status == 0, "status {}\n{}", ending.status, ending.launcher_said);
    Ok(())
}

/// Each host has its half; what moved away has left the one and is on the other.
fn check(filled: &[u64], pulled: &[u64]) -> Result<()> {
    let half = FILLED_MIB / 2;
    ensure!(filled.iter().all(|mib| *mib >= half), "not half of it on each host: {filled:?} MiB");
    let sum: u64 = filled.iter().sum();
    ensure!(sum <= FILLED_MIB + KERNELS_OWN_MIB, "{sum} MiB are resident for {FILLED_MIB} MiB");
    // A few pages may be shared by then, or still be on their way.
    let most = PULLED_MIB - PULLED_MIB / 8;
    ensure!(
        pulled[1] + most <= filled[1],
        "{PULLED_MIB} MiB moved away, and {} of {} MiB are still there",
        pulled[1],
        filled[1]
    );
    ensure!(
        pulled[0] >= filled[0] + most,
        "{PULLED_MIB} MiB came, but {} MiB became {}",
        filled[0],
        pulled[0]
    );
    Ok(())
}

/// Resident memory of each node in MiB, checked against what it says that it holds.
fn resident(control: &Control) -> Result<Vec<u64>> {
    let nodes: Vec<NodeStats> = control.node_stats()?;
    for (number, node) in nodes.iter().enumerate() {
        let memory = node.memory;
        let held = (memory.owned_pages + memory.copied_pages) * PAGE_BYTES;
        ensure!(memory.resident_bytes <= held, "node {number} has more in memory than it holds: {memory:?}");
    }
    Ok(nodes.iter().map(|node| node.memory.resident_bytes >> 20).collect())
}

/// Memory that a guest could have on each host, in MiB.
fn free_mib(cluster: &Cluster) -> Result<Vec<u64>> {
    let line = "sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo";
    (0..cluster.len()).map(|place| Ok(cluster.shell(place, line)?.trim().parse::<u64>()? >> 10)).collect()
}
