//! `cargo xtask soak stock`: guests over several hosts, one after another, their vCPUs moving all the time, until there
//! were so many moves. Every guest has hosts of its own, so that others get their turn with the lab in between.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{Cluster, ClusterSpec, Kind};
use crate::demo::spread::Percentiles;
use crate::guest::{self, GuestSpec, OnReset, Outcome};
use crate::images::GuestFiles;
use crate::kernels::Series;
use crate::lab::LabSpec;
use crate::mover::{Begin, Mover, Moves, Plan};
use crate::{images, setup, sizes};

/// A word on the way after so many moves.
const TELL_EVERY: NonZeroU64 = NonZeroU64::new(100).unwrap();

/// Options of `cargo xtask soak stock`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask soak stock --moves 1000\n\n\
    The last line is one JSON object; the exit status is 0 only if no move failed, every result was right and the same \
    as on one host, and no guest's kernel log told of trouble.")]
pub struct Args {
    /// How many moves in all.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    moves: usize,
    /// The least time between the starts of two moves, in milliseconds.
    #[arg(long, default_value_t = 150, value_name = "MS")]
    every: u64,
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=4))]
    hosts: u8,
    /// Virtual CPUs of each guest.
    #[arg(long, default_value_t = 2, value_name = "N")]
    vcpus: u32,
    /// Memory of each guest.
    #[arg(long, default_value = "768M", value_name = "SIZE", value_parser = sizes::parse_mib)]
    memory: u64,
    /// What each guest does: programs of its own, by name, with commas between.
    #[arg(
        long,
        default_value = "stamps:seconds=6,counter:rounds=2000,mgs:m=1536:n=1024:block=32:patience=2000,clocks:seconds=2,ipi:seconds=2,spawn:seconds=2",
        value_name = "NAMES"
    )]
    workload: String,
    /// Kernel of the guests.
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Series,
    /// Which kind of hosts.
    #[arg(long, value_enum, default_value = "auto")]
    lab: Kind,
    /// Most seconds for each guest.
    #[arg(long, default_value_t = 900, value_name = "S")]
    timeout: u64,
}

/// The last line.
#[derive(Serialize)]
struct Line {
    hosts: u8,
    vcpus: u32,
    kernel: &'static str,
    guests: usize,
    moves: usize,
    move_errors: usize,
    blackout_us: Percentiles,
    results: usize,
    wrong_results: usize,
    guest_log_problems: u64,
    seconds: u64,
}

/// What all guests together came to.
#[derive(Default)]
struct Tally {
    guests: usize,
    moves: Moves,
    results: usize,
    wrong: Vec<String>,
    log_problems: u64,
}

impl Tally {
    /// Adds a guest, whose results must be `right`.
    fn add(&mut self, outcome: &Outcome, moves: Moves, right: &[(String, Value)]) {
        self.guests += 1;
        self.moves.blackout_us.extend(moves.blackout_us);
        self.moves.errors.extend(moves.errors);
        let results = checksums(outcome);
        self.results += results.len();
        if results != right {
            self.wrong.push(format!("{results:?} in place of {right:?}"));
        }
        self.wrong.extend(outcome.results.iter().filter(|result| result["ok"] != true).map(Value::to_string));
        // A guest that did not come to tell is no guest without trouble.
        self.log_problems += outcome.log_problems.unwrap_or(1) + u64::from(outcome.status != 0);
    }

