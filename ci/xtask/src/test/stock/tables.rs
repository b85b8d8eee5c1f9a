//! Page tables that several hosts change and read. A KVM that shadows them must be made to forget a table that leaves;
//! the same test must fail where it is not, or it would prove nothing.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::hosts::PAYLOAD;
use super::{json, STEP_LIMIT};
use crate::cluster::Cluster;
use crate::dialogue::{Dialogue, Ending};

/// Rewrites of table entries.
const ROUNDS: u64 = 200;
/// How long the guest without an eraser gets: with one it needs a few seconds.
const WRONG_LIMIT: Duration = Duration::from_secs(60);
/// The port of daemons that make guests without an eraser.
const OTHER_PORT: u16 = 7072;
/// How often a daemon that has just been started is asked whether it is there.
const TRIES_MAX: u32 = 300;
/// The exit status of a payload that found something wrong.
const WRONG_STATUS: i32 = 21;

/// Runs the scenario.
///
/// # Errors
/// What does not hold.
pub fn run(cluster: &Cluster) -> Result<()> {
    let (stale, ending) = tablepage(cluster, &cluster.addresses()[..2], STEP_LIMIT)?;
    println!("with the eraser: {stale} of {ROUNDS} reads through a stale entry");
    ensure!(stale == 0 && ending.status == 0, "stale entries: {stale}, status {}", ending.status);
    // Nodes on this machine use its processor's own nested paging: there is nothing to forget.
    if cluster.kind() != "nested" {
        return Ok(());
    }
    // With stale entries anything may happen: not to come to an end is as wrong as to count them.
    match tablepage(cluster, &other_daemons(cluster)?, WRONG_LIMIT) {
        Ok((stale, ending)) => {
            println!("without it: {stale} of {ROUNDS}");
            ensure!(
                stale > 0 && ending.status == WRONG_STATUS,
                "no stale entry without the eraser: this test proves nothing (status {})",
                ending.status
            );
        }
        Err(error) => println!("without it: {}", error.to_string().lines().next().unwrap_or_default()),
    }
    for place in 0..2 {
        cluster.shell(place, "kill $(cat /tmp/other.pid)")?;
    }
    Ok(())
}

/// Runs the payload over these hosts; gives how many stale entries it met, and how it ended.
fn tablepage(cluster: &Cluster, hosts: &[String], limit: Duration) -> Result<(u64, Ending)> {
    let (kernel, hosts) = (cluster.file(PAYLOAD)?, hosts.join(","));
    let cmdline = format!("test=tablepage rounds={ROUNDS}");
    let words = ["run", "--name", "tables", "--hosts", &hosts, "--kernel", &kernel, "--cmdline", &cmdline];
    let more = ["--cpus", "boot=2", "--memory", "size=64M", "--lease-us", "300"];
    let arguments: Vec<String> = words.iter().chain(&more).map(|word| (*word).to_owned()).collect();
    let mut guest = Dialogue::over(cluster, "tables", cluster.launch(&arguments)?)?;
    let result = json(&guest.expect_line("TESSERA-RESULT ", limit)?)?;
    ensure!(result["strange"] == 0, "reads that lead nowhere: {result}");
    let stale = result["stale"].as_u64().with_context(|| format!("no count in {result}"))?;
    Ok((stale, guest.end(limit)?))
}

/// Starts daemons whose guests have no eraser; their addresses.
fn other_daemons(cluster: &Cluster) -> Result<Vec<String>> {
    let mut addresses = Vec::new();
    for (place, address) in cluster.addresses().iter().take(2).enumerate() {
        let (host, _) = address.rsplit_once(':').context("an address without a port")?;
        let address = format!("{host}:{OTHER_PORT}");
        // What a command leaves behind in its own process group is killed when it ends: only a daemon that answers has
        // surely left the group.
        let script = format!(
            "TESSERA_TEST_WITHOUT_ERASER=1 setsid tessera node --listen 0.0.0.0:{OTHER_PORT} --public \
             </dev/null >/tmp/other.log 2>&1 & echo $! >/tmp/other.pid
             for try in $(seq {TRIES_MAX}); do tessera list --host {address} && exit 0; sleep 0.1; done
             cat /tmp/other.log; exit 1"
        );
        cluster.shell(place, &script).with_context(|| format!("no daemon on {address}"))?;
        addresses.push(address);
    }
    Ok(addresses)
}
