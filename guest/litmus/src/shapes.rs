//! The tests that are run by name: cycles that everybody knows, and what no cycle describes.

use crate::cycle::{Cycle, Order};
use crate::enumerate::critical_cycles;
use crate::generate;
use crate::names::name;
use crate::test::Test;
use crate::text;

/// Tests about every outcome, in the text form of [`crate::text`]: what a thread sees of one variable never contradicts
/// its own program. The names are those of published tests without a cycle; the programs are our own.
pub const MUST_HOLD: &[(&str, &str)] = &[
    ("CoRR1", "x=1 | r0=x; r1=x | forall 1:r0=0 & 1:r1=0 or 1:r0=0 & 1:r1=1 or 1:r0=1 & 1:r1=1"),
    ("CoRW", "r0=x; x=1 | x=2 | forall 0:r0=0 or 0:r0=2"),
    ("CoWR", "x=1; r0=x | x=2 | forall 0:r0=1 or 0:r0=2 & x=2"),
    (
        "CO-SBI",
        "x=1; r0=x; r1=x | x=2; r0=x; r1=x | forall \
         0:r0=1 & 0:r1=1 & 1:r0=2 & 1:r1=2 or 0:r0=1 & 0:r1=1 & 1:r0=2 & 1:r1=1 or \
         0:r0=1 & 0:r1=1 & 1:r0=1 & 1:r1=1 or 0:r0=1 & 0:r1=2 & 1:r0=2 & 1:r1=2 or \
         0:r0=2 & 0:r1=2 & 1:r0=2 & 1:r1=2",
    ),
];

/// Locked operations on the tested variables themselves: whoever exchanges sees what the one before left.
const LOCKED: &[(&str, &str)] = &[
    ("XCHG2", "r0=xchg x 1 | r0=xchg x 2 | exists 0:r0=0 & 1:r0=0"),
    ("XCHG3", "r0=xchg x 1 | r0=xchg x 2 | r0=xchg x 3 | exists 0:r0=2 & 1:r0=1"),
    ("XCHG+W", "r0=xchg x 1 | x=2 | exists 0:r0=2 & x=2"),
];

/// Whole variables stored, halves loaded, and the other way round. An aligned access is one, whatever its size.
const MIXED: &[(&str, &str)] = &[
    ("MIX+W8+RR4", "x=1 | r0=x.hi; r1=x.lo | exists 1:r0=1 & 1:r1=0"),
    ("MIX+WW4+R8", "x.lo=1; x.hi=2 | r0=x | exists 1:r0.lo=0 & 1:r0.hi=2"),
    ("MIX+SB4", "x.lo=1; r0=x.hi | x.hi=1; r0=x.lo | exists 0:r0=0 & 1:r0=0"),
    ("MIX+SB4+mfences", "x.lo=1; mfence; r0=x.hi | x.hi=1; mfence; r0=x.lo | exists 0:r0=0 & 1:r0=0"),
    ("MIX+MP8", "x=1; y=1 | r0=y.hi; r1=x.lo; r2=x.hi | exists 1:r0=1 & 1:r1=0"),
    (
        "MIX+IRIW4",
        "x.lo=1 | x.hi=1 | r0=x.lo; r1=x.hi | r0=x.hi; r1=x.lo | exists 2:r0=1 & 2:r1=0 & 3:r0=1 & 3:r1=0",
    ),
];

/// Cycles beyond the plain ones: fences and locked operations where they matter, one variable only, a thread that reads its
/// own store before it is in memory.
const CYCLES: &[&str] = &[
    "MFencedWR Fre MFencedWR Fre",
    "PodWR Fre MFencedWR Fre",
    "LockdWR Fre LockdWR Fre",
    "RmwdWR Fre RmwdWR Fre",
    "PodWW Coe MFencedWR Fre",
    "RmwdWW Coe RmwdWR Fre",
    "RmwdWW Rfe RmwdRR Fre",
    "Rfi PodRR Fre Rfi PodRR Fre",
    "Rfi MFencedRR Fre Rfi MFencedRR Fre",
    "Rfe PodRR Fre MFencedWR Fre",
    "MFencedWR Fre MFencedWR Fre MFencedWR Fre",
    "Rfe PosRR Fre",
    "Rfe PosRW",
    "Rfe PosRW Coe",
    "Fre PosWR",
    "Coe PosWW",
    "Fre PosWW Coe PosWR",
    "Fre PosWR Fre PosWR",
    "Rfe PodRR Fre Rfe PodRR Fre",
    "Rfe PodRR Fre Rfe PodRW Coe",
    "Rfe PodRW Coe Rfe PodRW Coe",
    "MFencedWR Fre MFencedWR Fre MFencedWR Fre MFencedWR Fre",
    "PodWW Rfe PodRW Rfe PodRW Rfe PodRR Fre",
    "PodWW Coe PodWW Coe PodWW Coe PodWW Coe",
];

/// All of them, in a fixed order: every plain critical cycle of two and three threads, chosen other ones, and those
/// written by hand.
///
/// # Panics
/// Never: a test makes all of them.
pub fn all() -> Vec<Test> {
    let plain = (2..=3).flat_map(|threads| critical_cycles(threads, &[Order::Plain]));
    let chosen = CYCLES.iter().filter_map(|text| text.parse::<Cycle>().ok());
    let cycles = plain.chain(chosen).filter_map(|cycle| generate::test(name(&cycle), &cycle).ok());
    let written = [MUST_HOLD, LOCKED, MIXED].concat();
    let written = written.into_iter().filter_map(|(name, text)| text::parse(name, text).ok());
    cycles.chain(written).collect()
}

/// The test of that name: one of [`all`], or a cycle in the words of [`crate::cycle`].
pub fn named(name: &str) -> Option<Test> {
    all().into_iter().find(|test| test.name == name).or_else(|| {
        let cycle: Cycle = name.parse().ok()?;
        generate::test(crate::names::name(&cycle), &cycle).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::oracle::{verdict, Verdict};
    use crate::test::Kind;

    #[test]
    fn all_of_them_are_made_and_have_names_of_their_own() {
        let tests = all();
        for text in CYCLES {
            let cycle: Cycle = text.parse().unwrap();
            assert!(tests.iter().any(|test| test.name == name(&cycle)), "{text}");
        }
        let written = MUST_HOLD.len() + LOCKED.len() + MIXED.len();
        assert_eq!(tests.len(), 6 + 17 + CYCLES.len() + written);
        let names: BTreeSet<&str> = tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names.len(), tests.len());
    }

    #[test]
    fn the_relaxed_ones_are_those_where_a_load_may_pass_a_store() {
        let relaxed: Vec<String> = all()
            .into_iter()
            .filter(|test| test.condition().kind == Kind::Exists && verdict(test) == Ok(Verdict::Sometimes))
            .map(|test| test.name)
            .collect();
        assert_eq!(
            relaxed,
            [
                "SB",
                "R",
                "RWC",
                "WRW+WR",
                "W+RWC",
                "Z6.0",
                "3.SB",
                "Z6.4",
                "Z6.5",
                "SB+mfence+po",
                "SB+rfi-pos",
                "MIX+SB4"
            ]
        );
    }
}