    fn is_good(&self) -> bool {
        self.moves.errors.is_empty() && self.wrong.is_empty() && self.log_problems == 0 && self.results > 0
    }
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When a guest cannot be started or does not come to its end, or its vCPUs do not move.
pub fn main(options: &Args) -> Result<i32> {
    setup::ensure()?;
    let files = images::guest_files(&[options.kernel])?;
    let began = Instant::now();
    let right = checksums(&alone(options, &files)?);
    let mut tally = Tally::default();
    while tally.moves.blackout_us.len() < options.moves {
        let left = options.moves - tally.moves.blackout_us.len();
        let (outcome, moves) = moving(options, &files, left)?;
        ensure!(!moves.blackout_us.is_empty(), "no vCPU moved: {}", moves.errors.join("\n"));
        tally.add(&outcome, moves, &right);
        eprintln!(
            "{} of {} moves, {} errors, {} wrong results, {} lines of trouble, {:.0} s",
            tally.moves.blackout_us.len(),
            options.moves,
            tally.moves.errors.len(),
            tally.wrong.len(),
            tally.log_problems,
            began.elapsed().as_secs_f64()
        );
        if outcome.log_problems != Some(0) || outcome.status != 0 {
            eprintln!("status {}, the end of the console:\n{}", outcome.status, outcome.console_tail);
        }
    }
    tell(options, &tally, began.elapsed())?;
    Ok(i32::from(!tally.is_good()))
}

fn tell(options: &Args, tally: &Tally, took: Duration) -> Result<()> {
    for line in
        tally.moves.errors.iter().map(|error| format!("a move failed: {error}")).chain(tally.wrong.clone())
    {
        eprintln!("{line}");
    }
    let line = Line {
        hosts: options.hosts,
        vcpus: options.vcpus,
        kernel: options.kernel.name(),
        guests: tally.guests,
        moves: tally.moves.blackout_us.len(),
        move_errors: tally.moves.errors.len(),
        blackout_us: Percentiles::of(&tally.moves.blackout_us),
        results: tally.results,
        wrong_results: tally.wrong.len(),
        guest_log_problems: tally.log_problems,
        seconds: took.as_secs(),
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

/// The guest on one host, which tells the right results.
fn alone(options: &Args, files: &GuestFiles) -> Result<Outcome> {
    let (outcome, _) = run(options, files, 1, 0)?;
    outcome.check().context("on one host")?;
    Ok(outcome)
}

/// A guest over all hosts, its vCPUs moving.
fn moving(options: &Args, files: &GuestFiles, moves: usize) -> Result<(Outcome, Moves)> {
    run(options, files, options.hosts.into(), moves as u64)
}

fn run(options: &Args, files: &GuestFiles, hosts: usize, most: u64) -> Result<(Outcome, Moves)> {
    let lab = LabSpec { hosts, memory_mib: options.memory + LabSpec::HOST_OWN_MIB, ..LabSpec::default() };
    let cluster = Cluster::start(ClusterSpec { kind: options.lab, lab, files: files.files() })?;
    let spec = GuestSpec {
        name: "soak".to_owned(),
        hosts,
        vcpus: options.vcpus,
        memory_mib: options.memory,
        kernel: images::kernel_name(options.kernel),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: format!("quiet maxcpus=1 tessera.run={}", options.workload),
        on_reset: OnReset::Exit,
        lease_us: None,
        options: Vec::new(),
        vcpus_per_host: Vec::new(),
        limit: Duration::from_secs(options.timeout),
    };
    let plan =
        Plan { hosts, round: 1, every: Duration::from_millis(options.every), most, begin: Begin::WhenUp };
    let mut mover = Mover::new(cluster.control(&spec.name), plan, options.workload.split(',').count())
        .telling_every(TELL_EVERY);
    let outcome = guest::run(&cluster, &spec, &mut mover)?;
    Ok((outcome, mover.finish()))
}

/// Which programs ran, and what they computed.
fn checksums(outcome: &Outcome) -> Vec<(String, Value)> {
    let of = |result: &Value| (result["program"].to_string(), result["checksum"].clone());
    outcome.results.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(checksum: &str, ok: bool) -> Outcome {
        let results = vec![json!({"program": "mgs", "checksum": checksum, "ok": ok})];
        Outcome { results, log_problems: Some(0), ..Outcome::default() }
    }

    fn judged(outcome: &Outcome, moves: Moves) -> bool {
        let mut tally = Tally::default();
        tally.add(outcome, moves, &checksums(&super::tests::outcome("00ff", true)));
        tally.is_good()
    }

    #[test]
    fn whatever_is_wrong_with_one_guest_is_wrong_with_all() {
        assert!(judged(&outcome("00ff", true), Moves::default()));
        assert!(!judged(&outcome("01ff", true), Moves::default()));
        assert!(!judged(&outcome("00ff", false), Moves::default()));
        assert!(!judged(&Outcome { log_problems: Some(1), ..outcome("00ff", true) }, Moves::default()));
        assert!(!judged(&Outcome { log_problems: None, ..outcome("00ff", true) }, Moves::default()));
        assert!(!judged(&Outcome { status: 12, ..outcome("00ff", true) }, Moves::default()));
        assert!(!judged(&outcome("00ff", true), Moves { errors: vec!["e".into()], ..Moves::default() }));
    }
}
