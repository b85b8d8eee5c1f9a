//! Finds inputs that lead to situations not seen before, and keeps them.

use std::collections::HashSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use super::input::BYTES_MAX;
use super::world::Features;
use crate::protocol::tests::random::Random;

/// What an input leads to: the situations on the way, and what went wrong.
pub type Run = fn(&[u8]) -> (Features, Result<(), String>);

/// How far fuzzing has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub runs: u64,
    /// Different situations seen.
    pub situations: usize,
    /// Inputs that led to new ones.
    pub kept: usize,
}

/// An input that something goes wrong with, as short as it could be made.
#[derive(Debug)]
pub struct Failure {
    pub input: Vec<u8>,
    pub why: String,
}

pub struct Engine {
    run: Run,
    random: Random,
    seen: HashSet<u64>,
    pub corpus: Vec<Vec<u8>>,
    runs: u64,
}

impl Engine {
    pub fn new(run: Run, seed: u64) -> Self {
        Engine { run, random: Random::new(seed), seen: HashSet::new(), corpus: Vec::new(), runs: 0 }
    }

    /// Runs an input and keeps it if it leads to something new.
    pub fn try_input(&mut self, input: &[u8]) -> Result<(), Failure> {
        let (features, outcome) = watched(self.run, input);
        self.runs += 1;
        if let Err(why) = outcome {
            return Err(self.shrink(input.to_vec(), why));
        }
        let before = self.seen.len();
        self.seen.extend(features);
        if self.seen.len() > before {
            self.corpus.push(input.to_vec());
        }
        Ok(())
    }

    /// Goes on until the time is over, and tells once a second how far it is.
    pub fn fuzz(&mut self, time: Duration, mut tell: impl FnMut(&Progress)) -> Result<Progress, Failure> {
        let start = Instant::now();
        let mut told = start;
        while start.elapsed() < time {
            for _ in 0..64 {
                let input = self.next_input();
                self.try_input(&input)?;
            }
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                tell(&self.progress());
            }
        }
        Ok(self.progress())
    }

    pub fn progress(&self) -> Progress {
        Progress { runs: self.runs, situations: self.seen.len(), kept: self.corpus.len() }
    }

    /// A kept input with some changes, or a new one.
    fn next_input(&mut self) -> Vec<u8> {
        if self.corpus.is_empty() || self.random.percent(5) {
            let length = self.random.between(16, BYTES_MAX as u64);
            return (0..length).map(|_| self.random.next() as u8).collect();
        }
        let mut input = self.some_kept();
        for _ in 0..self.random.between(1, 6) {
            self.change(&mut input);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn some_kept(&mut self) -> Vec<u8> {
        let at = self.random.next() as usize % self.corpus.len();
        self.corpus[at].clone()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let length = input.len() as u64;
        let at = self.random.between(0, length) as usize;
        match self.random.between(0, 5) {
            0 if at < input.len() => input[at] = self.random.next() as u8,
            1 if at < input.len() => input[at] ^= 1 << self.random.between(0, 7),
            2 => {
                let more: Vec<u8> =
                    (0..self.random.between(1, 8)).map(|_| self.random.next() as u8).collect();
                input.splice(at..at, more);
            }
            3 => {
                let end = input.len().min(at + self.random.between(1, 8) as usize);
                input.drain(at..end);
            }
            4 => {
                // A piece of another input.
                let other = self.some_kept();
                let from = self.random.between(0, other.len() as u64) as usize;
                let end = other.len().min(from + self.random.between(1, 64) as usize);
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                // A piece of its own, again.
                let end = input.len().min(at + self.random.between(1, 32) as usize);
                let piece = input[at..end].to_vec();
                input.extend(piece);
            }
        }
    }

    /// Leaves out what need not be there for something to go wrong.
    fn shrink(&self, input: Vec<u8>, mut why: String) -> Failure {
        let input = without_needless(input, |shorter| match watched(self.run, shorter).1 {
            Err(still) => {
                why = still;
                true
            }
            Ok(()) => false,
        });
        Failure { input, why }
    }
}

/// A run whose panics are failures.
fn watched(run: Run, input: &[u8]) -> (Features, Result<(), String>) {
    catch_unwind(AssertUnwindSafe(|| run(input)))
        .unwrap_or_else(|_| (Features::new(), Err("a node panics".to_owned())))
}

/// At most `most` inputs that lead to as many situations as so many can, each as short as it can be for that.
pub fn essential(run: Run, inputs: Vec<Vec<u8>>, most: usize) -> Vec<Vec<u8>> {
    let situations = |input: &[u8]| -> HashSet<u64> { watched(run, input).0.into_iter().collect() };
    let mut left: Vec<(HashSet<u64>, Vec<u8>)> =
        inputs.into_iter().map(|input| (situations(&input), input)).collect();
    let mut chosen = Vec::new();
    while chosen.len() < most {
        left.retain(|(adds, _)| !adds.is_empty());
        let Some(best) = (0..left.len()).max_by_key(|&at| left[at].0.len()) else { break };
        let (adds, input) = left.swap_remove(best);
        left.iter_mut().for_each(|(others, _)| others.retain(|situation| !adds.contains(situation)));
        chosen.push(without_needless(input, |shorter| adds.is_subset(&situations(shorter))));
    }
    chosen
}

/// Leaves pieces out, halves first and single bytes last, for as long as `still` holds.
fn without_needless(mut input: Vec<u8>, mut still: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let mut piece = input.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..input.len().min(at + piece));
            match still(&shorter) {
                true => input = shorter,
                false => at += piece,
            }
        }
        piece /= 2;
    }
    input
}
