//! The stock lane: stock Linux guests across hosts, in scenarios.

mod async_faults;
mod hosts;
mod kernels;
mod leftovers;
mod lives;
mod losses;
mod memory;
mod tables;
mod three_hosts;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::Counts;
use crate::cluster::Cluster;
use crate::guest::{GuestSpec, OnReset};
use crate::images;
use crate::kernels::Series;
use crate::setup;
use hosts::{Files, Hosts};
use leftovers::Before;

/// Names a part of the scenarios: only those whose names contain it run. For whoever works on one of them.
const ONLY: &str = "TESSERA_STOCK";

/// How long a guest may take to come up. A slow machine is no failure; a hang is.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long one step of a guest may take.
const STEP_LIMIT: Duration = Duration::from_secs(600);

/// One thing that must hold.
struct Scenario {
    name: &'static str,
    /// Which hosts it needs.
    hosts: Hosts,
    run: fn(&Cluster) -> Result<()>,
}

/// Those with the same hosts stand together: hosts are started anew only when others are needed.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kernel 6.1 over two hosts",
        hosts: Hosts::Pair,
        run: |hosts| kernels::run(hosts, Series::Bookworm),
    },
    Scenario {
        name: "kernel 6.12 over two hosts",
        hosts: Hosts::Pair,
        run: |hosts| kernels::run(hosts, Series::Backports),
    },
    Scenario {
        name: "page tables that several hosts change: right with the eraser, wrong without",
        hosts: Hosts::Pair,
        run: tables::run,
    },
    Scenario {
        name: "hotplug, console, reboot: over two hosts, undisturbed",
        hosts: Hosts::Pair,
        run: lives::hotplug_console_reboot,
    },
    Scenario {
        name: "a panic starts the guest anew, a killed worker ends it, on both hosts",
        hosts: Hosts::Pair,
        run: lives::panic_restart_kill,
    },
    Scenario {
        name: "a worker that hangs ends the guest on every host",
        hosts: Hosts::Pair,
        run: losses::hang,
    },
    Scenario {
        name: "asynchronous faults: vCPUs move, a worker is killed",
        hosts: Hosts::Pair,
        run: async_faults::run,
    },
    Scenario { name: "a guest larger than any host", hosts: Hosts::SmallPair, run: memory::run },
    Scenario { name: "three hosts, three NUMA nodes", hosts: Hosts::Trio, run: three_hosts::run },
];

/// Runs the lane.
///
/// # Errors
/// When the hosts cannot be started.
pub fn run() -> Result<Counts> {
    setup::ensure()?;
    let only = std::env::var(ONLY).unwrap_or_default();
    let files = Files::get()?;
    let mut counts = Counts::default();
    let mut running: Option<(Hosts, Cluster, Before)> = None;
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&only)) {
        let (cluster, before) = match running.take() {
            Some((hosts, cluster, before)) if hosts == scenario.hosts => (cluster, before),
            // There is one lab at a time: the old one must go first.
            other => {
                drop(other);
                let cluster = scenario.hosts.start(&files)?;
                let before = Before::look(&cluster)?;
                (cluster, before)
            }
        };
        let began = Instant::now();
        let done = (scenario.run)(&cluster).and_then(|()| before.compare(&cluster));
        let took = began.elapsed().as_secs_f64();
        match done {
            Ok(()) => {
                counts.passed += 1;
                println!("ok: {} ({took:.1} s)", scenario.name);
                running = Some((scenario.hosts, cluster, before));
            }
            // The next guest gets fresh hosts: this one may have left something behind.
            Err(error) => {
                counts.failed += 1;
                println!("FAILED: {} ({took:.1} s): {error:#}\n{}", scenario.name, cluster.last_words());
            }
        }
    }
    Ok(counts)
}

/// A stock guest over the first two hosts.
fn guest_on_two(name: &str, memory_mib: u64, cmdline: &str) -> GuestSpec {
    GuestSpec {
        name: name.to_owned(),
        hosts: 2,
        vcpus: 2,
        memory_mib,
        kernel: images::kernel_name(Series::Bookworm),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: cmdline.to_owned(),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: Vec::new(),
        vcpus_per_host: Vec::new(),
        limit: BOOT_LIMIT + STEP_LIMIT,
    }
}

/// The JSON in a line of the guest.
fn json(line: &str) -> Result<Value> {
    serde_json::from_str(line).map_err(|error| anyhow::anyhow!("not JSON: {line:?}: {error}"))
}
