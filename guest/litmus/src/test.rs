//! A litmus test: what each thread does, and a condition on what is seen.

use thiserror::Error;

use crate::outcome::{Outcome, DIGITS_MAX};
use crate::value::VALUE_MAX;

pub use crate::table::{THREADS_MAX, THREAD_LOADS_MAX, THREAD_VARIABLES_MAX, VARIABLES_MAX};
pub use crate::value::Alignment;

/// A variable: an aligned word of 8 bytes, all zero at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Variable(pub u8);

/// Which bytes of a variable an operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All eight.
    Whole,
    /// The four at the lower address.
    Low,
    /// The four at the upper address.
    High,
}

/// What keeps earlier operations of a thread before later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fence {
    /// MFENCE.
    MFence,
    /// A locked operation on a word that only this thread uses (Linux's `smp_mb`).
    Locked,
}

/// One instruction of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// A plain store.
    Store {
        /// Where.
        variable: Variable,
        /// Which bytes of it.
        part: Part,
        /// What, from 1 to [`VALUE_MAX`].
        value: u8,
    },
    /// A plain load. A thread's loads are numbered in order, locked operations among them.
    Load {
        /// Where.
        variable: Variable,
        /// Which bytes of it.
        part: Part,
    },
    /// A fence.
    Fence(Fence),
    /// XCHG of the whole variable: stores `value`, loads what was there.
    Exchange {
        /// Where.
        variable: Variable,
        /// What, from 1 to [`VALUE_MAX`].
        value: u8,
    },
    /// LOCK XADD of 0 to the whole variable: loads it as a locked operation does.
    LockedLoad {
        /// Where.
        variable: Variable,
    },
}

impl Op {
    /// The variable that it touches.
    pub fn variable(&self) -> Option<Variable> {
        match *self {
            Op::Store { variable, .. }
            | Op::Load { variable, .. }
            | Op::Exchange { variable, .. }
            | Op::LockedLoad { variable } => Some(variable),
            Op::Fence(_) => None,
        }
    }

    /// The value that it stores.
    pub fn stored(&self) -> Option<u8> {
        match *self {
            Op::Store { value, .. } | Op::Exchange { value, .. } => Some(value),
            Op::Load { .. } | Op::LockedLoad { .. } | Op::Fence(_) => None,
        }
    }

    /// The bytes that it loads.
    pub fn loaded(&self) -> Option<Part> {
        match *self {
            Op::Load { part, .. } => Some(part),
            Op::Exchange { .. } | Op::LockedLoad { .. } => Some(Part::Whole),
            Op::Store { .. } | Op::Fence(_) => None,
        }
    }

    fn is_partial(&self) -> bool {
        match *self {
            Op::Store { part, .. } | Op::Load { part, .. } => part != Part::Whole,
            _ => false,
        }
    }
}

/// Something whose value belongs to an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Observed {
    /// What a load gave: thread, and which of its loads.
    Load {
        /// The thread.
        thread: u8,
        /// Which of its loads, from 0.
        load: u8,
    },
    /// What a variable holds in the end.
    Final(Variable),
}

/// One digit of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digit {
    /// Whose value it is.
    pub of: Observed,
    /// Which bytes of it. [`Part::Whole`] means that both halves hold the same, or memory is broken.
    pub part: Part,
}

impl Digit {
    /// Whether the digit says something about what `term` is about.
    fn answers(&self, term: &Term) -> bool {
        let same_part = self.part == term.part || self.part == Part::Whole || term.part == Part::Whole;
        self.of == term.of && same_part
    }
}

/// `of` has `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// Whose value.
    pub of: Observed,
    /// Which bytes of it.
    pub part: Part,
    /// Which value; 0 is the one at first.
    pub value: u8,
}

/// What a condition says of the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It asks whether there is one that fulfils it.
    Exists,
    /// It claims that each fulfils it.
    Forall,
}

/// A condition: one of several conjunctions of terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// What it says of the outcomes.
    pub kind: Kind,
    /// All terms of one of these hold.
    pub any: Vec<Vec<Term>>,
}

