//! Hosts that fail a guest, by processes that die or hang; and what must not disturb one.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::hosts::GUEST_MIB;
use super::lives::KERNEL_STARTS;
use super::{guest_on_two, BOOT_LIMIT};
use crate::cluster::Cluster;
use crate::dialogue::{Dialogue, Ending};

/// How long the end may take. It is to take 5 s at the most, which is printed; the hosts here are emulated on a busy
/// machine.
const LIMIT: Duration = Duration::from_secs(30);
/// The exit status when a node was lost.
const LOST_STATUS: i32 = 12;
/// The host whose worker suffers, counted from 0.
const VICTIM: usize = 1;

/// Kills the worker of the second host.
///
/// # Errors
/// When the guest does not end everywhere, or not with one line about it.
pub fn kill(cluster: &Cluster, guest: Dialogue) -> Result<()> {
    signal_worker(cluster, "KILL")?;
    lost(cluster, guest, "connection ")
}

/// A worker that hangs is lost as well; when it wakes, it knows.
///
/// # Errors
/// What does not hold.
pub fn hang(cluster: &Cluster) -> Result<()> {
    let spec = guest_on_two("hang", GUEST_MIB, "loglevel=6 maxcpus=1");
    let mut guest = Dialogue::start(cluster, &spec)?;
    guest.expect(KERNEL_STARTS, BOOT_LIMIT)?;
    let pid = signal_worker(cluster, "STOP")?;
    lost(cluster, guest, "nothing heard for 4 s")?;
    cluster.shell(VICTIM, &format!("kill -CONT {pid}"))?;
    Ok(())
}

/// What a guest must not notice: nonsense on a daemon's port, and a worker that pauses for a moment.
///
/// # Errors
/// When a host cannot do it.
pub fn disturb(cluster: &Cluster) -> Result<()> {
    let address = cluster.addresses()[VICTIM].clone();
    let (host, port) = address.rsplit_once(':').context("an address without a port")?;
    for nonsense in ["head -c 100000 /dev/urandom", "printf 'GET / HTTP/1.1\\r\\n\\r\\n'", "true"] {
        cluster
            .shell(0, &format!("{nonsense} | timeout 10 nc -w 3 {host} {port} >/dev/null 2>&1 || true"))?;
    }
    let pid = signal_worker(cluster, "STOP")?;
    std::thread::sleep(Duration::from_millis(1500));
    cluster.shell(VICTIM, &format!("kill -CONT {pid}"))?;
    Ok(())
}

/// Sends a signal to the only worker of the second host; gives its process id.
fn signal_worker(cluster: &Cluster, signal: &str) -> Result<u32> {
    let parts = cluster.control_at(VICTIM, "").parts()?;
    let worker = parts.first().with_context(|| format!("host {} has no worker", VICTIM + 1))?.pid;
    cluster.shell(VICTIM, &format!("kill -{signal} {worker}"))?;
    Ok(worker)
}

/// Checks that the guest ends with one line that names the node, how it was lost, and what that means.
fn lost(cluster: &Cluster, guest: Dialogue, how: &str) -> Result<()> {
    let began = Instant::now();
    let ending: Ending = guest.end(LIMIT)?;
    println!("a lost worker ended its guest within {:.1} s", began.elapsed().as_secs_f64());
    let begins = format!("tessera: node {} was lost ({how}", cluster.addresses()[VICTIM]);
    let right = matches!(ending.lines()[..], [line] if line.starts_with(&begins) && line.ends_with(": the guest is stopped"));
    ensure!(
        right && ending.status == LOST_STATUS,
        "not one line that begins with {begins:?} and status {LOST_STATUS}, but {}:\n{}",
        ending.status,
        ending.launcher_said
    );
    Ok(())
}
