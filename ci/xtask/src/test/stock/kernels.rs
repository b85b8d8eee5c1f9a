//! A stock kernel over one host and over two, its vCPUs moving: the same results, bit for bit.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::hosts::GUEST_MIB;
use crate::cluster::Cluster;
use crate::demo::run::{run as run_both, Plan};
use crate::kernels::Series;

/// Runs the scenario with this kernel.
///
/// # Errors
/// What does not hold.
pub fn run(cluster: &Cluster, kernel: Series) -> Result<()> {
    let summary = run_both(
        cluster,
        &Plan {
            hosts: 2,
            vcpus: 2,
            memory_mib: GUEST_MIB,
            moves: 4,
            move_every: Duration::from_secs(3),
            workload: "counter:rounds=1000,clocks:seconds=1,mgs:m=2000:n=32".to_owned(),
            append: String::new(),
            kernel,
            limit: Duration::from_secs(600),
        },
    )?;
    ensure!(
        summary.results_equal,
        "results differ: {:?} and {:?}",
        summary.one.map(|one| one.results),
        summary.all.results
    );
    ensure!(summary.moves.errors.is_empty(), "moves failed: {}", summary.moves.errors.join("\n"));
    ensure!(!summary.moves.blackout_us.is_empty(), "no vCPU moved");
    let blackout = summary.blackout_us();
    println!(
        "kernel {}: {} moves, blackout p50 {} us, max {} us; boot {:.1} s, on one host {:.1} s",
        kernel.name(),
        summary.moves.blackout_us.len(),
        blackout.p50,
        blackout.max,
        summary.all.boot.unwrap_or_default().as_secs_f64(),
        summary.one.and_then(|one| one.boot).unwrap_or_default().as_secs_f64()
    );
    Ok(())
}
