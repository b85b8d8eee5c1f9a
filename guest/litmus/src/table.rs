//! Encoded tests: what the payload needs of them, read in place.
//!
//! A table is [`MAGIC`], the number of records (4 bytes), then the records. Numbers are little-endian. A record:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the rest |
//! | 1 + n | length of the name, name |
//! | 1 | [`Alignment`]: 0 aligned, 1 straddling |
//! | 1 + n | variables; for each a [`Last`] |
//! | 1 + 4n | digits; for each source (thread, or 0xff for a last value), load, variable, [`View`] |
//! | 1 | threads; for each: |
//! | 1, 1 + n, 2 + n | its loads; its variables; its code's length and the code, see `code` |
//! | 4 + 9n | allowed outcomes, ascending: 8 bytes each, then for each a byte: whether it is the one asked for |

use crate::outcome::{Outcome, DIGITS_MAX};
use crate::value::{Alignment, VALUE_MAX};

/// How a table begins; the last byte is the version.
pub const MAGIC: [u8; 8] = *b"TLITMUS1";
/// Most threads of a test.
pub const THREADS_MAX: usize = 4;
/// Most variables of a test.
pub const VARIABLES_MAX: usize = 8;
/// Most loads (locked operations included) of one thread: it keeps what they gave in registers.
pub const THREAD_LOADS_MAX: usize = 6;
/// Most variables of one thread: it keeps their addresses in registers.
pub const THREAD_VARIABLES_MAX: usize = 5;

/// Which word of a thread's arguments holds the batch's base.
pub const ARG_BASE: usize = 0;
/// Which word holds the step between values.
pub const ARG_STEP: usize = 1;
/// Which word holds the address for what the loads gave.
pub const ARG_LOG: usize = 2;
/// From which word on the addresses of its variables are.
pub const ARG_ADDRESSES: usize = 3;
/// How many words there are at most.
pub const ARG_WORDS: usize = ARG_ADDRESSES + THREAD_VARIABLES_MAX;

/// What a digit's source is called when it is the last value of a variable.
pub const SOURCE_LAST: u8 = 0xff;

/// Why bytes are no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// They do not begin with [`MAGIC`].
    Magic,
    /// The record of that number, from 0, is cut short or contradicts itself.
    Record(u32),
}

impl core::fmt::Display for TableError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            TableError::Magic => f.write_str("this is no table of litmus tests of version 1"),
            TableError::Record(number) => write!(f, "record {number} of the table of litmus tests is broken"),
        }
    }
}

/// What a variable holds after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// What it held before: nobody stores to it.
    Unchanged,
    /// This value of the batch: there is one store.
    Value(u8),
    /// One must look.
    Look,
}

/// Which halves a digit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum View {
    /// Both, which must be equal.
    Whole = 0,
    /// The lower half.
    Low = 1,
    /// The upper half of a word.
    High = 2,
    /// The upper half, loaded by itself: it is in the lower half of the log's word.
    HighAlone = 3,
}

impl View {
    const ALL: [View; 4] = [View::Whole, View::Low, View::High, View::HighAlone];
}

/// Where a digit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Thread and load; `None` for the last value of the variable.
    pub load: Option<(usize, usize)>,
    /// The variable.
    pub variable: usize,
    /// Which halves.
    pub view: View,
}

/// One thread of a test.
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread<'a> {
    /// How many loads it has.
    pub loads: usize,
    /// Its variables, in the order in which the code takes their addresses.
    pub variables: &'a [u8],
    /// Its machine code.
    pub code: &'a [u8],
}

/// One encoded test.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its name.
    pub name: &'a str,
    /// For which variables it is.
    pub alignment: Alignment,
    lasts: &'a [u8],
    sources: &'a [u8],
    threads: [Thread<'a>; THREADS_MAX],
    thread_count: usize,
    outcomes: &'a [u8],
    asked: &'a [u8],
}

impl<'a> Record<'a> {
    /// Its threads.
    pub fn threads(&self) -> &[Thread<'a>] {
        &self.threads[..self.thread_count]
    }

    /// How many variables it has.
    pub fn variables(&self) -> usize {
        self.lasts.len()
    }