/// Why something is no test.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TestError {
    /// No threads, or too many.
    #[error("a test has 1 to {THREADS_MAX} threads, not {0}")]
    Threads(usize),
    /// More variables than [`VARIABLES_MAX`].
    #[error("variable number {} is beyond the {VARIABLES_MAX} that there may be", .0.0)]
    Variables(Variable),
    /// A thread touches more variables than [`THREAD_VARIABLES_MAX`].
    #[error("thread {thread} touches {count} variables, more than {THREAD_VARIABLES_MAX}")]
    ThreadVariables {
        /// The thread.
        thread: usize,
        /// How many it touches.
        count: usize,
    },
    /// A thread loads more often than [`THREAD_LOADS_MAX`].
    #[error("thread {thread} has {count} loads, more than {THREAD_LOADS_MAX}")]
    ThreadLoads {
        /// The thread.
        thread: usize,
        /// How many loads it has.
        count: usize,
    },
    /// A value that cannot be stored.
    #[error("{0} is stored, which is not from 1 to {VALUE_MAX}")]
    Value(u8),
    /// The condition is about something that the test does not have.
    #[error("the condition is about {0:?}, which is not there")]
    Condition(Observed),
    /// An outcome would have more digits than [`DIGITS_MAX`].
    #[error("an outcome has {0} digits, more than {DIGITS_MAX}")]
    Digits(usize),
}

/// A litmus test.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Test {
    /// Its name.
    pub name: String,
    threads: Vec<Vec<Op>>,
    condition: Condition,
}

impl Test {
    /// Checks the parts.
    ///
    /// # Errors
    /// When a limit of this module is exceeded, or the condition speaks of what is not there.
    pub fn new(
        name: impl Into<String>,
        threads: Vec<Vec<Op>>,
        condition: Condition,
    ) -> Result<Self, TestError> {
        if threads.is_empty() || threads.len() > THREADS_MAX {
            return Err(TestError::Threads(threads.len()));
        }
        let test = Test { name: name.into(), threads, condition };
        for op in test.threads.iter().flatten() {
            if let Some(beyond) = op.variable().filter(|v| usize::from(v.0) >= VARIABLES_MAX) {
                return Err(TestError::Variables(beyond));
            }
            if let Some(bad) = op.stored().filter(|value| !(1..=VALUE_MAX).contains(value)) {
                return Err(TestError::Value(bad));
            }
        }
        for thread in 0..test.threads.len() {
            let (variables, loads) = (test.thread_variables(thread).len(), test.loads(thread));
            if variables > THREAD_VARIABLES_MAX {
                return Err(TestError::ThreadVariables { thread, count: variables });
            }
            if loads > THREAD_LOADS_MAX {
                return Err(TestError::ThreadLoads { thread, count: loads });
            }
        }
        let digits = test.digits(Alignment::Aligned);
        if digits.len() > DIGITS_MAX {
            return Err(TestError::Digits(digits.len()));
        }
        let answered = |term: &&Term| digits.iter().any(|digit| digit.answers(term));
        match test.condition.any.iter().flatten().find(|term| !answered(term)) {
            Some(term) => Err(TestError::Condition(term.of)),
            None => Ok(test),
        }
    }

    /// What each thread does.
    pub fn threads(&self) -> &[Vec<Op>] {
        &self.threads
    }

    /// What is asked.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// How many variables it has.
    pub fn variables(&self) -> usize {
        let used = self.threads.iter().flatten().filter_map(Op::variable);
        used.map(|variable| usize::from(variable.0) + 1).max().unwrap_or(0)
    }

    /// The variables that a thread touches, in the order of their first use.
    pub fn thread_variables(&self, thread: usize) -> Vec<Variable> {
        let mut known = Vec::new();
        for variable in self.threads[thread].iter().filter_map(Op::variable) {
            if !known.contains(&variable) {
                known.push(variable);
            }
        }
        known
    }

    /// How many loads a thread has.
    pub fn loads(&self, thread: usize) -> usize {
        self.threads[thread].iter().filter(|op| op.loaded().is_some()).count()
    }

