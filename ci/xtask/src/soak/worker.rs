//! A test program that soaks: it takes its orders from the environment and tells how things are in lines of JSON.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::cleanup::OwnedChild;
use crate::progress::Step;
use crate::{builds, shell};

/// Where nobody watches, a report is shown so often.
const SHOWN_EVERY: Duration = Duration::from_secs(30);

/// Builds a test program with these arguments of cargo; gives its path.
///
/// # Errors
/// When it does not build.
pub fn build(what: &str, arguments: &[&str]) -> Result<String> {
    let step = Step::start(format!("building {what}"));
    let mut command = builds::cargo();
    command.arg("test").args(arguments).args(["--no-run", "--message-format", "json"]);
    let said = shell::output(&mut command)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(str::to_owned)
    };
    let program = said.lines().rev().find_map(executable);
    step.done("done");
    program.with_context(|| format!("cargo named no program: {}", shell::text(&command)))
}

/// Runs it and shows, by `line`, what it tells behind `mark`; gives its last report.
///
/// # Errors
/// When it ends, or has to be ended after `limit`, without a report that it is done.
pub fn watch(
    command: &mut Command,
    mark: &str,
    limit: Duration,
    line: impl Fn(&Value) -> String,
) -> Result<Value> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = OwnedChild::spawn(command)?;
    let pipe = child.child().stdout.take().context("the test program has no output")?;
    let (mut last, mut shown, mut other) = (Value::Null, Instant::now(), String::new());
    for text in BufReader::new(pipe).lines() {
        let text = text.context("reading the test program's output")?;
        match text.split_once(mark).and_then(|(_, told)| serde_json::from_str::<Value>(told).ok()) {
            Some(told) => {
                if told["done"] == true || std::io::stderr().is_terminal() || shown.elapsed() >= SHOWN_EVERY {
                    show(&line(&told), told["done"] == true);
                    shown = Instant::now();
                }
                last = told;
            }
            None => other = shell::tail(&format!("{other}{text}\n"), 30) + "\n",
        }
    }
    let ended = child.wait(limit);
    if last["done"] != true {
        bail!("the test program gave no result ({ended:?}): {}\n{other}", shell::text(command));
    }
    Ok(last)
}

fn show(line: &str, last: bool) {
    match (std::io::stderr().is_terminal(), last) {
        (true, false) => eprint!("\r\x1b[K{line}"),
        (true, true) => eprintln!("\r\x1b[K{line}"),
        (false, _) => eprintln!("{line}"),
    }
}

/// A different seed every microsecond, short enough to be typed.
pub fn seed_of_now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_micros() as u64 % 1_000_000_000_000
}