    /// What a variable holds after a batch.
    pub fn last(&self, variable: usize) -> Last {
        match self.lasts.get(variable) {
            Some(0) | None => Last::Unchanged,
            Some(&value @ 1..=VALUE_MAX) => Last::Value(value),
            Some(_) => Last::Look,
        }
    }

    /// How many digits an outcome has.
    pub fn digits(&self) -> usize {
        self.sources.len() / 4
    }

    /// Where its digits come from, in order.
    pub fn sources(&self) -> impl Iterator<Item = Source> + 'a {
        self.sources.chunks_exact(4).map(|bytes| Source {
            load: (bytes[0] != SOURCE_LAST).then(|| (usize::from(bytes[0]), usize::from(bytes[1]))),
            variable: usize::from(bytes[2]),
            view: View::ALL[usize::from(bytes[3]) % View::ALL.len()],
        })
    }

    /// How many outcomes x86-TSO allows.
    pub fn allowed(&self) -> usize {
        self.asked.len()
    }

    /// The allowed outcome of that number.
    pub fn outcome(&self, number: usize) -> Outcome {
        let bytes = self.outcomes.get(8 * number..8 * number + 8);
        Outcome(bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// The number of an outcome among those that are allowed; `None` if it is forbidden.
    pub fn find(&self, outcome: Outcome) -> Option<usize> {
        let (mut low, mut high) = (0, self.allowed());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.outcome(middle).cmp(&outcome) {
                core::cmp::Ordering::Equal => return Some(middle),
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Whether the allowed outcome of that number is the one that the test asks for: a relaxed one, which shows that
    /// stores were buffered.
    pub fn is_asked(&self, number: usize) -> bool {
        self.asked.get(number).is_some_and(|&asked| asked != 0)
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Bytes(bytes);
        let name = core::str::from_utf8(rest.counted(1)?).ok()?;
        let alignment = match rest.number(1)? {
            0 => Alignment::Aligned,
            1 => Alignment::Straddling,
            _ => return None,
        };
        let lasts = rest.counted(1)?;
        let sources = rest.counted(4)?;
        let thread_count = rest.number(1)?;
        let mut threads = [Thread::default(); THREADS_MAX];
        for thread in threads.get_mut(..thread_count)? {
            let loads = rest.number(1)?;
            let variables = rest.counted(1)?;
            let length = rest.number(2)?;
            *thread = Thread { loads, variables, code: rest.take(length)? };
        }
        let outcomes = rest.number(4)?;
        let record = Record {
            name,
            alignment,
            lasts,
            sources,
            threads,
            thread_count,
            outcomes: rest.take(outcomes.checked_mul(8)?)?,
            asked: rest.take(outcomes)?,
        };
        (rest.0.is_empty() && record.is_sound()).then_some(record)
    }

    /// Whether nothing points beyond what is there.
    fn is_sound(&self) -> bool {
        let thread_is_sound = |thread: &Thread<'_>| {
            thread.loads <= THREAD_LOADS_MAX
                && thread.variables.len() <= THREAD_VARIABLES_MAX
                && thread.variables.iter().all(|&variable| usize::from(variable) < self.variables())
                && !thread.code.is_empty()
        };
        let source_is_sound = |source: Source| {
            let load = source.load.is_none_or(|(thread, load)| {
                self.threads().get(thread).is_some_and(|thread| load < thread.loads)
            });
            load && source.variable < self.variables()
        };
        self.thread_count > 0
            && self.variables() <= VARIABLES_MAX
            && self.digits() <= DIGITS_MAX
            && self.threads().iter().all(thread_is_sound)
            && self.sources().all(source_is_sound)
    }
}

/// A table of encoded tests.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    records: &'a [u8],
    count: u32,
}

impl<'a> Table<'a> {
    /// Checks all of it. Bytes behind the last record are ignored.
    ///
    /// # Errors
    /// [`TableError`] when it is no table.
    pub fn new(bytes: &'a [u8]) -> Result<Self, TableError> {
        let mut rest = Bytes(bytes);
        if rest.take(MAGIC.len()) != Some(&MAGIC[..]) {
            return Err(TableError::Magic);
        }
        let count = rest.number(4).ok_or(TableError::Magic)? as u32;
        let table = Table { records: rest.0, count };
        for number in 0..count {
            let record = rest.number(4).and_then(|length| rest.take(length)).and_then(Record::parse);
            record.ok_or(TableError::Record(number))?;
        }
        Ok(table)
    }

    /// Its records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> {
        let mut rest = Bytes(self.records);
        (0..self.count).map_while(move |_| {
            let length = rest.number(4)?;
            Record::parse(rest.take(length)?)
        })
    }
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of `length` bytes, at most 4.
    fn number(&mut self, length: usize) -> Option<usize> {
        let bytes = self.take(length)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// A count in one byte, and so many pieces of `size` bytes.
    fn counted(&mut self, size: usize) -> Option<&'a [u8]> {
        let count = self.number(1)?;
        self.take(count * size)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::encode::{encode, straddles};
    use crate::oracle;
    use crate::shapes;
    use crate::test::Test;

    static THREE: LazyLock<Vec<u8>> = LazyLock::new(|| table_of(&shapes::all()[..3]));

    fn table_of(tests: &[Test]) -> Vec<u8> {
        encode(tests).expect("small enough")
    }

    #[test]
    fn what_is_encoded_is_read() {
        let tests = shapes::all();
        let bytes = table_of(&tests);
        let table = Table::new(&bytes).unwrap();
        let mut records = table.records();
        for test in &tests {
            let alignments = [Alignment::Aligned, Alignment::Straddling];
            for &alignment in &alignments[..1 + usize::from(straddles(test))] {
                let record = records.next().unwrap();
                assert_eq!((record.name, record.alignment), (test.name.as_str(), alignment));
                assert_eq!(record.threads().len(), test.threads().len());
                assert_eq!(record.digits(), test.digits(alignment).len());
                let outcomes: Vec<Outcome> = (0..record.allowed()).map(|n| record.outcome(n)).collect();
                assert!(outcomes.iter().copied().eq(oracle::allowed(test, alignment).unwrap()));
                for (number, &outcome) in outcomes.iter().enumerate() {
                    assert_eq!(record.find(outcome), Some(number));
                }
                assert_eq!(record.find(Outcome(u64::MAX)), None);
            }
        }
        assert!(records.next().is_none());
    }

    #[test]
    fn digits_say_where_they_come_from() {
        let test: Test = "x=1; x=2; y=1 | r0=y.hi; r1=x | exists x=2".parse().unwrap();
        let bytes = table_of(&[test]);
        let record = Table::new(&bytes).unwrap().records().next().unwrap();
        let source = |load, variable, view| Source { load, variable, view };
        assert!(record.sources().eq([
            source(Some((1, 0)), 1, View::HighAlone),
            source(Some((1, 1)), 0, View::Low),
            source(Some((1, 1)), 0, View::High),
            source(None, 0, View::Low),
            source(None, 0, View::High),
        ]));
        assert_eq!((record.last(0), record.last(1)), (Last::Look, Last::Look));
        let bytes = table_of(&["x=3; r0=y | exists 0:r0=1".parse().unwrap()]);
        let record = Table::new(&bytes).unwrap().records().next().unwrap();
        assert_eq!((record.last(0), record.last(1)), (Last::Value(3), Last::Unchanged));
    }

    #[test]
    fn what_is_cut_short_is_no_table() {
        let bytes = table_of(&shapes::all()[..2]);
        assert_eq!(Table::new(&bytes[..7]).err(), Some(TableError::Magic));
        for length in 12..bytes.len() {
            assert!(matches!(Table::new(&bytes[..length]), Err(TableError::Record(_))), "{length}");
        }
    }

    proptest! {
        #[test]
        fn broken_bytes_are_refused_or_harmless(at in 12usize..600, to: u8) {
            let mut bytes = THREE.clone();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(table) = Table::new(&bytes) {
                for record in table.records() {
                    let last = record.allowed().saturating_sub(1);
                    let _ = (record.find(record.outcome(last)), record.is_asked(last));
                    prop_assert!(record.sources().count() <= DIGITS_MAX);
                }
            }
        }
    }
}
