//! Tests as text: threads, and then the condition, with `|` between.
//!
//! ```text
//! x=1; mfence; r0=y | y=1; mfence; r0=x | exists 0:r0=0 & 1:r0=0
//! ```
//!
//! | text | operation |
//! |---|---|
//! | `x=1`, `x.lo=1`, `x.hi=1` | store to a variable, to its lower half, to its upper half |
//! | `r0=x`, `r0=x.lo` | load; a thread's loads are called `r0`, `r1`, ... in order |
//! | `mfence`, `lock` | MFENCE; a locked operation on a private word |
//! | `r0=xchg x 1` | exchange: loads and stores |
//! | `r0=xadd x` | locked addition of 0 |
//!
//! Variables are `x y z a b c d e`. A condition is `exists` or `forall`, then terms `0:r0=1` (thread 0's first load), `x=2`
//! (what a variable holds in the end), `0:r0.lo=1`, with `&` between terms and `or` between conjunctions.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::test::{
    Condition, Fence, Kind, Observed, Op, Part, Term, Test, TestError, Variable, VARIABLES_MAX,
};

const NAMES: [&str; VARIABLES_MAX] = ["x", "y", "z", "a", "b", "c", "d", "e"];

/// Why a text is no test.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// No `exists` or `forall` at the end.
    #[error("there is no condition: the last part must be `exists ...` or `forall ...`")]
    NoCondition,
    /// Not an operation.
    #[error("{0:?} is no operation")]
    Op(String),
    /// A thread's loads are called r0, r1, ... in order.
    #[error("{text:?}: the thread's next load is called r{expected}")]
    LoadName {
        /// The operation.
        text: String,
        /// The number that it should have.
        expected: usize,
    },
    /// Not a term.
    #[error("{0:?} is no term of a condition")]
    Term(String),
    /// The parts make no test.
    #[error(transparent)]
    Test(#[from] TestError),
}

/// Reads a test.
///
/// # Errors
/// When the text has another form than this module says, or what it says is no test.
pub fn parse(name: impl Into<String>, text: &str) -> Result<Test, TextError> {
    let (threads, condition) = text.rsplit_once('|').ok_or(TextError::NoCondition)?;
    let threads = threads.split('|').map(thread).collect::<Result<_, _>>()?;
    Ok(Test::new(name, threads, parse_condition(condition.trim())?)?)
}

fn thread(text: &str) -> Result<Vec<Op>, TextError> {
    let mut loads = 0;
    let mut ops = Vec::new();
    for text in text.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let unknown = || TextError::Op(text.to_owned());
        let op = op(text).ok_or_else(unknown)?;
        if op.loaded().is_some() {
            let named = text.split_once('=').map(|(name, _)| name);
            if named != Some(&format!("r{loads}")) {
                return Err(TextError::LoadName { text: text.to_owned(), expected: loads });
            }
            loads += 1;
        }
        ops.push(op);
    }
    Ok(ops)
}

fn op(text: &str) -> Option<Op> {
    match text {
        "mfence" => return Some(Op::Fence(Fence::MFence)),
        "lock" => return Some(Op::Fence(Fence::Locked)),
        _ => {}
    }
    let (left, right) = text.split_once('=')?;
    if !left.starts_with('r') {
        let (variable, part) = place(left)?;
        return Some(Op::Store { variable, part, value: right.parse().ok()? });
    }
    match right.split(' ').collect::<Vec<_>>()[..] {
        ["xchg", variable, value] => {
            Some(Op::Exchange { variable: variable_named(variable)?, value: value.parse().ok()? })
        }
        ["xadd", variable] => Some(Op::LockedLoad { variable: variable_named(variable)? }),
        [from] => place(from).map(|(variable, part)| Op::Load { variable, part }),
        _ => None,
    }
}

/// A variable, or half of one.
fn place(text: &str) -> Option<(Variable, Part)> {
    let (name, part) = part(text);
    Some((variable_named(name)?, part))
}

fn part(text: &str) -> (&str, Part) {
    match (text.strip_suffix(".lo"), text.strip_suffix(".hi")) {
        (Some(name), _) => (name, Part::Low),
        (_, Some(name)) => (name, Part::High),
        _ => (text, Part::Whole),
    }
}

fn variable_named(name: &str) -> Option<Variable> {
    NAMES.iter().position(|&known| known == name).map(|place| Variable(place as u8))
}

