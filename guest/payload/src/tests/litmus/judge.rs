//! Thread 0's part after each batch: which outcome each instance had.

use core::sync::atomic::Ordering;

use tessera_litmus::outcome::Outcome;
use tessera_litmus::table::{Last, Record, Source, View};
use tessera_litmus::value::{halves, meaning, word};

use super::play::Run;
use crate::runtime::arena::Page;
use crate::runtime::machine::Machine;

/// Different forbidden outcomes that are told apart; more are counted with the last one.
const FORBIDDEN_MAX: usize = 32;

/// Words of the first page.
const CORRUPT: usize = 0;
const SAMPLE_INSTANCE: usize = 1;
const SAMPLE_WORD: usize = 2;
/// The outcome of the instance before, and how often it changed from one instance to the next.
const BEFORE: usize = 3;
const CHANGES: usize = 4;
/// Pairs of a forbidden outcome and how often it was seen.
const FORBIDDEN: usize = 8;

/// What was seen of a test. Only one CPU at a time uses it.
#[derive(Clone, Copy)]
pub struct Tally {
    first: &'static Page,
    /// For each allowed outcome, how often it was seen.
    counts: &'static [Page],
}

/// Sums over all outcomes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// All instances.
    pub rounds: u64,
    /// Those with an outcome that x86-TSO forbids.
    pub forbidden: u64,
    /// Those with the outcome that the test asks for.
    pub asked: u64,
    /// Different allowed outcomes.
    pub seen: u64,
    /// How often an instance's outcome was not that of the instance before: how often threads met.
    pub changes: u64,
}

impl Tally {
    /// Room for tests with up to `allowed` outcomes.
    pub fn new(machine: &Machine, allowed: usize) -> Self {
        let arena = &machine.arena;
        Self { first: arena.page(), counts: arena.pages(allowed.div_ceil(512).max(1)) }
    }

    /// Forgets everything.
    pub fn clear(&self, record: &Record<'_>) {
        self.first.clear();
        (0..record.allowed()).for_each(|number| self.count(number).store(0, Ordering::Relaxed));
    }

    /// How often a value was seen that nobody can have stored there.
    pub fn corrupt(&self) -> u64 {
        self.get(CORRUPT)
    }

    /// The last such instance and the word that was there.
    pub fn sample(&self) -> (u64, u64) {
        (self.get(SAMPLE_INSTANCE), self.get(SAMPLE_WORD))
    }

    /// Gives each outcome that was seen, with its count.
    pub fn outcomes(&self, record: &Record<'_>, mut each: impl FnMut(Outcome, u64)) {
        for number in 0..record.allowed() {
            let count = self.count(number).load(Ordering::Relaxed);
            if count > 0 {
                each(record.outcome(number), count);
            }
        }
        self.forbidden().for_each(|(outcome, count)| each(outcome, count));
    }

    /// The sums.
    pub fn summary(&self, record: &Record<'_>) -> Summary {
        let mut summary = Summary {
            forbidden: self.forbidden().map(|(_, count)| count).sum(),
            changes: self.get(CHANGES),
            ..Summary::default()
        };
        for number in 0..record.allowed() {
            let count = self.count(number).load(Ordering::Relaxed);
            summary.rounds += count;
            summary.seen += u64::from(count > 0);
            summary.asked += if record.is_asked(number) { count } else { 0 };
        }
        summary.rounds += summary.forbidden + self.corrupt();
        summary
    }

    fn forbidden(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        let pairs = (0..FORBIDDEN_MAX).map(|place| FORBIDDEN + 2 * place);
        let seen = pairs.map(|at| (Outcome(self.get(at)), self.get(at + 1)));
        seen.take_while(|&(_, count)| count > 0)
    }

    fn add(&self, record: &Record<'_>, outcome: Outcome) {
        let place = record.find(outcome);
        match place {
            Some(number) => {
                self.count(number).fetch_add(1, Ordering::Relaxed);
            }
            None => self.add_forbidden(outcome),
        }
        let changed = self.first.word(BEFORE).swap(outcome.0, Ordering::Relaxed) != outcome.0;
        self.first.word(CHANGES).fetch_add(u64::from(changed), Ordering::Relaxed);
    }

    fn add_forbidden(&self, outcome: Outcome) {
        let known = self.forbidden().position(|(known, _)| known == outcome);
        let place = known.unwrap_or(self.forbidden().count()).min(FORBIDDEN_MAX - 1);
        self.first.word(FORBIDDEN + 2 * place).store(outcome.0, Ordering::Relaxed);
        self.first.word(FORBIDDEN + 2 * place + 1).fetch_add(1, Ordering::Relaxed);
    }

    fn add_corrupt(&self, instance: usize, word: u64) {
        self.first.word(CORRUPT).fetch_add(1, Ordering::Relaxed);
        self.first.word(SAMPLE_INSTANCE).store(instance as u64, Ordering::Relaxed);
        self.first.word(SAMPLE_WORD).store(word, Ordering::Relaxed);
    }

    fn get(&self, index: usize) -> u64 {
        self.first.word(index).load(Ordering::Relaxed)
    }

    fn count(&self, number: usize) -> &'static core::sync::atomic::AtomicU64 {
        self.counts[number / 512].word(number % 512)
    }
}

/// Judges one instance of the batch, and notes what its variables hold now.
pub fn instance(run: &Run, batch: u32, instance: usize) {
    let mut outcome = Ok(Outcome::default());
    for source in run.record.sources() {
        let word = match source.load {
            Some((thread, load)) => run.stage.logged(thread, instance, load),
            None => variable(run, source.variable, instance),
        };
        let last = run.places.last(source.variable, instance);
        outcome = outcome.and_then(|outcome| match digit(source, word, last, batch) {
            Some(digit) => Ok(outcome.push(digit)),
            None => Err(word),
        });
    }
    match outcome {
        Ok(outcome) => run.tally.add(&run.record, outcome),
        Err(word) => run.tally.add_corrupt(instance, word),
    }
    for index in 0..run.record.variables() {
        match run.record.last(index) {
            Last::Unchanged => {}
            Last::Value(value) => run.places.set_last(index, instance, word(batch, value)),
            Last::Look => run.places.set_last(index, instance, variable(run, index, instance)),
        }
    }
}

/// What a word means; `None` if it cannot have been there.
fn digit(source: Source, word: u64, last: u64, batch: u32) -> Option<u8> {
    let ((low, high), (last_low, last_high)) = (halves(word), halves(last));
    match source.view {
        View::Whole if low != high => None,
        View::Whole | View::Low => meaning(low, batch, last_low),
        View::High => meaning(high, batch, last_high),
        View::HighAlone => meaning(low, batch, last_high),
    }
}

/// What a variable holds. All threads are between two barriers.
fn variable(run: &Run, index: usize, instance: usize) -> u64 {
    let address = run.places.address(index, instance) as *const u64;
    // SAFETY: eight bytes of arena pages, which may straddle two of them.
    unsafe { core::ptr::read_unaligned(address) }
}
