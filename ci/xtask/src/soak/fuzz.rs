//! `cargo xtask soak fuzz`: starts the fuzzer (a test of `tessera-dsm`, optimized) and shows how far it is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use super::worker;
use crate::cleanup::OwnedChild;
use crate::shell;

/// The test that does the work.
const TEST: &str = "protocol::tests::fuzz::fuzz_for_a_while";
/// What its lines for us begin with.
const MARK: &str = "fuzz: ";
/// How long making a failure short, or choosing what to keep, may take beyond the time asked for.
const GRACE: Duration = Duration::from_secs(900);
/// Where nobody watches, every so many of its reports (one a second) are shown.
const SHOWN_EVERY: u64 = 30;

/// Options of `cargo xtask soak fuzz`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask soak fuzz --seconds 600\n  \
    cargo xtask soak fuzz --seconds 600 --keep dsm/fuzz/corpus    # and add what led to something new\n\n\
    The inputs of dsm/fuzz/corpus are run first. A failure is made short and shown, with the command that runs it \
    alone. The last line is JSON; the exit status is 0 only if nothing failed.")]
pub struct Args {
    /// How long, for all targets together.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Where random choices begin. Without it, at a number made of the time of day.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write the inputs that are worth keeping into this folder, one folder for each target.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// Carries out the verb; gives the exit status: 1 if something failed.
///
/// # Errors
/// When the fuzzer cannot be built or started.
pub fn main(options: &Args) -> Result<i32> {
    let seed = options.seed.unwrap_or_else(worker::seed_of_now);
    println!("seed {seed}, {} s", options.seconds);
    let mut command =
        Command::new(worker::build("the fuzzer", &["--profile", "checker", "-p", "tessera-dsm", "--lib"])?);
    command.args([TEST, "--exact", "--nocapture"]);
    command.env("TESSERA_FUZZ_SECONDS", options.seconds.to_string());
    command.env("TESSERA_FUZZ_SEED", seed.to_string());
    if let Some(folder) = &options.keep {
        // (The test does not run in the folder from which xtask was called.)
        let folder = std::path::absolute(folder).context("the folder to keep inputs in")?;
        command.env("TESSERA_FUZZ_KEEP", folder);
    }
    let (targets, good) = watch(&mut command, Duration::from_secs(options.seconds) + GRACE)?;
    println!("{}", json!({ "seed": seed, "seconds": options.seconds, "ok": good, "targets": targets }));
    Ok(i32::from(!good))
}

/// Runs the fuzzer and shows what it tells; gives the last report on each target, and whether it came to a good end.
fn watch(command: &mut Command, limit: Duration) -> Result<(BTreeMap<String, Value>, bool)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = OwnedChild::spawn(command)?;
    let pipe = child.child().stdout.take().context("the fuzzer has no output")?;
    let (mut targets, mut other) = (BTreeMap::new(), String::new());
    for (number, line) in BufReader::new(pipe).lines().enumerate() {
        let line = line.context("reading the fuzzer's output")?;
        match report(&line) {
            Some((target, told)) => {
                if std::io::stderr().is_terminal() || (number as u64).is_multiple_of(SHOWN_EVERY) {
                    eprintln!("{told}");
                }
                targets.insert(target, told);
            }
            None => other = shell::tail(&format!("{other}{line}\n"), 30) + "\n",
        }
    }
    let good = child.wait(limit).is_some_and(|status| status.success()) && !targets.is_empty();
    if !good {
        eprintln!("{other}");
    }
    Ok((targets, good))
}

/// A line of the fuzzer's about how far a target is.
fn report(line: &str) -> Option<(String, Value)> {
    let (_, told) = line.split_once(MARK)?;
    let told: Value = serde_json::from_str(told).ok()?;
    let target = told["target"].as_str()?.to_owned();
    Some((target, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_from_other_lines() {
        let line = r#"test ... fuzz: {"target":"nodes","runs":12,"situations":3,"kept":2}"#;
        assert_eq!(
            report(line).map(|(target, told)| (target, told["runs"].clone())),
            Some(("nodes".into(), 12.into()))
        );
        assert_eq!(report("nodes: TESSERA_FUZZ_SEED=1"), None);
        assert_eq!(report("fuzz: {"), None);
    }
}
