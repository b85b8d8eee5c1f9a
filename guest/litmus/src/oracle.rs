//! The abstract machine of x86-TSO, run through every interleaving.
//!
//! The machine is that of Owens, Sarkar and Sewell ("A Better x86 Memory Model: x86-TSO", TPHOLs 2009): each thread has a
//! FIFO buffer of stores, which leave it for the shared memory at any time; a load takes the newest store to its
//! address from its own thread's buffer, else what memory holds; a fence waits until the buffer is empty; a locked
//! operation does so too and then reads and writes memory in one step.
//!
//! Memory is made of halves of variables. An access to a whole aligned variable touches both at once; one to a variable
//! that straddles two pages is two accesses, in either order ([`Alignment`]).

use std::collections::{BTreeSet, HashSet};

use crate::outcome::{Outcome, DIGITS_MAX};
use crate::test::{Alignment, Observed, Op, Part, Test, TestError, Variable, THREADS_MAX, VARIABLES_MAX};

/// Halves of variables that a step touches: bit 2v is variable v's lower half, bit 2v + 1 the upper one.
type Halves = u16;

/// What a thread does in one step of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Into the buffer.
    Store { halves: Halves, value: u8 },
    /// Into the load's place.
    Load { halves: Halves, load: usize },
    /// Goes on when the buffer is empty.
    Fence,
    /// When the buffer is empty: reads, and then writes if there is a value.
    Locked { halves: Halves, load: usize, value: Option<u8> },
}

/// Nibbles: what each half of each variable holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Memory(u64);

impl Memory {
    fn get(self, half: usize) -> u8 {
        (self.0 >> (4 * half) & 15) as u8
    }

    fn set(&mut self, half: usize, value: u8) {
        self.0 = self.0 & !(15 << (4 * half)) | u64::from(value) << (4 * half);
    }

    fn store(&mut self, halves: Halves, value: u8) {
        each(halves).for_each(|half| self.set(half, value));
    }
}

/// Nibbles: what each load gave, two for each, the lower half's first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Loaded(u128);

// Two nibbles for each load, of which there are no more than digits.
const _: () = assert!(DIGITS_MAX * 2 * 4 <= u128::BITS as usize);
// A nibble for each half of each variable.
const _: () = assert!(VARIABLES_MAX * 2 * 4 <= u64::BITS as usize);

impl Loaded {
    fn get(self, load: usize, part: usize) -> u8 {
        (self.0 >> (8 * load + 4 * part) & 15) as u8
    }

    fn set(&mut self, load: usize, part: usize, value: u8) {
        self.0 |= u128::from(value) << (8 * load + 4 * part);
    }
}

/// A state of the machine. What a thread's buffer holds follows from how far it has come and how many of its stores
/// have left the buffer, since they leave in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    next: [u8; THREADS_MAX],
    left: [u8; THREADS_MAX],
    memory: Memory,
    loaded: Loaded,
}

/// The places of all steps that store, for each thread, beside the steps.
struct Program {
    steps: Vec<Vec<Step>>,
    stores: Vec<Vec<usize>>,
}

impl Program {
    fn new(steps: Vec<Vec<Step>>) -> Self {
        let is_store = |step: &Step| matches!(step, Step::Store { .. });
        let places = |steps: &Vec<Step>| (0..steps.len()).filter(|&at| is_store(&steps[at])).collect();
        let stores = steps.iter().map(places).collect();
        Program { steps, stores }
    }

