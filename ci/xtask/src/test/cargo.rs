//! Runs cargo for a lane: all output in a log, the end of it shown on failure, tests counted.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::Counts;
use crate::cleanup::OwnedChild;
use crate::{builds, paths, shell};

/// A hang, not slowness, is what this limit is for: the machine may be busy with a whole build.
const LIMIT: Duration = Duration::from_secs(40 * 60);
/// How much of a failed run's log is shown.
const SHOWN_LINES: usize = 150;

/// Runs cargo with these words; the run as a whole counts as one test.
///
/// # Errors
/// When cargo cannot be run.
pub fn whole(name: &str, words: &[&str]) -> Result<Counts> {
    let mut command = builds::cargo();
    let (ok, _) = run_logged(name, command.args(words))?;
    Ok(Counts { passed: ok.into(), failed: (!ok).into(), ignored: 0 })
}

/// Runs a cargo command that runs tests, and counts them.
///
/// # Errors
/// When cargo cannot be run.
pub fn tests(name: &str, command: &mut Command) -> Result<Counts> {
    let (ok, log) = run_logged(name, command)?;
    let mut counts = count(&log);
    if !ok && counts.failed == 0 {
        // It did not compile, or a test ended the whole process.
        counts.failed = 1;
    }
    Ok(counts)
}

/// Runs a command with its output in `target/lab/logs/NAME.log`; gives whether it ended well, and its output.
fn run_logged(name: &str, command: &mut Command) -> Result<(bool, String)> {
    let path = log_path(name)?;
    let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", shell::text(command));
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let ended = OwnedChild::spawn(command)?.wait(LIMIT);
    let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let ok = ended.is_some_and(|status| status.success());
    if !ok {
        println!("{}\n(all of it: {})", shell::tail(&log, SHOWN_LINES), path.display());
    }
    if ended.is_none() {
        bail!("did not end in {} minutes: {}", LIMIT.as_secs() / 60, shell::text(command));
    }
    Ok((ok, log))
}

fn log_path(name: &str) -> Result<PathBuf> {
    let dir = paths::lab_cache().join("logs");
    paths::make_dir(&dir)?;
    Ok(dir.join(format!("{name}.log")))
}

/// Sums up the lines `test result: ok. 3 passed; 0 failed; 1 ignored; ...` of Rust's test runner.
fn count(log: &str) -> Counts {
    let mut counts = Counts::default();
    for line in log.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        for part in line.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                "ignored" => counts.ignored += number,
                _ => {}
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_summed_up() {
        let log = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            x\ntest result: FAILED. 3 passed; 4 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.25s\n";
        assert_eq!(count(log), Counts { passed: 5, failed: 4, ignored: 1 });
        assert_eq!(count("nothing"), Counts::default());
    }
}
