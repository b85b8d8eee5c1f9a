//! A run of the payload's litmus tests, and what the oracle says about it.

use std::collections::HashMap;
use std::fmt;

use serde_json::{json, Value};
use tessera_litmus::outcome::Outcome;
use tessera_litmus::report::{histograms, judge, Histogram, Judgement};
use tessera_litmus::test::Test;

/// One test in one placement.
pub struct Judged {
    pub histogram: Histogram,
    pub judgement: Judgement,
    digits: usize,
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Histogram { test, placement, counts, corrupt } = &self.histogram;
        let Judgement { forbidden, asked, seen, allowed } = &self.judgement;
        write!(f, "{test:<18} {:<9}", placement.name())?;
        write!(
            f,
            "{:>7} runs, {seen:>3} of {allowed:>3} outcomes, asked for {asked:>5}",
            self.histogram.total()
        )?;
        let text = |outcome: &Outcome| outcome.text(self.digits).to_string();
        let forbidden: Vec<String> =
            forbidden.iter().map(|(o, n)| format!("{} {n} times", text(o))).collect();
        if !forbidden.is_empty() || *corrupt > 0 {
            write!(f, "; FORBIDDEN: {}; corrupt {corrupt}", forbidden.join(", "))?;
        }
        let counts: Vec<String> =
            counts.iter().map(|(outcome, n)| format!("{}:{n}", text(outcome))).collect();
        write!(f, "; {}", counts.join(" "))
    }
}

impl Judged {
    /// All about it, for `cargo xtask`.
    pub fn row(&self) -> Value {
        let text = |outcome: Outcome| outcome.text(self.digits).to_string();
        let counts: Vec<_> = self.histogram.counts.iter().map(|(&o, n)| json!([text(o), n])).collect();
        let forbidden: Vec<_> = self.judgement.forbidden.iter().map(|&(o, n)| json!([text(o), n])).collect();
        json!({
            "test": self.histogram.test, "place": self.histogram.placement.name(), "runs": self.histogram.total(),
            "counts": counts, "forbidden": forbidden, "corrupt": self.histogram.corrupt,
            "relaxed": if self.judgement.forbidden.is_empty() { self.judgement.asked } else { 0 },
            "seen": self.judgement.seen, "allowed": self.judgement.allowed,
        })
    }
}

/// The oracle's word on each of these.
pub fn of(histograms: Vec<Histogram>, tests: &[Test]) -> Vec<Judged> {
    let tests: HashMap<&str, &Test> = tests.iter().map(|test| (test.name.as_str(), test)).collect();
    let judged = histograms.into_iter().map(|histogram| {
        let test = tests[histogram.test.as_str()];
        let judgement = judge(test, &histogram).expect("small enough to judge");
        Judged { digits: test.digits(histogram.placement.alignment()).len(), histogram, judgement }
    });
    judged.collect()
}

/// Judges all that a console tells of, by these tests. Prints every histogram.
pub fn all(console: &str, tests: &[Test]) -> Vec<Judged> {
    let judged = of(histograms(console).expect("the payload's lines"), tests);
    judged.iter().for_each(|one| println!("{one}"));
    let runs: u64 = judged.iter().map(|one| one.histogram.total()).sum();
    println!("{runs} runs of {} tests in their placements, {} forbidden", judged.len(), forbidden(&judged));
    judged
}

/// Runs with an outcome that x86-TSO forbids, or with a value from nowhere.
pub fn forbidden(judged: &[Judged]) -> u64 {
    let of = |one: &Judged| {
        one.judgement.forbidden.iter().map(|(_, count)| count).sum::<u64>() + one.histogram.corrupt
    };
    judged.iter().map(of).sum()
}
