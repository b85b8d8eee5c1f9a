//! `cargo xtask soak litmus`: starts the litmus tests of guests over several nodes (a test of `tessera`) and shows what was
//! seen.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use super::worker;
use crate::builds;

/// The test that does the work.
const TEST: &str = "soak::soak_as_long_as_wanted";
/// The variable of the environment that tells it what to do.
const WANTED: &str = "TESSERA_LITMUS";
/// The one that tells it where the payloads are.
const PAYLOADS: &str = "TESSERA_PAYLOADS";
/// What its lines for us begin with.
const MARK: &str = "litmus: ";
/// How long the last guest may take beyond the time asked for.
const GRACE: Duration = Duration::from_secs(1800);
/// More rows than this are not shown: `--report` has them all.
const ROWS_SHOWN: usize = 400;

/// Options of `cargo xtask soak litmus`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask soak litmus --seconds 600\n  \
    cargo xtask soak litmus --tests SB,SB+mfences,IRIW --nodes 4..4 --ms 1000\n  \
    cargo xtask soak litmus --published --seconds 7200 --report litmus.json\n  \
    cargo xtask soak litmus --tests SB+mfences --early-grants   # how a mistake is found\n\n\
    A table of outcomes, then one line of JSON; the exit status is 0 only if no outcome was seen that x86-TSO forbids.")]
pub struct Args {
    /// How long; at least one guest runs.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Seed of the first guest; the others follow it. Without it, one made of the time of day.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Least and most nodes of a guest, 2 to 4.
    #[arg(long, default_value = "2..4", value_name = "A..B", value_parser = parse_nodes)]
    nodes: RangeInclusive<u8>,
    /// Only these tests, by name, with commas between.
    #[arg(long, value_name = "NAMES")]
    tests: Option<String>,
    /// The published tests in place of those with a name of their own, thirty in each guest.
    #[arg(long)]
    published: bool,
    /// Time for each test in each placement of its variables, in milliseconds.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    ms: u64,
    /// Let grants for writing arrive before the other copies are gone, to see that it is caught.
    #[arg(long)]
    early_grants: bool,
    /// A file for all histograms, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn parse_nodes(text: &str) -> Result<RangeInclusive<u8>, String> {
    let bad = || format!("{text:?} is no range like 2..4");
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<u8>().map_err(|_| bad());
    let (least, most) = (number(least)?, number(most)?);
    match 2 <= least && least <= most && most <= 4 {
        true => Ok(least..=most),
        false => Err(format!("{least} to {most} nodes: there are 2 to 4")),
    }
}

/// Carries out the verb; gives the exit status: 1 if something forbidden was seen.
///
/// # Errors
/// When nothing can be built, or a guest does not come to its end.
pub fn main(options: &Args) -> Result<i32> {
    let seed = options.seed.unwrap_or_else(worker::seed_of_now);
    let nodes = (*options.nodes.start(), *options.nodes.end());
    println!("seed {seed}, {} to {} nodes, {} s", nodes.0, nodes.1, options.seconds);
    let payloads = builds::payloads()?;
    let program = worker::build("the litmus tests", &["-p", "tessera", "--test", "litmus"])?;
    let wanted = json!({
        "seconds": options.seconds, "seed": seed, "nodes": nodes, "shapes": options.tests,
        "published": options.published, "ms": options.ms, "early": options.early_grants,
    });
    let mut command = Command::new(program);
    command.args([TEST, "--exact", "--ignored", "--nocapture"]);
    command.env(WANTED, wanted.to_string()).env(PAYLOADS, payloads);
    let limit = Duration::from_secs(options.seconds) + GRACE;
    let mut told = worker::watch(&mut command, MARK, limit, line)?;
    let rows = told["rows"].as_array().cloned().unwrap_or_default();
    println!("{}", table(&rows));
    let failure = &told["failure"];
    if !failure.is_null() {
        println!(
            "WRONG: {failure}\nagain: the same command with --seconds 0 --seed {}",
            failure["guest"]["seed"]
        );
    }
    let good = failure.is_null();
    told["first_seed"] = seed.into();
    told["relaxed"] = rows.iter().map(|row| number(row, "relaxed")).sum::<u64>().into();
    if let Some(path) = &options.report {
        std::fs::write(path, format!("{told}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // They were shown above, or are in the report.
    told["rows"] = rows.len().into();
    println!("{told}");
    Ok(i32::from(!good))
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

/// How far it is.
fn line(told: &Value) -> String {
    let seconds = told["seconds"].as_f64().unwrap_or_default();
    let [guests, runs, moves, forbidden] =
        ["guests", "runs", "moves", "forbidden"].map(|name| number(told, name));
    format!("{seconds:>6.0} s: {guests} guests, {runs} runs, {moves} moves, {forbidden} forbidden")
}

/// A line for each test in each placement, and what is forbidden again at the end.
fn table(rows: &[Value]) -> String {
    let head = format!(
        "{:<24} {:<9} {:>9} {:>8} {:>9} {:>9}  outcomes",
        "test", "place", "runs", "relaxed", "different", "forbidden"
    );
    let is_wrong = |row: &&Value| forbidden(row) > 0;
    let shown: Vec<String> = match rows.len() {
        0..=ROWS_SHOWN => rows.iter().map(row).collect(),
        more => std::iter::once(format!("({more} rows: see --report)"))
            .chain(rows.iter().filter(is_wrong).map(row))
            .collect(),
    };
    format!("{head}\n{}", shown.join("\n"))
}

/// Outcomes that x86-TSO forbids, and values from nowhere.
fn forbidden(row: &Value) -> u64 {
    let of = |pair: &Value| pair[1].as_u64().unwrap_or_default();
    let outcomes: u64 = row["forbidden"].as_array().map(|list| list.iter().map(of).sum()).unwrap_or_default();
    outcomes + number(row, "corrupt")
}

fn row(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    let pair = |pair: &Value| format!("{}:{}", pair[0].as_str().unwrap_or_default(), pair[1]);
    let counts: Vec<String> =
        row["counts"].as_array().map(|list| list.iter().map(pair).collect()).unwrap_or_default();
    let different = format!("{}/{}", number(row, "seen"), number(row, "allowed"));
    format!(
        "{:<24} {:<9} {:>9} {:>8} {different:>9} {:>9}  {}",
        text("test"),
        text("place"),
        number(row, "runs"),
        number(row, "relaxed"),
        forbidden(row),
        counts.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_row(forbidden: &Value) -> Value {
        json!({"test": "SB", "place": "apart", "runs": 12, "relaxed": 2, "seen": 3, "allowed": 4, "corrupt": 1,
            "counts": [["00", 2], ["01", 10]], "forbidden": forbidden})
    }

    #[test]
    fn a_row_has_its_histogram_and_what_is_forbidden() {
        let text = row(&a_row(&json!([["22", 3], ["33", 1]])));
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words, ["SB", "apart", "12", "2", "3/4", "5", "00:2", "01:10"]);
    }

    #[test]
    fn of_very_many_rows_only_those_are_shown_that_went_wrong() {
        let mut rows = vec![json!({"test": "MP", "corrupt": 0}); ROWS_SHOWN];
        rows.push(a_row(&json!([])));
        let text = table(&rows);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with("00:2 01:10"), "{text}");
    }

    #[test]
    fn ranges_of_nodes_are_checked() {
        assert_eq!(parse_nodes("2..4"), Ok(2..=4));
        assert_eq!(parse_nodes("3"), Ok(3..=3));
        for bad in ["1..4", "4..2", "2..5", "", "a..b"] {
            assert!(parse_nodes(bad).is_err(), "{bad}");
        }
    }
}
