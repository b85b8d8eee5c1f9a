//! `cargo xtask bench stock-moves`: how long a vCPU of a stock Linux guest stands still when it moves.

use std::time::Duration;

use anyhow::{ensure, Result};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterSpec, Kind};
use crate::demo::spread::Percentiles;
use crate::guest::{self, GuestSpec, OnReset};
use crate::kernels::Series;
use crate::lab::LabSpec;
use crate::mover::{Begin, Mover, Plan};
use crate::progress::Step;
use crate::{images, setup, sizes};

/// Options of `cargo xtask bench stock-moves`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask bench stock-moves --moves 200 --workload mgs")]
pub struct Args {
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=8))]
    hosts: u8,
    /// Virtual CPUs of the guest.
    #[arg(long, default_value_t = 2, value_name = "N")]
    vcpus: u32,
    /// Memory of the guest.
    #[arg(long, default_value = "512M", value_name = "SIZE", value_parser = sizes::parse_mib)]
    memory: u64,
    /// How many moves, if the guest works long enough.
    #[arg(long, default_value_t = 100, value_name = "N")]
    moves: u64,
    /// The least time between the starts of two moves, in milliseconds.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    every: u64,
    /// What the guest does meanwhile.
    #[arg(long, default_value = "mgs", value_name = "NAMES")]
    workload: String,
    /// Kernel of the guest.
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Series,
    /// Which kind of hosts.
    #[arg(long, value_enum, default_value = "auto")]
    lab: Kind,
    /// Most seconds for the run.
    #[arg(long, default_value_t = 900, value_name = "S")]
    timeout: u64,
}

/// The last line.
#[derive(Serialize)]
struct Line {
    hosts: u8,
    vcpus: u32,
    memory_mib: u64,
    lab: &'static str,
    moves: usize,
    move_errors: usize,
    blackout_us: Percentiles,
    state_bytes: Percentiles,
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When the guest cannot be started or does not come to a good end, or no vCPU moved.
pub fn main(options: &Args) -> Result<i32> {
    setup::ensure()?;
    let guest_files = images::guest_files(&[options.kernel])?;
    let hosts = usize::from(options.hosts);
    let lab = LabSpec { hosts, memory_mib: options.memory + LabSpec::HOST_OWN_MIB, ..LabSpec::default() };
    let cluster = Cluster::start(ClusterSpec { kind: options.lab, lab, files: guest_files.files() })?;
    let spec = GuestSpec {
        name: "bench-moves".to_owned(),
        hosts,
        vcpus: options.vcpus,
        vcpus_per_host: Vec::new(),
        memory_mib: options.memory,
        kernel: images::kernel_name(options.kernel),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: format!("console=ttyS0 tessera.run={}", options.workload),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: Vec::new(),
        limit: Duration::from_secs(options.timeout),
    };
    let step = Step::start(format!("moving vCPUs between {hosts} hosts"));
    let plan = Plan {
        round: 1,
        hosts,
        every: Duration::from_millis(options.every),
        most: options.moves,
        begin: Begin::WhenUp,
    };
    let mut mover = Mover::new(cluster.control(&spec.name), plan, options.workload.split(',').count());
    let outcome = guest::run(&cluster, &spec, &mut mover)?;
    let moves = mover.finish();
    outcome.check()?;
    step.done(&format!("{} moves", moves.blackout_us.len()));
    for error in moves.errors.iter().take(5) {
        eprintln!("a move failed: {error}");
    }
    ensure!(!moves.blackout_us.is_empty(), "no vCPU moved; the guest worked for {:?}", outcome.workload);
    let line = Line {
        hosts: options.hosts,
        vcpus: options.vcpus,
        memory_mib: options.memory,
        lab: cluster.kind(),
        moves: moves.blackout_us.len(),
        move_errors: moves.errors.len(),
        blackout_us: Percentiles::of(&moves.blackout_us),
        state_bytes: Percentiles::of(&moves.bytes),
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(i32::from(!moves.errors.is_empty()))
}
