//! `cargo xtask bench async-faults`: how long vCPUs stand still for pages, and how much gets done, when the guest is told that
//! a page is not there, and when its vCPU waits. Both in one run, guests in turn on the same hosts.

mod figures;

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::cluster::{Cluster, ClusterSpec, Kind};
use crate::guest::{self, Follower, GuestSpec, OnReset, Word};
use crate::kernels::Series;
use crate::lab::LabSpec;
use crate::progress::Step;
use crate::tessera::{Control, NodeStats};
use crate::{images, setup, sizes};
use figures::{Run, Setting, Summary};

/// Options of `cargo xtask bench async-faults`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench async-faults --rounds 3 --seconds 10\n\n\
    Kinds: `add`, all CPUs write the same pages; `read`, all read what nobody writes; `feed`, one writes, the others read; \
    each with a thread on every CPU that only computes. `mgs` is the demo's computation, one thread on each CPU.")]
pub struct Args {
    /// How many hosts, each with one vCPU.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=4))]
    hosts: u8,
    /// How often each setting is run.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long each kind runs, in seconds on the wall.
    #[arg(long, default_value_t = 8, value_name = "S", value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Shared memory of each kind, in KiB.
    #[arg(long, default_value_t = 1024, value_name = "KIB")]
    kib: u32,
    /// Size of the matrix of `mgs`; 0 leaves it out.
    #[arg(long, default_value_t = 512, value_name = "N")]
    matrix: u32,
    /// Memory of the guest.
    #[arg(long, default_value = "384M", value_name = "SIZE", value_parser = sizes::parse_mib)]
    memory: u64,
    /// Kernel of the guest.
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Series,
    /// Which kind of hosts.
    #[arg(long, value_enum, default_value = "auto")]
    lab: Kind,
    /// Most seconds for a guest.
    #[arg(long, default_value_t = 300, value_name = "S")]
    timeout: u64,
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When a guest cannot be started or finds something wrong, or took no asynchronous fault where it was offered them.
pub fn main(options: &Args) -> Result<i32> {
    setup::ensure()?;
    let files = images::guest_files(&[options.kernel])?;
    let hosts = usize::from(options.hosts);
    let lab = LabSpec { hosts, memory_mib: options.memory + LabSpec::HOST_OWN_MIB, ..LabSpec::default() };
    let cluster = Cluster::start(ClusterSpec { kind: options.lab, lab, files: files.files() })?;
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for setting in Setting::BOTH {
            let step = Step::start(format!("round {round}, {}", setting.words()));
            runs.push(one(options, &cluster, setting)?);
            step.done("done");
        }
    }
    let summary = Summary::of(&runs, cluster.kind(), hosts);
    eprintln!("{}", summary.table());
    println!("{}", serde_json::to_string(&summary)?);
    ensure!(summary.async_faults() > 0, "the guests that were offered asynchronous faults took none");
    Ok(0)
}

/// The programs of a guest, as its command line has them.
fn orders(options: &Args, slow_clock: u32) -> Vec<String> {
    let seconds = f64::from(options.seconds) / f64::from(slow_clock);
    let overlap = |kind: &&str| format!("overlap:kind={kind}:kib={}:seconds={seconds}", options.kib);
    let mut orders: Vec<String> = ["add", "read", "feed"].iter().map(overlap).collect();
    if options.matrix > 0 {
        orders.push(format!("mgs:m={0}:n={0}", options.matrix));
    }
    orders
}

fn one(options: &Args, cluster: &Cluster, setting: Setting) -> Result<Run> {
    let orders = orders(options, cluster.slow_clock());
    let spec = GuestSpec {
        name: "bench-async".to_owned(),
        hosts: usize::from(options.hosts),
        vcpus: options.hosts.into(),
        vcpus_per_host: Vec::new(),
        memory_mib: options.memory,
        kernel: images::kernel_name(options.kernel),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: format!("console=ttyS0 maxcpus=1 tessera.run={}", orders.join(",")),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: setting.options(),
        limit: Duration::from_secs(options.timeout),
    };
    let mut snapshots =
        Snapshots { control: cluster.control(&spec.name), due: orders.len(), taken: Vec::new() };
    let outcome = guest::run(cluster, &spec, &mut snapshots)?;
    outcome.check()?;
    let mut taken = snapshots.taken.into_iter().collect::<Result<Vec<_>>>()?;
    let report = outcome.report.as_ref().context("the launcher wrote no report")?;
    taken.push(report.nodes().to_vec());
    Run::of(setting, &outcome, &taken, cluster.slow_clock())
}

/// Takes the nodes' figures when the guest is up and after each program but the last, whose are in the report.
struct Snapshots {
    control: Control,
    due: usize,
    taken: Vec<Result<Vec<NodeStats>>>,
}

impl Follower for Snapshots {
    fn word(&mut self, word: &Word) {
        if matches!(word, Word::Ready(_) | Word::Result(_)) && self.taken.len() < self.due {
            self.taken.push(self.control.node_stats());
        }
    }
}
