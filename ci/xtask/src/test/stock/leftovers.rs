//! What a guest must not leave behind on its hosts: a worker, its place in the daemon's list, memory.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::cluster::Cluster;

/// How long the hosts may take to clear up: a hang is a failure, a slow machine is not.
const LIMIT: Duration = Duration::from_secs(30);

/// By how much shared memory on a host may grow for what is not a guest's, in KiB: logs, reports. A guest takes far more.
const OWN_SHARED_KIB: u64 = 4 << 10;

/// Hosts as they were before any guest.
pub struct Before {
    shared_kib: Vec<u64>,
}

impl Before {
    /// Looks at hosts without guests.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn look(cluster: &Cluster) -> Result<Self> {
        let shared_kib = (0..cluster.len()).map(|place| shared_kib(cluster, place)).collect::<Result<_>>()?;
        Ok(Self { shared_kib })
    }

    /// Checks that no host has anything of a guest.
    ///
    /// # Errors
    /// What is left, and where.
    pub fn compare(&self, cluster: &Cluster) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        for place in 0..cluster.len() {
            loop {
                let left = self.left(cluster, place)?;
                if left.is_empty() {
                    break;
                }
                ensure!(Instant::now() < deadline, "left on host {}: {}", place + 1, left.join(", "));
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }

    fn left(&self, cluster: &Cluster, place: usize) -> Result<Vec<String>> {
        let listed = cluster.control_at(place, "").parts()?;
        let mut left: Vec<String> =
            listed.iter().map(|part| format!("guest {} in the list", part.name)).collect();
        // Other work may go on on this machine; a lab host is ours alone.
        if cluster.kind() == "nested" {
            let workers = cluster.shell(place, "ps -o pid,args | grep '[t]essera worker' || true")?;
            left.extend(workers.lines().map(|line| format!("process {}", line.trim())));
            let more_kib = shared_kib(cluster, place)?.saturating_sub(self.shared_kib[place]);
            if more_kib > OWN_SHARED_KIB {
                left.push(format!("{more_kib} KiB of shared memory"));
            }
        }
        Ok(left)
    }
}

/// Shared memory on a host, in KiB: memfds, and files without a disk.
fn shared_kib(cluster: &Cluster, place: usize) -> Result<u64> {
    let said = cluster.shell(place, "sed -n 's/^Shmem: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")?;
    said.trim().parse().with_context(|| format!("no number: {said:?}"))
}
