//! Guests that are told of pages that are not there, and run something else meanwhile.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::hosts::GUEST_MIB;
use super::{guest_on_two, losses, BOOT_LIMIT};
use crate::cluster::Cluster;
use crate::dialogue::Dialogue;
use crate::guest;
use crate::mover::{Begin, Mover, Plan};

/// Programs whose threads touch pages of other CPUs while others compute; a task that is not woken does not end.
const WORKLOAD: [&str; 3] =
    ["overlap:kind=add:kib=512:seconds=1", "overlap:kind=feed:kib=512:seconds=1", "counter:rounds=500"];

/// vCPUs move while tasks wait for pages, and every task is woken; then a worker is killed under such a guest, and its host
/// gets everything back.
///
/// # Errors
/// What does not hold.
pub fn run(cluster: &Cluster) -> Result<()> {
    moving(cluster)?;
    killed(cluster)
}

fn moving(cluster: &Cluster) -> Result<()> {
    let mut spec =
        guest_on_two("async", GUEST_MIB, &format!("quiet maxcpus=1 tessera.run={}", WORKLOAD.join(",")));
    spec.options = vec!["--async-faults".to_owned()];
    let plan = Plan { hosts: 2, round: 2, every: Duration::from_secs(1), most: 40, begin: Begin::WhenUp };
    let mut mover = Mover::new(cluster.control(&spec.name), plan, WORKLOAD.len());
    let outcome = guest::run(cluster, &spec, &mut mover)?;
    let moves = mover.finish();
    outcome.check()?;
    ensure!(moves.errors.is_empty(), "moves failed: {}", moves.errors.join("\n"));
    ensure!(!moves.blackout_us.is_empty(), "no vCPU moved");
    let nodes = outcome.report.as_ref().map_or(&[][..], |report| report.nodes());
    let faults: u64 = nodes.iter().map(|node| node.async_faults.faults).sum();
    ensure!(faults > 0, "the guest took no asynchronous fault");
    println!("{faults} asynchronous faults, {} moves", moves.blackout_us.len());
    Ok(())
}

/// KVM's threads wait for pages on behalf of a process that is no more.
fn killed(cluster: &Cluster) -> Result<()> {
    let workload = "quiet maxcpus=1 tessera.run=overlap:kind=add:kib=512:seconds=600";
    let mut spec = guest_on_two("killed", GUEST_MIB, workload);
    spec.options = vec!["--async-faults".to_owned()];
    let mut guest = Dialogue::start(cluster, &spec)?;
    guest.expect("TESSERA-READY", BOOT_LIMIT)?;
    std::thread::sleep(Duration::from_secs(5));
    losses::kill(cluster, guest)
}
