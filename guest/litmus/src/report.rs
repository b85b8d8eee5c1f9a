//! What a payload saw, and what the oracle says about it.
//!
//! The payload prints, for each test and placement, lines `TESSERA-HISTOGRAM MP apart 00:12 01:3 11:85`: outcomes and how
//! often they were seen. `corrupt` in place of an outcome means a value that nobody can have stored there.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::oracle;
use crate::outcome::{Outcome, HISTOGRAM};
use crate::placement::Placement;
use crate::test::{Kind, Test, TestError};

/// Why a line makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReportError {
    /// It has another form.
    #[error("{0:?} is no line of outcomes")]
    Line(String),
    /// Outcomes cannot be judged.
    #[error(transparent)]
    Test(#[from] TestError),
}

/// All outcomes of one test in one placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The test's name.
    pub test: String,
    /// Where its variables were.
    pub placement: Placement,
    /// How often each outcome was seen.
    pub counts: BTreeMap<Outcome, u64>,
    /// How often a value was seen that cannot have been there.
    pub corrupt: u64,
}

impl Histogram {
    /// How many runs of the test it tells of.
    pub fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.corrupt
    }
}

/// All histograms in a payload's console text; several lines about the same are added up.
///
/// # Errors
/// When a line begins like one of outcomes and is none.
pub fn histograms(console: &str) -> Result<Vec<Histogram>, ReportError> {
    let mut all: BTreeMap<(String, Placement), Histogram> = BTreeMap::new();
    for line in console.lines().filter(|line| line.starts_with(HISTOGRAM)) {
        let broken = || ReportError::Line(line.to_owned());
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(test), Some(placement)) = (words.next(), words.next().and_then(Placement::named)) else {
            return Err(broken());
        };
        let empty = Histogram { test: test.to_owned(), placement, counts: BTreeMap::new(), corrupt: 0 };
        let histogram = all.entry((test.to_owned(), placement)).or_insert(empty);
        for word in words {
            let (outcome, count) = word.split_once(':').ok_or_else(broken)?;
            let count: u64 = count.parse().map_err(|_| broken())?;
            if outcome == "corrupt" {
                histogram.corrupt += count;
            } else {
                let outcome = u64::from_str_radix(outcome, 16).map_err(|_| broken())?;
                *histogram.counts.entry(Outcome(outcome)).or_default() += count;
            }
        }
    }
    Ok(all.into_values().collect())
}

/// What the oracle says about a histogram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Outcomes that x86-TSO forbids, and how often they were seen.
    pub forbidden: Vec<(Outcome, u64)>,
    /// How often the outcome was seen that the test asks for.
    pub asked: u64,
    /// How many different allowed outcomes were seen.
    pub seen: usize,
    /// How many there are.
    pub allowed: usize,
}

/// Judges what was seen of `test`.
///
/// # Errors
/// [`ReportError::Test`] when the test is too large for the placement.
pub fn judge(test: &Test, histogram: &Histogram) -> Result<Judgement, ReportError> {
    let alignment = histogram.placement.alignment();
    let allowed: BTreeSet<Outcome> = oracle::allowed(test, alignment)?;
    let counts = || histogram.counts.iter().map(|(&outcome, &count)| (outcome, count));
    let is_asked = |outcome| test.condition().kind == Kind::Exists && test.fulfils(alignment, outcome);
    Ok(Judgement {
        forbidden: counts().filter(|(outcome, _)| !allowed.contains(outcome)).collect(),
        asked: counts().filter(|&(outcome, _)| is_asked(outcome)).map(|(_, count)| count).sum(),
        seen: counts().filter(|(outcome, count)| *count > 0 && allowed.contains(outcome)).count(),
        allowed: allowed.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "TESSERA-READY {}\n\
        TESSERA-HISTOGRAM SB apart 01:5 10:7\n\
        TESSERA-HISTOGRAM SB straddle 0000:1 1100:2 corrupt:4\n\
        TESSERA-HISTOGRAM SB apart 00:1 01:2\n";

    #[test]
    fn lines_about_the_same_are_added_up() {
        let all = histograms(CONSOLE).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].counts, [(Outcome(0), 1), (Outcome(1), 7), (Outcome(0x10), 7)].into());
        assert_eq!((all[0].total(), all[1].total(), all[1].corrupt), (15, 7, 4));
    }

    #[test]
    fn the_oracle_tells_forbidden_from_relaxed() {
        let all = histograms(CONSOLE).unwrap();
        let relaxed: Test = "x=1; r0=y | y=1; r0=x | exists 0:r0=0 & 1:r0=0".parse().unwrap();
        let fenced: Test = "x=1; mfence; r0=y | y=1; mfence; r0=x | exists 0:r0=0 & 1:r0=0".parse().unwrap();
        let judgement = judge(&relaxed, &all[0]).unwrap();
        assert_eq!(judgement, Judgement { forbidden: vec![], asked: 1, seen: 3, allowed: 4 });
        let judgement = judge(&fenced, &all[0]).unwrap();
        assert_eq!(judgement, Judgement { forbidden: vec![(Outcome(0), 1)], asked: 1, seen: 2, allowed: 3 });
    }

    #[test]
    fn broken_lines_are_named() {
        for line in
            ["TESSERA-HISTOGRAM SB", "TESSERA-HISTOGRAM SB nowhere 0:1", "TESSERA-HISTOGRAM SB apart 0:x"]
        {
            assert_eq!(histograms(line), Err(ReportError::Line(line.into())));
        }
    }
}
