//! The program that is soaked: the tests of `tessera-dsm`, optimized.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::progress::Step;
use crate::{builds, shell};

/// A different seed every microsecond.
pub fn seed_of_now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    // Short enough to be typed.
    since.as_micros() as u64 % 1_000_000_000_000
}

/// Builds the tests of `tessera-dsm`; gives the program.
///
/// # Errors
/// When it cannot be built.
pub fn build() -> Result<String> {
    let step = Step::start("building what is to be soaked");
    let mut command = builds::cargo();
    command.args(["test", "--profile", "checker", "-p", "tessera-dsm", "--lib", "--no-run"]);
    command.args(["--message-format", "json"]);
    let said = shell::output(&mut command)?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(str::to_owned)
    };
    let program = said.lines().rev().find_map(executable);
    step.done("done");
    program.with_context(|| format!("cargo named no program: {}", shell::text(&command)))
}