    /// The stores in a thread's buffer, the oldest first.
    fn buffered(&self, state: &State, thread: usize) -> impl DoubleEndedIterator<Item = (Halves, u8)> + '_ {
        let next = usize::from(state.next[thread]);
        let waiting = &self.stores[thread][usize::from(state.left[thread])..];
        waiting.iter().filter(move |&&at| at < next).filter_map(move |&at| match self.steps[thread][at] {
            Step::Store { halves, value } => Some((halves, value)),
            _ => None,
        })
    }

    /// The state after the oldest store of the thread's buffer has reached memory.
    fn drained(&self, state: &State, thread: usize) -> Option<State> {
        let (halves, value) = self.buffered(state, thread).next()?;
        let mut after = *state;
        after.memory.store(halves, value);
        after.left[thread] += 1;
        Some(after)
    }

    /// The state after the thread's next step, if it can take it.
    fn stepped(&self, state: &State, thread: usize) -> Option<State> {
        let step = *self.steps[thread].get(usize::from(state.next[thread]))?;
        let mut after = *state;
        after.next[thread] += 1;
        let empty = self.buffered(state, thread).next().is_none();
        match step {
            Step::Store { .. } => {}
            Step::Load { halves, load } => {
                for half in each(halves) {
                    let own = self.buffered(state, thread).rev().find(|(stored, _)| stored >> half & 1 == 1);
                    let value = own.map_or_else(|| state.memory.get(half), |(_, value)| value);
                    after.loaded.set(load, half % 2, value);
                }
            }
            Step::Fence | Step::Locked { .. } if !empty => return None,
            Step::Fence => {}
            Step::Locked { halves, load, value } => {
                each(halves).for_each(|half| after.loaded.set(load, half % 2, state.memory.get(half)));
                if let Some(value) = value {
                    after.memory.store(halves, value);
                }
            }
        }
        Some(after)
    }

    /// Whether the thread's next step changes nothing for other threads and takes no part in any order but its
    /// own thread's, so that it may as well be taken at once.
    fn is_silent(&self, state: &State, thread: usize) -> bool {
        match self.steps[thread].get(usize::from(state.next[thread])) {
            Some(Step::Store { .. }) => true,
            Some(Step::Fence) => self.buffered(state, thread).next().is_none(),
            _ => false,
        }
    }

    fn successors(&self, state: &State, into: &mut Vec<State>) {
        let threads = 0..self.steps.len();
        if let Some(thread) = threads.clone().find(|&thread| self.is_silent(state, thread)) {
            into.extend(self.stepped(state, thread));
            return;
        }
        for thread in threads {
            into.extend(self.drained(state, thread));
            into.extend(self.stepped(state, thread));
        }
    }

    /// Every state in which all threads have ended and all buffers are empty.
    fn ends(&self) -> impl Iterator<Item = State> {
        let mut known = HashSet::new();
        let mut ends = HashSet::new();
        let mut todo = vec![State::default()];
        let mut next = Vec::new();
        while let Some(state) = todo.pop() {
            self.successors(&state, &mut next);
            if next.is_empty() {
                ends.insert(state);
            }
            todo.extend(next.drain(..).filter(|&after| known.insert(after)));
        }
        ends.into_iter()
    }
}

/// Every outcome that x86-TSO allows, of digits as [`Test::digits`] says.
///
/// # Errors
/// [`TestError::Digits`] when outcomes of straddling variables have too many digits.
pub fn allowed(test: &Test, alignment: Alignment) -> Result<BTreeSet<Outcome>, TestError> {
    let digits = test.digits(alignment);
    if digits.len() > DIGITS_MAX {
        return Err(TestError::Digits(digits.len()));
    }
    let first_loads = first_loads(test);
    let outcome = |state: State| {
        digits.iter().fold(Outcome::default(), |outcome, digit| {
            let part = usize::from(digit.part == Part::High);
            outcome.push(match digit.of {
                Observed::Load { thread, load } => {
                    state.loaded.get(first_loads[usize::from(thread)] + usize::from(load), part)
                }
                Observed::Final(variable) => state.memory.get(2 * usize::from(variable.0) + part),
            })
        })
    };
    Ok(programs(test, alignment)
        .flat_map(|program| program.ends().map(outcome).collect::<Vec<_>>())
        .collect())
}

/// What x86-TSO says about a test's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// No outcome fulfils it.
    Never,
    /// Some do, some do not.
    Sometimes,
    /// All do.
    Always,
}

/// The machine's verdict on the test's condition, variables being aligned.
///
/// # Errors
/// As [`allowed`].
pub fn verdict(test: &Test) -> Result<Verdict, TestError> {
    let outcomes = allowed(test, Alignment::Aligned)?;
    let fulfilling = outcomes.iter().filter(|outcome| test.fulfils(Alignment::Aligned, **outcome)).count();
    Ok(match fulfilling {
        0 => Verdict::Never,
        all if all == outcomes.len() => Verdict::Always,
        _ => Verdict::Sometimes,
    })
}

/// Where each thread's loads begin in the count of all.
fn first_loads(test: &Test) -> Vec<usize> {
    (0..test.threads().len()).map(|thread| (0..thread).map(|before| test.loads(before)).sum()).collect()
}

/// The test's program; with straddling variables, one for each choice of which half an access touches first.
fn programs(test: &Test, alignment: Alignment) -> impl Iterator<Item = Program> + '_ {
    let splits = |op: &&Op| alignment == Alignment::Straddling && is_split(op);
    let choices = test.threads().iter().flatten().filter(splits).count();
    (0..1u64 << choices).map(move |mut upper_first| {
        let mut steps = Vec::new();
        for (ops, first_load) in test.threads().iter().zip(first_loads(test)) {
            let (mut thread, mut load) = (Vec::new(), first_load);
            for op in ops {
                let step = step(op, load);
                if alignment == Alignment::Straddling && is_split(op) {
                    let (low, high) = in_halves(step);
                    thread.extend(if upper_first & 1 == 1 { [high, low] } else { [low, high] });
                    upper_first >>= 1;
                } else {
                    thread.push(step);
                }
                load += usize::from(op.loaded().is_some());
            }
            steps.push(thread);
        }
        Program::new(steps)
    })
}