    /// The stores to a variable, in no particular order.
    pub fn stores(&self, variable: Variable) -> impl Iterator<Item = Op> + '_ {
        let all = self.threads.iter().flatten().copied();
        all.filter(move |op| op.variable() == Some(variable) && op.stored().is_some())
    }

    /// Whether some operation touches half a variable.
    pub fn is_mixed(&self) -> bool {
        self.threads.iter().flatten().any(Op::is_partial)
    }

    /// What the digits of an outcome are: loads thread by thread, then the variables whose last value is not known
    /// beforehand, or which the condition asks for.
    pub fn digits(&self, alignment: Alignment) -> Vec<Digit> {
        let halved = alignment == Alignment::Straddling || self.is_mixed();
        let mut digits = Vec::new();
        let mut see = |of: Observed, part: Part| match (part, halved) {
            (Part::Whole, true) => {
                digits.extend([Part::Low, Part::High].map(|part| Digit { of, part }));
            }
            _ => digits.push(Digit { of, part }),
        };
        for (thread, ops) in (0..).zip(&self.threads) {
            for (load, part) in (0..).zip(ops.iter().filter_map(Op::loaded)) {
                see(Observed::Load { thread, load }, part);
            }
        }
        for variable in (0..self.variables() as u8).map(Variable) {
            let of = Observed::Final(variable);
            let asked = self.condition.any.iter().flatten().any(|term| term.of == of);
            if asked || self.stores(variable).count() > 1 {
                see(of, Part::Whole);
            }
        }
        digits
    }

    /// Whether an outcome, of digits as [`Test::digits`] says, fulfils the condition.
    pub fn fulfils(&self, alignment: Alignment, outcome: Outcome) -> bool {
        let digits = self.digits(alignment);
        let holds = |term: &Term| {
            let values = (0..digits.len()).filter(|&place| digits[place].answers(term));
            values.map(|place| outcome.digit(place, digits.len())).all(|value| value == term.value)
        };
        self.condition.any.iter().any(|terms| terms.iter().all(holds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Variable = Variable(0);
    const Y: Variable = Variable(1);

    fn store(variable: Variable, value: u8) -> Op {
        Op::Store { variable, part: Part::Whole, value }
    }

    fn load(variable: Variable) -> Op {
        Op::Load { variable, part: Part::Whole }
    }

    fn exists(any: Vec<Vec<Term>>) -> Condition {
        Condition { kind: Kind::Exists, any }
    }

    #[test]
    fn digits_are_loads_and_variables_stored_twice() {
        let threads = vec![vec![store(X, 1), store(Y, 1)], vec![store(Y, 2), load(X)]];
        let of_x = Term { of: Observed::Load { thread: 1, load: 0 }, part: Part::Whole, value: 0 };
        let of_y = Term { of: Observed::Final(Y), part: Part::Whole, value: 2 };
        let test = Test::new("R", threads, exists(vec![vec![of_x, of_y]])).unwrap();
        let digit = |of, part| Digit { of, part };
        assert_eq!(
            test.digits(Alignment::Aligned),
            [digit(of_x.of, Part::Whole), digit(Observed::Final(Y), Part::Whole)]
        );
        assert_eq!(test.digits(Alignment::Straddling).len(), 4);
        assert!(test.fulfils(Alignment::Aligned, Outcome(0x02)));
        assert!(!test.fulfils(Alignment::Aligned, Outcome(0x12)));
        assert!(test.fulfils(Alignment::Straddling, Outcome(0x0022)));
        assert!(!test.fulfils(Alignment::Straddling, Outcome(0x0021)));
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        let none = || exists(vec![]);
        assert_eq!(Test::new("", vec![], none()), Err(TestError::Threads(0)));
        assert_eq!(Test::new("", vec![vec![]; 5], none()), Err(TestError::Threads(5)));
        let many: Vec<Op> = (0..6).map(|v| load(Variable(v))).collect();
        let error = TestError::ThreadVariables { thread: 0, count: 6 };
        assert_eq!(Test::new("", vec![many], none()), Err(error));
        let error = TestError::ThreadLoads { thread: 1, count: 7 };
        assert_eq!(Test::new("", vec![vec![], vec![load(X); 7]], none()), Err(error));
        assert_eq!(
            Test::new("", vec![vec![load(Variable(8))]], none()),
            Err(TestError::Variables(Variable(8)))
        );
        assert_eq!(Test::new("", vec![vec![store(X, 0)]], none()), Err(TestError::Value(0)));
        assert_eq!(Test::new("", vec![vec![store(X, 16)]], none()), Err(TestError::Value(16)));
        let of = Observed::Load { thread: 0, load: 0 };
        let term = Term { of, part: Part::Whole, value: 0 };
        let missing = Test::new("", vec![vec![store(X, 1)]], exists(vec![vec![term]]));
        assert_eq!(missing, Err(TestError::Condition(of)));
        assert_eq!(Test::new("", vec![vec![load(X); 6]; 3], none()), Err(TestError::Digits(18)));
    }
}
