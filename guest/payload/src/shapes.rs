//! Litmus shapes: what each thread does to shared words, and which outcomes x86-TSO forbids.
//!
//! A shape is data: per thread a few operations on the variables x, y, z. The payload runs the operations;
//! this module says what an outcome means. Verdicts agree with the published x86-TSO model (Sewell et al.
//! 2010) and were checked against herd7's for the tests of the same name.
//!
//! A batch number makes the values of each round unique, so that nothing needs to be reset: in batch `b`
//! (from 1) a write of "1" stores `2b`, of "2" stores `2b + 1`, and the "0" of the shape is whatever an
//! earlier batch left. Any other value is corruption: a page that came from the past or from nowhere.

/// One operation of a thread. Variables are 0 (x), 1 (y), 2 (z).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Store value 1 or 2 to a variable.
    Write(usize, u64),
    /// Load a variable; the thread's reads are numbered in order.
    Read(usize),
    /// `mfence`.
    Fence,
    /// `xchg` of value 1 to a variable (a locked write); what was there before is not looked at.
    Swap(usize),
}

/// A litmus test.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its usual name, lower case.
    pub name: &'static str,
    /// What each thread does.
    pub threads: &'static [&'static [Op]],
    /// Variables whose value after the batch belongs to the outcome.
    pub finals: &'static [usize],
    /// The outcome to look for: one digit for each read (thread by thread), then one for each final value.
    pub outcome: &'static [u8],
    /// Whether x86-TSO forbids that outcome. Where it does not, the outcome is counted as `relaxed`:
    /// seeing it now and then shows that the test is able to see reordering.
    pub forbidden: bool,
}

/// Reads that a thread of any shape does at most.
pub const READS: usize = 2;
/// Threads of any shape at most.
pub const THREADS: usize = 4;
/// Digits (reads and final values) of any shape at most.
pub const DIGITS: usize = 4;
/// Outcomes that a histogram must have room for: `3^DIGITS`.
pub const OUTCOMES: usize = 81;

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;
use Op::{Fence, Read, Swap, Write};

/// All shapes.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "mp",
        threads: &[&[Write(X, 1), Write(Y, 1)], &[Read(Y), Read(X)]],
        finals: &[],
        outcome: &[1, 0],
        forbidden: true,
    },
    Shape {
        name: "sb",
        threads: &[&[Write(X, 1), Read(Y)], &[Write(Y, 1), Read(X)]],
        finals: &[],
        outcome: &[0, 0],
        forbidden: false,
    },
    Shape {
        name: "sb_fence",
        threads: &[&[Write(X, 1), Fence, Read(Y)], &[Write(Y, 1), Fence, Read(X)]],
        finals: &[],
        outcome: &[0, 0],
        forbidden: true,
    },
    Shape {
        name: "sb_xchg",
        threads: &[&[Swap(X), Read(Y)], &[Swap(Y), Read(X)]],
        finals: &[],
        outcome: &[0, 0],
        forbidden: true,
    },
    Shape {
        name: "lb",
        threads: &[&[Read(X), Write(Y, 1)], &[Read(Y), Write(X, 1)]],
        finals: &[],
        outcome: &[1, 1],
        forbidden: true,
    },
    Shape {
        name: "iriw",
        threads: &[&[Write(X, 1)], &[Write(Y, 1)], &[Read(X), Read(Y)], &[Read(Y), Read(X)]],
        finals: &[],
        outcome: &[1, 0, 1, 0],
        forbidden: true,
    },
    Shape {
        name: "2+2w",
        threads: &[&[Write(X, 1), Write(Y, 2)], &[Write(Y, 1), Write(X, 2)]],
        finals: &[X, Y],
        outcome: &[1, 1],
        forbidden: true,
    },
    Shape {
        name: "r",
        threads: &[&[Write(X, 1), Write(Y, 1)], &[Write(Y, 2), Read(X)]],
        finals: &[Y],
        outcome: &[0, 2],
        forbidden: false,
    },
    Shape {
        name: "r_fence",
        threads: &[&[Write(X, 1), Write(Y, 1)], &[Write(Y, 2), Fence, Read(X)]],
        finals: &[Y],
        outcome: &[0, 2],
        forbidden: true,
    },
    Shape {
        name: "s",
        threads: &[&[Write(X, 2), Write(Y, 1)], &[Read(Y), Write(X, 1)]],
        finals: &[X],
        outcome: &[1, 2],
        forbidden: true,
    },
    Shape {
        name: "wrc",
        threads: &[&[Write(X, 1)], &[Read(X), Write(Y, 1)], &[Read(Y), Read(X)]],
        finals: &[],
        outcome: &[1, 1, 0],
        forbidden: true,
    },
    Shape {
        name: "rwc",
        threads: &[&[Write(X, 1)], &[Read(X), Read(Y)], &[Write(Y, 1), Fence, Read(X)]],
        finals: &[],
        outcome: &[1, 0, 0],
        forbidden: true,
    },
    Shape {
        name: "isa2",
        threads: &[&[Write(X, 1), Write(Y, 1)], &[Read(Y), Write(Z, 1)], &[Read(Z), Read(X)]],
        finals: &[],
        outcome: &[1, 1, 0],
        forbidden: true,
    },
    Shape {
        name: "corr",
        threads: &[&[Write(X, 1)], &[Read(X), Read(X)]],
        finals: &[],
        outcome: &[1, 0],
        forbidden: true,
    },
];