/// Whether the operation on a straddling variable is two.
fn is_split(op: &Op) -> bool {
    matches!(op, Op::Store { part: Part::Whole, .. } | Op::Load { part: Part::Whole, .. })
}

fn step(op: &Op, load: usize) -> Step {
    match *op {
        Op::Store { variable, part, value } => Step::Store { halves: halves(variable, part), value },
        Op::Load { variable, part } => Step::Load { halves: halves(variable, part), load },
        Op::Fence(_) => Step::Fence,
        Op::Exchange { variable, value } => {
            Step::Locked { halves: halves(variable, Part::Whole), load, value: Some(value) }
        }
        Op::LockedLoad { variable } => {
            Step::Locked { halves: halves(variable, Part::Whole), load, value: None }
        }
    }
}

/// The same step for the lower half alone, and for the upper half.
fn in_halves(step: Step) -> (Step, Step) {
    const LOW: Halves = 0x5555;
    let only = |mask: Halves| match step {
        Step::Store { halves, value } => Step::Store { halves: halves & mask, value },
        Step::Load { halves, load } => Step::Load { halves: halves & mask, load },
        other => other,
    };
    (only(LOW), only(!LOW))
}

fn halves(variable: Variable, part: Part) -> Halves {
    let bits = match part {
        Part::Low => 1,
        Part::High => 2,
        Part::Whole => 3,
    };
    bits << (2 * variable.0)
}

fn each(halves: Halves) -> impl Iterator<Item = usize> {
    (0..Halves::BITS as usize).filter(move |half| halves >> half & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(text: &str, alignment: Alignment) -> Vec<String> {
        let test: Test = text.parse().unwrap();
        let digits = test.digits(alignment).len();
        allowed(&test, alignment)
            .unwrap()
            .into_iter()
            .map(|outcome| outcome.text(digits).to_string())
            .collect()
    }

    fn aligned(text: &str) -> Vec<String> {
        outcomes(text, Alignment::Aligned)
    }

    #[test]
    fn a_load_may_pass_a_store_but_not_a_fence_or_a_locked_operation() {
        assert_eq!(aligned("x=1; r0=y | y=1; r0=x | exists x=1").len(), 4);
        for between in ["mfence", "lock", "r0=xchg z 1"] {
            let load = if between.starts_with('r') { "r1" } else { "r0" };
            let text = format!("x=1; {between}; {load}=y | y=1; {between}; {load}=x | exists x=1");
            let test: Test = text.parse().unwrap();
            let last = |outcome: &String| outcome.chars().nth(test.loads(0) - 1);
            let both_zero = |outcome: &&String| last(outcome) == Some('0') && outcome.ends_with("01");
            assert!(aligned(&text).iter().filter(both_zero).count() == 0, "{text}");
        }
    }

    #[test]
    fn a_thread_sees_its_own_newest_store_before_others_do() {
        assert_eq!(aligned("x=1; x=2; r0=x | exists x=2"), ["22"]);
        // Sewell et al. 2010, example n6: the own store is seen, and yet comes after the other thread's.
        assert!(aligned("x=1; r0=x; r1=y | y=2; x=2 | exists x=1").contains(&"101".to_owned()));
        // Example n5: two threads cannot each see the other's store over their own.
        assert!(!aligned("x=1; r0=x | x=2; r0=x | exists 0:r0=2").contains(&"212".to_owned()));
    }

    #[test]
    fn locked_operations_take_turns() {
        assert_eq!(aligned("r0=xchg x 1 | r0=xchg x 2 | exists x=1"), ["012", "201"]);
        assert_eq!(aligned("x=1; r0=xadd x | exists x=1"), ["11"]);
    }

    #[test]
    fn a_straddling_access_is_two_in_either_order_unless_it_is_locked() {
        let torn = outcomes("x=1 | r0=x | exists x=1", Alignment::Straddling);
        assert_eq!(torn, ["0011", "0111", "1011", "1111"]);
        let locked = outcomes("r0=xchg x 1 | r0=xadd x | exists x=1", Alignment::Straddling);
        assert_eq!(locked, ["000011", "001111"]);
    }

    #[test]
    fn an_aligned_access_is_one_whatever_its_size() {
        assert_eq!(aligned("x=1 | r0=x.hi; r1=x.lo | exists 1:r0=1"), ["00", "01", "11"]);
        assert_eq!(aligned("x.lo=1; x.hi=2; r0=x | exists 0:r0.lo=1"), ["1212"]);
    }

    #[test]
    fn outcomes_with_too_many_digits_are_refused() {
        let test: Test =
            "r0=x; r1=x; r2=x | r0=x; r1=x; r2=x | r0=x; r1=x; r2=x | exists 0:r0=0".parse().unwrap();
        assert_eq!(allowed(&test, Alignment::Straddling), Err(TestError::Digits(18)));
        assert_eq!(allowed(&test, Alignment::Aligned).unwrap().len(), 1);
    }
}
