//! Three hosts: one NUMA node each with CPUs and memory, and the results of one host.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::hosts::GUEST_MIB;
use super::{guest_on_two, BOOT_LIMIT, STEP_LIMIT};
use crate::cluster::Cluster;
use crate::guest::{self, GuestSpec, Outcome};
use crate::mover::{Begin, Mover, Plan};

const HOSTS: usize = 3;
/// What a guest's kernel keeps for itself before it counts its memory, in MiB.
const KERNELS_OWN_MIB: u64 = 96;

/// Runs the scenario.
///
/// # Errors
/// What does not hold.
pub fn run(cluster: &Cluster) -> Result<()> {
    let one = run_on(cluster, 1)?;
    let all = run_on(cluster, HOSTS)?;
    let ready = all.ready.as_ref().context("the guest never said that it is up")?;
    ensure!(ready["nproc"] == HOSTS, "not {HOSTS} CPUs: {ready}");
    let numa = ready["numa"].as_array().context("no NUMA nodes")?;
    ensure!(numa.len() == HOSTS, "not one NUMA node for each host: {ready}");
    for (number, node) in numa.iter().enumerate() {
        let memory_kib = node["mem_kib"].as_u64().unwrap_or(0);
        ensure!(
            node["node"] == number && node["cpus"].as_str() == Some(&number.to_string()) && memory_kib > 0,
            "NUMA node {number} has no CPU or no memory of its own: {node}"
        );
    }
    ensure!(results(&one) == results(&all), "results differ: {:?} and {:?}", one.results, all.results);
    Ok(())
}

fn run_on(cluster: &Cluster, hosts: usize) -> Result<Outcome> {
    let memory = GUEST_MIB - KERNELS_OWN_MIB;
    let work = format!("numa:nodes={hosts}:cpus={HOSTS}:mb={memory},counter:rounds=300,mgs:m=600:n=24");
    let spec = GuestSpec {
        hosts,
        vcpus: HOSTS as u32,
        limit: BOOT_LIMIT + STEP_LIMIT,
        ..guest_on_two("three", GUEST_MIB, &format!("quiet maxcpus=1 tessera.run={work}"))
    };
    let plan = Plan { hosts, round: 1, every: Duration::from_secs(2), most: 3, begin: Begin::WhenUp };
    let mut mover = Mover::new(cluster.control(&spec.name), plan, work.split(',').count());
    let outcome = guest::run(cluster, &spec, &mut mover)?;
    let moves = mover.finish();
    outcome.check().with_context(|| format!("over {hosts} hosts"))?;
    ensure!(moves.errors.is_empty(), "moves failed: {}", moves.errors.join("\n"));
    println!(
        "three CPUs over {hosts} hosts: boot {:.1} s, work {:.1} s, {} moves",
        outcome.boot.unwrap_or_default().as_secs_f64(),
        outcome.workload.unwrap_or_default().as_secs_f64(),
        moves.blackout_us.len()
    );
    Ok(outcome)
}

/// What must not depend on the hosts: what was computed.
fn results(outcome: &Outcome) -> Vec<(&Value, &Value)> {
    outcome.results.iter().map(|result| (&result["program"], &result["checksum"])).collect()
}
