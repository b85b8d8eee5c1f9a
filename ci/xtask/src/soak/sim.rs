//! `cargo xtask soak sim`: starts the protocol's simulator (a test of `tessera-dsm`, optimized) and shows how far it is.

use std::ops::RangeInclusive;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::{json, Value};

use super::worker;

/// The test that does the work.
const TEST: &str = "protocol::tests::soak::soak_as_long_as_wanted";
/// The variable of the environment that tells it what to do.
const WANTED: &str = "TESSERA_SOAK";
/// What its lines for us begin with.
const MARK: &str = "soak: ";
/// How long shrinking a failure, or the last run, may take beyond the time asked for.
const GRACE: Duration = Duration::from_secs(600);

/// Options of `cargo xtask soak sim`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask soak sim --seconds 600\n  \
    cargo xtask soak sim --seed 4711 --seconds 0          # the run of one seed again\n  \
    cargo xtask soak sim --mutant 'done is never said'    # how a mistake is found and shrunk\n\n\
    A failure is shrunk to fewer nodes, pages and steps and shown. The last line is JSON.")]
pub struct Args {
    /// How long; at least one run is made.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Seed of the first run; the others follow it. Without it, one made of the time of day.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Least and most nodes in a run, 2 to 32.
    #[arg(long, default_value = "2..32", value_name = "A..B", value_parser = parse_nodes)]
    nodes: RangeInclusive<u8>,
    /// Build this mistake into every node (the names are in docs/checking.md).
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Run this plan only, as a failure has told it.
    #[arg(long, value_name = "JSON", value_parser = parse_plan)]
    plan: Option<Value>,
}

fn parse_nodes(text: &str) -> Result<RangeInclusive<u8>, String> {
    let bad = || format!("{text:?} is no range like 2..32");
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.trim_start_matches('=').parse::<u8>().map_err(|_| bad());
    let (least, most) = (number(least)?, number(most)?);
    match 2 <= least && least <= most && most <= 32 {
        true => Ok(least..=most),
        false => Err(format!("{least} to {most} nodes cannot be simulated, 2 to 32 can")),
    }
}

fn parse_plan(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|why| why.to_string())
}

/// Carries out the verb; gives the exit status: 1 if a run failed.
///
/// # Errors
/// When the simulator cannot be built or ends without a result.
pub fn main(options: &Args) -> Result<i32> {
    let seed = options.seed.unwrap_or_else(worker::seed_of_now);
    let nodes = (*options.nodes.start(), *options.nodes.end());
    println!("seed {seed}, {} to {} nodes, {} s", nodes.0, nodes.1, options.seconds);
    let program = worker::build("the simulator", &["--profile", "checker", "-p", "tessera-dsm", "--lib"])?;
    let (mutant, plan) = (&options.mutant, &options.plan);
    let wanted = json!({
        "seconds": options.seconds, "seed": seed, "nodes": nodes, "mutant": mutant, "plan": plan,
    });
    let mut command = Command::new(program);
    command.args([TEST, "--exact", "--nocapture"]).env(WANTED, wanted.to_string());
    let limit = Duration::from_secs(options.seconds) + GRACE;
    let told = worker::watch(&mut command, MARK, limit, line)?;
    let failure = &told["failure"];
    if !failure.is_null() {
        println!("{}", describe(failure, options));
    }
    let mut line = told.clone();
    // It was shown above, to be read.
    if let Some(failure) = line["failure"].as_object_mut() {
        failure.remove("shrunk");
    }
    line["first_seed"] = seed.into();
    line["nodes"] = json!(nodes);
    println!("{line}");
    Ok(i32::from(!failure.is_null()))
}

/// How far it is.
fn line(told: &Value) -> String {
    let count = |name: &str| told[name].as_u64().unwrap_or_default();
    let seconds = told["seconds"].as_f64().unwrap_or_default();
    let (runs, operations) = (count("runs"), count("operations"));
    let (faults, crashes) = (count("faults"), count("crashes"));
    format!("{seconds:>6.0} s: {runs} runs, {operations} page accesses, {faults} faults, {crashes} crashes")
}

/// A failure, as a person wants it: what, how to see it again, and the smallest one like it.
fn describe(failure: &Value, options: &Args) -> String {
    let text = |name: &str| failure[name].as_str().unwrap_or_default().to_owned();
    let mutant = options.mutant.as_ref().map(|name| format!(" --mutant '{name}'")).unwrap_or_default();
    let again = format!("cargo xtask soak sim --seconds 0{mutant}");
    let (least, most) = (options.nodes.start(), options.nodes.end());
    format!(
        "FAILED: {}\nagain: {again} --nodes {least}..{most} --seed {}\n\nshrunk to {}smaller: {again} --plan '{}'",
        text("why"),
        failure["seed"],
        text("shrunk"),
        failure["plan"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_nodes_are_checked() {
        assert_eq!(parse_nodes("2..32"), Ok(2..=32));
        assert_eq!(parse_nodes("4..=8"), Ok(4..=8));
        assert_eq!(parse_nodes("3"), Ok(3..=3));
        for bad in ["1..4", "8..4", "2..33", "", "a..b", "2..", "-1..3"] {
            assert!(parse_nodes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_failure_says_how_to_see_it_again() {
        let options = Args {
            seconds: 5,
            seed: None,
            nodes: 2..=9,
            mutant: Some("done is never said".into()),
            plan: None,
        };
        let failure = json!({"seed": 7, "why": "w", "shrunk": "s\n", "plan": {"ops": 1}});
        let text = describe(&failure, &options);
        assert!(text.contains("--mutant 'done is never said' --nodes 2..9 --seed 7\n"), "{text}");
        assert!(text.contains("--plan '{\"ops\":1}'"), "{text}");
    }
}
