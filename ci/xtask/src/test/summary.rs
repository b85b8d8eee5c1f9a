//! The table at the end of the tests, and the closing line.

use std::fmt;
use std::time::Duration;

use super::Counts;

/// What became of a lane.
#[derive(Debug)]
pub enum Verdict {
    /// It ran.
    Ran(Counts),
    /// It cannot run here, and that is allowed.
    Skipped(String),
    /// It could not do its work.
    Broken(String),
}

/// A lane in the table.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// What became of it.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

impl Entry {
    /// Its tests; a lane that could not do its work, or did none, counts as one failed test.
    fn counts(&self) -> Counts {
        match &self.verdict {
            Verdict::Ran(counts) if counts.passed + counts.failed == 0 => Counts { failed: 1, ..*counts },
            Verdict::Ran(counts) => *counts,
            Verdict::Skipped(_) => Counts::default(),
            Verdict::Broken(_) => Counts { failed: 1, ..Counts::default() },
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { passed, failed, ignored } = self.counts();
        let seconds = self.took.as_secs_f64();
        write!(
            f,
            "{:<10}{passed:>6} passed{failed:>5} failed{ignored:>5} ignored{seconds:>9.1} s",
            self.name
        )?;
        match &self.verdict {
            Verdict::Ran(counts) if counts.passed + counts.failed == 0 => write!(f, "  no test ran"),
            Verdict::Ran(_) => Ok(()),
            Verdict::Skipped(reason) => write!(f, "  SKIPPED: {reason}"),
            Verdict::Broken(reason) => write!(f, "  BROKEN: {reason}"),
        }
    }
}

/// Prints the table and the closing line; gives the exit status.
pub fn print(entries: &[Entry]) -> i32 {
    println!();
    for entry in entries {
        // The reason was printed in full when it happened.
        let text = entry.to_string();
        println!("{}", text.lines().next().unwrap_or_default());
    }
    let (line, status) = closing(entries);
    println!("\n{line}");
    status
}

/// The closing line, and the exit status: 0 only if something was tested and nothing failed.
fn closing(entries: &[Entry]) -> (String, i32) {
    let all = entries.iter().map(Entry::counts);
    let total = all.fold(Counts::default(), |sum, counts| Counts {
        passed: sum.passed + counts.passed,
        failed: sum.failed + counts.failed,
        ignored: sum.ignored + counts.ignored,
    });
    let lanes_skipped =
        entries.iter().filter(|entry| matches!(entry.verdict, Verdict::Skipped(_))).count() as u64;
    let mut line = format!("{} passed, {} failed", total.passed, total.failed);
    if total.ignored + lanes_skipped > 0 {
        line.push_str(&format!(", {} skipped", total.ignored + lanes_skipped));
    }
    (line, i32::from(total.failed > 0 || total.passed == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(verdict: Verdict) -> Entry {
        Entry { name: "x", verdict, took: Duration::from_secs(1) }
    }

    fn ran(passed: u64, failed: u64, ignored: u64) -> Entry {
        entry(Verdict::Ran(Counts { passed, failed, ignored }))
    }

    #[test]
    fn the_closing_line_counts_all_lanes() {
        assert_eq!(closing(&[ran(3, 0, 0), ran(4, 0, 0)]), ("7 passed, 0 failed".into(), 0));
        assert_eq!(closing(&[ran(3, 1, 2)]), ("3 passed, 1 failed, 2 skipped".into(), 1));
    }

    #[test]
    fn broken_and_empty_lanes_fail() {
        assert_eq!(closing(&[ran(3, 0, 0), entry(Verdict::Broken("b".into()))]).1, 1);
        assert_eq!(closing(&[ran(3, 0, 0), ran(0, 0, 5)]).1, 1);
        assert_eq!(closing(&[]).1, 1);
    }

    #[test]
    fn a_skipped_lane_is_said() {
        let (line, status) = closing(&[ran(3, 0, 0), entry(Verdict::Skipped("s".into()))]);
        assert_eq!((line.as_str(), status), ("3 passed, 0 failed, 1 skipped", 0));
    }
}
