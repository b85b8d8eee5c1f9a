//! `cargo xtask demo`: one stock Linux over one host, then over several, with vCPUs that move while it works.

mod report;
pub mod run;
pub mod spread;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, ClusterSpec, Kind};
use crate::kernels::Series;
use crate::lab::LabSpec;
use crate::{images, setup, sizes};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask demo\n  \
    cargo xtask demo --hosts 3 --vcpus 3 --memory 1536M --moves 30 | tail -n 1 | jq .\n\n\
    The last line is one JSON object with all figures; its exit status is 0 only if the results are equal bit for \
    bit, no move failed and the guest's kernel log tells of no trouble.")]
pub struct Args {
    /// How many hosts the guest spans.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=4))]
    hosts: u8,
    /// Virtual CPUs of the guest; as many as hosts unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: Option<u32>,
    /// Memory of the guest.
    #[arg(long, default_value = "1G", value_name = "SIZE", value_parser = sizes::parse_mib)]
    memory: u64,
    /// How many times a vCPU moves to another host while the guest works.
    #[arg(long, default_value_t = 2, value_name = "N")]
    moves: u64,
    /// The least time between two rounds of moves, in milliseconds; in a round every vCPU moves once, and their memory
    /// follows them.
    #[arg(long, default_value_t = 15_000, value_name = "MS")]
    move_every: u64,
    /// What the guest does: programs of its own, by name, with commas between.
    #[arg(long, default_value = "mgs:m=1664:n=1664:block=32:patience=2000", value_name = "NAMES")]
    workload: String,
    /// What else to put on the guest's kernel command line.
    #[arg(long, default_value = "", value_name = "STR")]
    append: String,
    /// Where to write all figures of the nodes, as JSON, at the end of the run over all hosts.
    #[arg(long, value_name = "FILE")]
    report: Option<std::path::PathBuf>,
    /// Kernel of the guest.
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Series,
    /// Which kind of hosts.
    #[arg(long, value_enum, default_value = "auto")]
    lab: Kind,
    /// Most seconds for each of the two runs.
    #[arg(long, default_value_t = 600, value_name = "S")]
    timeout: u64,
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When a guest cannot be started or does not come to its end.
pub fn main(options: &Args) -> Result<i32> {
    setup::ensure()?;
    let plan = run::Plan {
        hosts: options.hosts.into(),
        vcpus: options.vcpus.unwrap_or_else(|| options.hosts.into()),
        memory_mib: options.memory,
        moves: options.moves,
        move_every: Duration::from_millis(options.move_every),
        workload: options.workload.clone(),
        append: options.append.clone(),
        kernel: options.kernel,
        limit: Duration::from_secs(options.timeout),
    };
    let guest_files = images::guest_files(&[plan.kernel])?;
    let lab = LabSpec {
        hosts: plan.hosts,
        memory_mib: plan.memory_mib + LabSpec::HOST_OWN_MIB,
        ..LabSpec::default()
    };
    let cluster = Cluster::start(ClusterSpec { kind: options.lab, lab, files: guest_files.files() })?;
    let summary = run::run(&cluster, &plan)?;
    if let (Some(path), Some(report)) = (&options.report, &summary.all.report) {
        std::fs::write(path, &report.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    report::print(&summary)?;
    Ok(i32::from(!summary.is_good()))
}
