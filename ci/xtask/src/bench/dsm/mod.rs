//! `cargo xtask bench dsm`: what a page of another node costs, beside what it must cost.
//!
//! It has parts, each a folder or file of its own; what each of them finds stands beside the others' in one line of JSON:
//! - [payload guests](runs) over node processes on this machine, joined over loopback. One round measures everything once; figures
//!   are medians over the rounds, so that a disturbance of one round does not move them;
//! - [more pagers than one](shards) for guests that fault much;
//! - [QEMU's postcopy](postcopy) on the same machine;
//! - [stock guests](stock) that boot over lab hosts.

mod figures;
mod postcopy;
mod runs;
mod shards;
mod stock;
mod tcp;
mod times;

use anyhow::{ensure, Result};
use serde::Serialize;

use self::figures::Summary;
use self::postcopy::Postcopy;
use self::runs::Runs;
use self::shards::Shards;
use self::stock::Boots;
use super::payload::available_mib;
use crate::cluster::Kind;
use crate::kernels::Series;
use crate::progress::Step;
use crate::sizes;

/// What nodes, guests and this machine need beside the scanned memory, in MiB.
const ROOM_MIB: u64 = 2048;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Pages of other nodes, by payload guests.
    Payload,
    /// Faults a second with one pager on each node and with several.
    Shards,
    /// QEMU's postcopy on the same machine.
    Postcopy,
    /// The boot of a stock guest over lab hosts.
    Boot,
}

/// Options of `cargo xtask bench dsm`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench dsm\n  cargo xtask bench dsm --rounds 1 --scan 64M --json\n  \
    cargo xtask bench dsm --lab\n  cargo xtask bench dsm --parts shards --rounds 3\n  cargo xtask bench dsm --parts boot --kernel 6.12"
)]
pub struct Args {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Memory that is scanned.
    #[arg(long, default_value = "1G", value_name = "SIZE", value_parser = sizes::parse_mib)]
    scan: u64,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "payload,postcopy", value_name = "PARTS")]
    parts: Vec<Part>,
    /// Stock guests over lab hosts as well.
    #[arg(long)]
    lab: bool,
    /// Kernel of the stock guests.
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Series,
    /// Which kind of hosts stock guests have.
    #[arg(long, value_enum, default_value = "auto")]
    hosts: Kind,
    /// Only the JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// The last line: the parts that were measured.
#[derive(Serialize)]
struct Line {
    bench: &'static str,
    #[serde(flatten)]
    payload: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<Shards>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postcopy: Option<Postcopy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stock: Option<Boots>,
}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When there is too little memory, or a guest does not come to a good end.
pub fn main(options: &Args) -> Result<i32> {
    let wanted = |part: Part| options.parts.contains(&part);
    let payload = wanted(Part::Payload).then(|| payload(options)).transpose()?;
    let shards = wanted(Part::Shards).then(|| {
        let step = Step::start("several pagers");
        let measured = shards::measure(options.rounds, |what| step.note(what));
        step.done("measured");
        measured
    });
    let postcopy = wanted(Part::Postcopy).then(|| {
        let step = Step::start("QEMU's postcopy");
        let outcome = postcopy::measure();
        step.done("over");
        outcome
    });
    let stock = (options.lab || wanted(Part::Boot)).then(|| stock::measure(options.hosts, options.kernel));
    let line =
        Line { bench: "dsm", payload, shards: shards.transpose()?, postcopy, stock: stock.transpose()? };
    if !options.json {
        let Line { payload, shards, postcopy, stock, .. } = &line;
        payload.iter().for_each(|part| println!("\n{part}"));
        shards.iter().for_each(|part| println!("\n{part}"));
        postcopy.iter().for_each(|part| println!("\n{part}"));
        stock.iter().for_each(|part| println!("\n{part}"));
    }
    println!("{}", serde_json::to_string(&line)?);
    Ok(0)
}

/// Pages of other nodes, by payload guests.
fn payload(options: &Args) -> Result<Summary> {
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
    Ok(Summary::of(options.scan, &rounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_in_the_last_line() {
        let line = Line { bench: "dsm", payload: None, shards: None, postcopy: None, stock: None };
        assert_eq!(serde_json::to_string(&line).unwrap(), r#"{"bench":"dsm"}"#);
    }
}
