//! `cargo xtask soak programs`: real programs on a Debian disk, over several hosts, with moves all the time.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Kind;
use crate::image::Recipe;
use crate::{programs, sizes};

/// Options of `cargo xtask soak programs`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask soak programs --jobs pgbench,redis --scale 3\n\n\
    `cargo xtask image` lists the programs. The last line is one JSON object; the exit status is 0 only if every program \
    came to the same over one host and over all, no move failed and no kernel log told of trouble.")]
pub struct Args {
    /// Which programs, with commas between; all unless given.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    jobs: Vec<String>,
    /// How many times as long as usual they are.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// The least time between two rounds of moves, in milliseconds; 0: none moves.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    every: u64,
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=4))]
    hosts: u8,
    /// Virtual CPUs of the guests; as many as hosts unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: Option<u32>,
    /// Memory of the guests.
    #[arg(long, default_value = "640M", value_name = "SIZE", value_parser = sizes::parse_mib)]
    memory: u64,
    /// Which kind of hosts.
    #[arg(long, value_enum, default_value = "auto")]
    lab: Kind,
    /// Most seconds for each of the two guests.
    #[arg(long, default_value_t = 1800, value_name = "S")]
    timeout: u64,
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// As [`programs::run`].
pub fn main(options: &Args) -> Result<i32> {
    let recipe = Recipe::named("programs").context("there is no such image (a bug)")?;
    let jobs = match options.jobs.is_empty() {
        true => recipe.jobs.iter().map(|job| job.name.to_owned()).collect(),
        false => options.jobs.clone(),
    };
    let summary = programs::run(
        recipe,
        &programs::Plan {
            hosts: options.hosts.into(),
            vcpus: options.vcpus.unwrap_or_else(|| options.hosts.into()),
            memory_mib: options.memory,
            jobs,
            scale: options.scale,
            every: Duration::from_millis(options.every),
            limit: Duration::from_secs(options.timeout),
            kind: options.lab,
        },
    )?;
    println!("\n{summary}\n{}", serde_json::to_string(&summary)?);
    Ok(i32::from(!summary.is_good()))
}
