//! `cargo xtask bench dsm`: what a page of another node costs, beside what it must cost.
//!
//! Guests are bare-metal payloads over node processes on this machine, joined over loopback. One round measures everything
//! once; figures are medians over the rounds, so that a disturbance of one round does not move them.

mod figures;
mod runs;
mod tcp;
mod times;

use anyhow::{ensure, Result};

use self::figures::Summary;
use self::runs::Runs;
use super::payload::available_mib;
use crate::progress::Step;
use crate::sizes;

/// What nodes, guests and this machine need beside the scanned memory, in MiB.
const ROOM_MIB: u64 = 2048;

/// Options of `cargo xtask bench dsm`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench dsm\n  cargo xtask bench dsm --rounds 1 --scan 64M --json"
)]
pub struct Args {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Memory that is scanned.
    #[arg(long, default_value = "1G", value_name = "SIZE", value_parser = sizes::parse_mib)]
    scan: u64,
    /// Only the JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When there is too little memory, or a guest does not come to a good end.
pub fn main(options: &Args) -> Result<i32> {
    let available = available_mib()?;
    let needed = 2 * options.scan + ROOM_MIB;
    ensure!(
        needed <= available,
        "a scan of {} MiB needs {needed} MiB, for the owner's pages and the copies, and {available} MiB are available: \
         give a smaller --scan",
        options.scan
    );
    let runs = Runs::start(options.scan)?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let step = Step::start(format!("round {number} of {}", options.rounds));
        rounds.push(runs.round(|what| step.note(what))?);
        step.done("measured");
    }
    let summary = Summary::of(options.scan, &rounds);
    if !options.json {
        println!("\n{summary}");
    }
    println!("{}", serde_json::to_string(&summary)?);
    Ok(0)
}