impl Shape {
    /// The shape of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// How many variables it uses.
    pub fn variables(&self) -> usize {
        let used = |op: &Op| match *op {
            Write(v, _) | Read(v) | Swap(v) => v + 1,
            Fence => 0,
        };
        self.threads.iter().flat_map(|ops| ops.iter()).map(used).max().unwrap_or(0)
    }

    /// How many reads thread `thread` does.
    pub fn reads(&self, thread: usize) -> usize {
        self.threads[thread].iter().filter(|op| matches!(op, Read(_))).count()
    }

    /// How many digits an outcome has.
    pub fn digits(&self) -> usize {
        (0..self.threads.len()).map(|thread| self.reads(thread)).sum::<usize>() + self.finals.len()
    }

    /// The histogram place of an outcome.
    pub fn index(digits: &[u8]) -> usize {
        digits.iter().fold(0, |index, &digit| index * 3 + usize::from(digit))
    }

    /// The digit at `place` of the outcome with histogram place `index`, of `digits` digits.
    pub fn digit(index: usize, place: usize, digits: usize) -> u8 {
        (index / 3usize.pow((digits - 1 - place) as u32) % 3) as u8
    }
}

/// What a write of `value` (1 or 2) stores in batch `batch`.
pub const fn stored(batch: u64, value: u64) -> u64 {
    2 * batch + value - 1
}

/// What a value seen in batch `batch` is: 0 (from the batch before), 1, 2, or `None`: it cannot have been
/// there.
pub const fn seen(batch: u64, value: u64) -> Option<u8> {
    if value == 2 * batch {
        Some(1)
    } else if value == 2 * batch + 1 {
        Some(2)
    } else if value == 2 * (batch - 1) || (batch > 1 && value == 2 * batch - 1) {
        Some(0)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_fits_its_own_description() {
        for shape in SHAPES {
            assert_eq!(shape.outcome.len(), shape.digits(), "{}", shape.name);
            assert!(shape.digits() <= DIGITS && shape.threads.len() <= THREADS && shape.variables() <= 3);
            assert!((0..shape.threads.len()).all(|thread| shape.reads(thread) <= READS));
            assert!(Shape::index(shape.outcome) < OUTCOMES);
            let written: Vec<usize> = shape
                .threads
                .iter()
                .flat_map(|ops| ops.iter())
                .filter_map(|op| match *op {
                    Write(v, _) | Swap(v) => Some(v),
                    _ => None,
                })
                .collect();
            assert!(
                (0..shape.variables()).all(|v| written.contains(&v)),
                "{}: a variable that nobody writes has no new value",
                shape.name
            );
        }
    }

    /// All outcomes of a shape under x86-TSO, by running every interleaving of an abstract machine with FIFO
    /// store buffers: an independent judge of the verdicts in the table.
    fn tso_outcomes(shape: &Shape) -> std::collections::BTreeSet<Vec<u8>> {
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        struct State {
            memory: [u8; 3],
            buffer: Vec<Vec<(usize, u8)>>,
            next: Vec<usize>,
            reads: Vec<Vec<u8>>,
        }
        let threads = shape.threads.len();
        let start = State {
            memory: [0; 3],
            buffer: vec![vec![]; threads],
            next: vec![0; threads],
            reads: vec![vec![]; threads],
        };
        let (mut todo, mut done, mut known) =
            (vec![start], std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        while let Some(state) = todo.pop() {
            if !known.insert(state.clone()) {
                continue;
            }
            let mut ended = true;
            for t in 0..threads {
                if !state.buffer[t].is_empty() {
                    let mut after = state.clone();
                    let (v, value) = after.buffer[t].remove(0);
                    after.memory[v] = value;
                    todo.push(after);
                    ended = false;
                }
                let Some(op) = shape.threads[t].get(state.next[t]) else { continue };
                ended = false;
                let mut after = state.clone();
                after.next[t] += 1;
                match *op {
                    Write(v, value) => after.buffer[t].push((v, value as u8)),
                    Read(v) => {
                        let own =
                            state.buffer[t].iter().rev().find(|(w, _)| *w == v).map(|(_, value)| *value);
                        after.reads[t].push(own.unwrap_or(state.memory[v]));
                    }
                    Fence if !state.buffer[t].is_empty() => continue,
                    Fence => {}
                    Swap(_) if !state.buffer[t].is_empty() => continue,
                    Swap(v) => after.memory[v] = 1,
                }
                todo.push(after);
            }
            if ended {
                let mut outcome: Vec<u8> = state.reads.concat();
                outcome.extend(shape.finals.iter().map(|&v| state.memory[v]));
                done.insert(outcome);
            }
        }
        done
    }

    #[test]
    fn the_verdicts_are_those_of_an_abstract_tso_machine() {
        for shape in SHAPES {
            assert_eq!(!tso_outcomes(shape).contains(shape.outcome), shape.forbidden, "{}", shape.name);
        }
    }

    #[test]
    fn values_tell_their_batch() {
        assert_eq!(seen(1, 0), Some(0));
        assert_eq!(seen(1, 1), None);
        assert_eq!(seen(5, stored(5, 1)), Some(1));
        assert_eq!(seen(5, stored(5, 2)), Some(2));
        assert_eq!(seen(5, stored(4, 1)), Some(0));
        assert_eq!(seen(5, stored(4, 2)), Some(0));
        assert_eq!(seen(5, stored(3, 2)), None);
        assert_eq!(seen(5, stored(6, 1)), None);
    }

    #[test]
    fn histogram_places_and_digits_agree() {
        let digits = [1, 0, 2, 1];
        let index = Shape::index(&digits);
        for (place, &digit) in digits.iter().enumerate() {
            assert_eq!(Shape::digit(index, place, 4), digit);
        }
    }
}
