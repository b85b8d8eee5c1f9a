//! Bare-metal payloads over node processes on this machine, joined over loopback: what any KVM can measure.

use std::fs::{self, OpenOptions};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::builds;
use crate::cluster::Cluster;
use crate::guest::{self, Follower, GuestSpec, OnReset, Outcome};

/// Longer than any payload that is measured: a hang.
const LIMIT: Duration = Duration::from_secs(600);

/// One run of the payload.
pub struct Run {
    /// The guest's name.
    pub name: String,
    /// Its virtual CPUs on each node.
    pub vcpus_per_node: Vec<u32>,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// Which tests, and their words.
    pub cmdline: String,
}

/// Nodes, ready for payloads.
pub struct Bench {
    /// The nodes.
    pub cluster: Cluster,
}

impl Bench {
    /// Builds what is needed and starts this many nodes.
    ///
    /// # Errors
    /// Without a usable `/dev/kvm`, or when something does not build or come up.
    pub fn start(nodes: usize) -> Result<Self> {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        kvm.context("payloads need /dev/kvm, a software one will do")?;
        let payload = builds::payloads()?.join(builds::PAYLOAD);
        let files = vec![(builds::PAYLOAD.to_owned(), payload)];
        Ok(Self { cluster: Cluster::on_this_machine(nodes, files)? })
    }

    /// Runs the payload to its end, its nodes joined by TCP as if they were on several machines; all of its tests must pass.
    ///
    /// # Errors
    /// When it does not start, does not end in time, or fails.
    pub fn run(&self, run: &Run, follower: &mut dyn Follower) -> Result<Outcome> {
        self.run_over("tcp", run, follower)
    }

    /// The same with nodes joined as `tessera run --links` has it.
    ///
    /// # Errors
    /// As [`Bench::run`].
    pub fn run_over(&self, links: &str, run: &Run, follower: &mut dyn Follower) -> Result<Outcome> {
        self.run_with(&["--links", links], run, follower)
    }

    /// The same with these options of `tessera run`.
    ///
    /// # Errors
    /// As [`Bench::run`].
    pub fn run_with(&self, options: &[&str], run: &Run, follower: &mut dyn Follower) -> Result<Outcome> {
        let spec = GuestSpec {
            name: run.name.clone(),
            hosts: run.vcpus_per_node.len(),
            vcpus: run.vcpus_per_node.iter().sum(),
            vcpus_per_host: run.vcpus_per_node.clone(),
            memory_mib: run.memory_mib,
            kernel: builds::PAYLOAD.to_owned(),
            initramfs: None,
            cmdline: run.cmdline.clone(),
            on_reset: OnReset::Exit,
            lease_us: None,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            limit: LIMIT,
        };
        let outcome = guest::run(&self.cluster, &spec, follower)?;
        let passed = outcome.results.iter().all(|result| result["ok"] == true);
        ensure!(
            outcome.status == 0 && passed && !outcome.results.is_empty(),
            "the payload failed (status {}): {}\nend of its console:\n{}\nthe launcher said:\n{}",
            outcome.status,
            run.cmdline,
            outcome.console_tail,
            outcome.launcher_said
        );
        Ok(outcome)
    }
}

/// Memory that this machine can give without swapping, in MiB.
///
/// # Errors
/// When the kernel does not say.
pub fn available_mib() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    parse_available_mib(&info).context("/proc/meminfo has no MemAvailable")
}

fn parse_available_mib(info: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_the_kernels_table() {
        let info = "MemTotal:       24580 kB\nMemAvailable:   22528 kB\nBuffers: 1 kB\n";
        assert_eq!(parse_available_mib(info), Some(22));
        assert_eq!(parse_available_mib("MemTotal: 1 kB\n"), None);
        assert!(available_mib().unwrap() > 0);
    }
}
