//! `cargo xtask bench moves`: how long a vCPU stands still when it moves, over the size of the guest's memory.
//!
//! The guest is the bare-metal payload, over two nodes on this machine. It fills its memory first, then its CPUs keep
//! random values in all their registers and check them while they are moved to and fro. Sizes are measured in rounds, one
//! after the other in each round, so that whatever else the machine does hits all of them alike.

mod figures;

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use self::figures::{Round, Summary};
use super::payload::{available_mib, Bench, Run};
use crate::demo::spread::Percentiles;
use crate::guest::Outcome;
use crate::mover::{Begin, Mover, Plan};
use crate::progress::Step;
use crate::sizes;

/// Nodes of the guest.
const NODES: usize = 2;
/// What a guest needs beside its memory, and what the machine is left with, in MiB.
const ROOM_MIB: u64 = 1024;

/// Options of `cargo xtask bench moves`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask bench moves\n  \
    cargo xtask bench moves --sizes 64M,1G --rounds 2 --json")]
pub struct Args {
    /// Memories of the guest.
    #[arg(long, default_value = "64M,256M,1G,2G,4G,8G", value_name = "SIZES", value_delimiter = ',', value_parser = sizes::parse_mib)]
    sizes: Vec<u64>,
    /// How often each size has its turn.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// For how long vCPUs move in each turn, in seconds.
    #[arg(long, default_value_t = 4, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Virtual CPUs of the guest; all of them move.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    vcpus: u32,
    /// Only the JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Carries out the verb; gives the exit status: 0 if every move succeeded.
///
/// # Errors
/// When there is too little memory, a guest does not start or end, or no vCPU moved.
pub fn main(options: &Args) -> Result<i32> {
    let largest = options.sizes.iter().copied().max().context("no sizes are given")?;
    let available = available_mib()?;
    ensure!(
        largest + ROOM_MIB <= available,
        "a guest of {largest} MiB that uses all of its memory needs {ROOM_MIB} MiB more than that, and {available} MiB are \
         available: give smaller --sizes"
    );
    let bench = Bench::start(NODES)?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        for &memory_mib in &options.sizes {
            let step = Step::start(format!("round {number} of {}, {memory_mib} MiB", options.rounds));
            let round = measure(&bench, options, memory_mib)?;
            step.done(&format!(
                "{} moves, median {} us",
                round.blackout_us.len(),
                Percentiles::of(&round.blackout_us).p50
            ));
            rounds.push(round);
        }
    }
    let summary = Summary::of(NODES, options.vcpus, &options.sizes, &rounds);
    if !options.json {
        println!("\n{summary}");
    }
    println!("{}", serde_json::to_string(&summary)?);
    Ok(i32::from(summary.errors() > 0))
}

/// One guest of this size, from its start to its end.
fn measure(bench: &Bench, options: &Args, memory_mib: u64) -> Result<Round> {
    let run = Run {
        name: "bench-moves".to_owned(),
        vcpus_per_node: vec![options.vcpus / 2 + options.vcpus % 2, options.vcpus / 2],
        memory_mib,
        cmdline: format!("test=bench_fill,move_bench seconds={}", options.seconds),
    };
    let plan =
        Plan { hosts: NODES, round: 1, every: Duration::ZERO, most: u64::MAX, begin: Begin::AtFirstResult };
    let mut mover = Mover::new(bench.cluster.control(&run.name), plan, 2);
    let outcome = bench.run(&run, &mut mover)?;
    let moves = mover.finish();
    for error in moves.errors.iter().take(5) {
        eprintln!("a move failed: {error}");
    }
    ensure!(!moves.blackout_us.is_empty(), "no vCPU moved in {} s", options.seconds);
    let (left, messages, resident_bytes) = sums(&outcome)?;
    Ok(Round {
        memory_mib,
        blackout_us: moves.blackout_us,
        bytes: moves.bytes,
        errors: moves.errors.len() as u64,
        left,
        messages,
        resident_mib: resident_bytes >> 20,
    })
}

/// Over all nodes: vCPUs that left, messages about moves, bytes of memory in use.
fn sums(outcome: &Outcome) -> Result<(u64, u64, u64)> {
    let report = outcome.report.as_ref().context("the launcher has written no report")?;
    let sum = report.nodes().iter().fold((0, 0, 0), |(left, messages, bytes), node| {
        (left + node.moves.left, messages + node.moves.messages_sent, bytes + node.memory.resident_bytes)
    });
    Ok(sum)
}
