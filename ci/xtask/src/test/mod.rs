//! `cargo xtask test`: everything that must hold, in lanes. No lane is left out in silence.

mod cargo;
mod hosts;
mod lanes;
pub mod payload;
pub mod stock;
mod summary;

use std::time::Instant;

use anyhow::{bail, Result};

use lanes::{Lane, LANES};
use summary::{Entry, Verdict};

/// The environment variable that names lanes (with commas between) which may be left out where they cannot run.
const ALLOW_SKIP: &str = "TESSERA_ALLOW_SKIP";

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --only lint,unit\n  \
    TESSERA_ALLOW_SKIP=payload cargo xtask test     # on a machine without /dev/kvm\n\n\
    Lanes: lint (format, clippy), unit, checker (protocol simulators), payload (bare-metal tests on /dev/kvm), \
    hosts (the lab itself), stock (stock Linux guests across hosts).")]
pub struct Args {
    /// Only these lanes, with commas between.
    #[arg(long, value_delimiter = ',', value_name = "LANES")]
    only: Vec<String>,
}

/// What a lane that ran has to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were left out by their own mark.
    pub ignored: u64,
}

/// Why a lane cannot run on this machine.
#[derive(Debug)]
pub struct CannotRun(pub String);

impl std::fmt::Display for CannotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot run here: {}", self.0)
    }
}

impl std::error::Error for CannotRun {}

/// Carries out the verb; gives the exit status.
///
/// # Errors
/// When a lane is named that does not exist.
pub fn main(options: &Args) -> Result<i32> {
    let chosen = choose(&options.only)?;
    let may_skip = std::env::var(ALLOW_SKIP).unwrap_or_default();
    let may_skip: Vec<&str> = may_skip.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = may_skip.iter().find(|name| LANES.iter().all(|lane| lane.name != **name)) {
        bail!("{ALLOW_SKIP} names a lane that does not exist: {unknown}");
    }
    let mut entries = Vec::new();
    for lane in chosen {
        println!("--- {}: {}", lane.name, lane.about);
        let started = Instant::now();
        let verdict = judge((lane.run)(), may_skip.contains(&lane.name));
        let entry = Entry { name: lane.name, verdict, took: started.elapsed() };
        println!("{entry}");
        entries.push(entry);
    }
    Ok(summary::print(&entries))
}

fn choose(only: &[String]) -> Result<Vec<&'static Lane>> {
    if let Some(unknown) = only.iter().find(|name| LANES.iter().all(|lane| lane.name != **name)) {
        let names = LANES.iter().map(|lane| lane.name).collect::<Vec<_>>().join(", ");
        bail!("there is no lane {unknown}; the lanes are: {names}");
    }
    Ok(LANES.iter().filter(|lane| only.is_empty() || only.iter().any(|name| name == lane.name)).collect())
}

fn judge(outcome: Result<Counts>, may_skip: bool) -> Verdict {
    match outcome {
        Ok(counts) => Verdict::Ran(counts),
        Err(error) => match error.downcast::<CannotRun>() {
            Ok(reason) if may_skip => Verdict::Skipped(format!("{reason} (allowed by {ALLOW_SKIP})")),
            Ok(reason) => Verdict::Broken(reason.to_string()),
            Err(error) => Verdict::Broken(format!("{error:#}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_cannot_run_fails_unless_that_is_allowed() {
        let cannot = || Err(CannotRun("no /dev/kvm".into()).into());
        assert!(matches!(judge(cannot(), false), Verdict::Broken(_)));
        assert!(matches!(judge(cannot(), true), Verdict::Skipped(_)));
    }

    #[test]
    fn leave_to_skip_does_not_hide_a_failure() {
        assert!(matches!(judge(Err(anyhow::anyhow!("broken")), true), Verdict::Broken(_)));
        let counts = Counts { passed: 1, failed: 1, ignored: 0 };
        assert!(matches!(judge(Ok(counts), true), Verdict::Ran(_)));
    }

    #[test]
    fn lanes_are_chosen_by_name_and_unknown_names_are_refused() {
        assert_eq!(choose(&[]).unwrap().len(), LANES.len());
        assert_eq!(choose(&["unit".into()]).unwrap().len(), 1);
        assert!(choose(&["units".into()]).is_err());
    }
}