fn parse_condition(text: &str) -> Result<Condition, TextError> {
    let (kind, terms) = match (text.strip_prefix("exists "), text.strip_prefix("forall ")) {
        (Some(terms), _) => (Kind::Exists, terms),
        (_, Some(terms)) => (Kind::Forall, terms),
        _ => return Err(TextError::NoCondition),
    };
    let conjunction = |text: &str| text.split('&').map(|text| term(text.trim())).collect();
    Ok(Condition { kind, any: terms.split(" or ").map(conjunction).collect::<Result<_, _>>()? })
}

fn term(text: &str) -> Result<Term, TextError> {
    let read = || {
        let (left, value) = text.split_once('=')?;
        let (name, part) = part(left);
        let of = match name.split_once(":r") {
            Some((thread, load)) => Observed::Load { thread: thread.parse().ok()?, load: load.parse().ok()? },
            None => Observed::Final(variable_named(name)?),
        };
        Some(Term { of, part, value: value.parse().ok()? })
    };
    read().ok_or_else(|| TextError::Term(text.to_owned()))
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ops in self.threads() {
            let mut loads = 0;
            for (index, op) in ops.iter().enumerate() {
                write_op(f, if index > 0 { "; " } else { "" }, op, loads)?;
                loads += usize::from(op.loaded().is_some());
            }
            f.write_str(" | ")?;
        }
        write!(f, "{}", self.condition())
    }
}

fn write_op(f: &mut fmt::Formatter<'_>, before: &str, op: &Op, load: usize) -> fmt::Result {
    f.write_str(before)?;
    let name = |variable: Variable| NAMES[usize::from(variable.0) % VARIABLES_MAX];
    match *op {
        Op::Store { variable, part, value } => write!(f, "{}{}={value}", name(variable), suffix(part)),
        Op::Load { variable, part } => write!(f, "r{load}={}{}", name(variable), suffix(part)),
        Op::Fence(Fence::MFence) => f.write_str("mfence"),
        Op::Fence(Fence::Locked) => f.write_str("lock"),
        Op::Exchange { variable, value } => write!(f, "r{load}=xchg {} {value}", name(variable)),
        Op::LockedLoad { variable } => write!(f, "r{load}=xadd {}", name(variable)),
    }
}

const fn suffix(part: Part) -> &'static str {
    match part {
        Part::Whole => "",
        Part::Low => ".lo",
        Part::High => ".hi",
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.kind == Kind::Exists { "exists " } else { "forall " })?;
        for (index, terms) in self.any.iter().enumerate() {
            f.write_str(if index > 0 { " or " } else { "" })?;
            for (index, term) in terms.iter().enumerate() {
                write!(f, "{}{term}", if index > 0 { " & " } else { "" })?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}={}", self.of, suffix(self.part), self.value)
    }
}

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Observed::Load { thread, load } => write!(f, "{thread}:r{load}"),
            Observed::Final(variable) => f.write_str(NAMES[usize::from(variable.0) % VARIABLES_MAX]),
        }
    }
}

impl FromStr for Test {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        parse("", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_test_are_the_same() {
        for text in [
            "x=1; mfence; r0=y | y=1; lock; r0=x | exists 0:r0=0 & 1:r0=0",
            "r0=xchg x 1; r1=xadd y; x.lo=2 | r0=x.hi; y=15 | forall x=2 or 0:r1=3 & 1:r0.hi=1",
            "x=1 | r0=x; r1=x | exists 1:r0=1 & 1:r1.lo=0",
        ] {
            assert_eq!(text.parse::<Test>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_test_is_refused_and_named() {
        let error = |text: &str| text.parse::<Test>().unwrap_err();
        assert_eq!(error(""), TextError::NoCondition);
        assert_eq!(error("x=1 | r0=x"), TextError::NoCondition);
        assert_eq!(error("x=1; w=2 | exists x=1"), TextError::Op("w=2".into()));
        assert_eq!(error("x=300 | exists x=1"), TextError::Op("x=300".into()));
        assert_eq!(error("r0=xchg x | exists x=1"), TextError::Op("r0=xchg x".into()));
        let late = TextError::LoadName { text: "r1=x".into(), expected: 0 };
        assert_eq!(error("r1=x | exists x=1"), late);
        assert_eq!(error("x=1 | exists x"), TextError::Term("x".into()));
        assert_eq!(error("x=1 | exists 0:q=1"), TextError::Term("0:q=1".into()));
        assert!(matches!(error("x=1 | exists 0:r0=1"), TextError::Test(TestError::Condition(_))));
        assert!(matches!(error("x=16 | exists x=1"), TextError::Test(TestError::Value(16))));
    }
}
