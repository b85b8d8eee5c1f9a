//! Published x86 tests with the verdicts of another tool.
//!
//! The table in `corpus/x86-tso.txt` names 2595 tests of the suite litmus-tests-x86 with their cycles, and what herd7 says
//! of each by its model of x86-TSO. No program of that suite is here: ours are generated from the cycles, and the four tests
//! without a cycle are [written by hand](crate::shapes::MUST_HOLD).

use thiserror::Error;

use crate::cycle::{Cycle, CycleError, Edge, Location, Order};
use crate::oracle::Verdict;

/// The table of this repository.
pub const TABLE: &str = include_str!("../corpus/x86-tso.txt");

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether the cycle's outcome is possible; [`Verdict::Always`] for tests that claim something of every outcome.
    pub verdict: Verdict,
    /// Its cycle, if it has one.
    pub cycle: Option<Cycle>,
}

/// Why a line is no entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct CorpusError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Reads a table of this repository: lines `VERDICT NAME CYCLE`, each edge a letter and its accesses.
///
/// # Errors
/// When a line has another form.
pub fn parse(text: &str) -> Result<Vec<Entry>, CorpusError> {
    each_line(text, |line| {
        let mut words = line.split(' ');
        let (verdict, name) = (words.next().unwrap_or_default(), words.next().ok_or("no name")?);
        let verdict = match verdict {
            "N" => Verdict::Never,
            "S" => Verdict::Sometimes,
            "A" => Verdict::Always,
            other => return Err(format!("{other:?} is no verdict")),
        };
        let cycle = words.next().map(unpack).transpose()?;
        Ok(Entry { name: name.to_owned(), verdict, cycle })
    })
}

/// Reads a table with columns between tabs: group, name, threads, kind of condition, verdict, cycle.
///
/// # Errors
/// When a line has another form.
pub fn parse_columns(text: &str) -> Result<Vec<Entry>, CorpusError> {
    let all = each_line(text, |line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [_, name, _, kind, verdict, cycle] = columns[..] else {
            return Err("not six columns".to_owned());
        };
        let verdict = match (kind, verdict) {
            ("kind", "verdict") => return Ok(None),
            ("exists", "Never") => Verdict::Never,
            ("exists", "Sometimes") => Verdict::Sometimes,
            ("forall", "Always") => Verdict::Always,
            other => return Err(format!("{other:?} is no verdict")),
        };
        let cycle = match cycle {
            "" => None,
            cycle => Some(cycle.parse::<Cycle>().map_err(|error| error.to_string())?),
        };
        Ok(Some(Entry { name: name.to_owned(), verdict, cycle }))
    })?;
    Ok(all.into_iter().flatten().collect())
}

/// Writes entries as [`parse`] reads them.
pub fn format(entries: &[Entry]) -> String {
    entries.iter().map(line).collect()
}

fn line(entry: &Entry) -> String {
    let verdict = match entry.verdict {
        Verdict::Never => "N",
        Verdict::Sometimes => "S",
        Verdict::Always => "A",
    };
    let cycle = entry.cycle.as_ref().map_or_else(String::new, |cycle| format!(" {}", pack(cycle)));
    format!("{verdict} {}{cycle}\n", entry.name)
}

fn each_line<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, CorpusError> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| read(line).map_err(|what| CorpusError { line: number, what })).collect()
}

/// Letters for edges within a thread: to another location, to the same one.
const LETTERS: [(Order, Location, char); 4] = [
    (Order::Plain, Location::Different, 'p'),
    (Order::Plain, Location::Same, 's'),
    (Order::MFence, Location::Different, 'm'),
    (Order::MFence, Location::Same, 'n'),
];

fn pack(cycle: &Cycle) -> String {
    let mut text = String::new();
    for edge in cycle.edges() {
        match *edge {
            Edge::Rfe => text.push('r'),
            Edge::Fre => text.push('f'),
            Edge::Coe => text.push('c'),
            Edge::Rfi => text.push('i'),
            Edge::Po { order, location, from, to } => {
                let letter = LETTERS.iter().find(|known| (known.0, known.1) == (order, location));
                // (What has no letter is written so that reading it fails.)
                text.push(letter.map_or('?', |known| known.2));
                text.push_str(&format!("{from:?}{to:?}"));
            }
        }
    }
    text
}

fn unpack(text: &str) -> Result<Cycle, String> {
    let mut edges = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let mut po = |order: Order, location: &str| {
            let accesses: String = letters.by_ref().take(2).collect();
            let order = if order == Order::MFence { "MFence" } else { "Po" };
            format!("{order}{location}{accesses}").parse()
        };
        let edge: Result<Edge, CycleError> = match letter {
            'r' => Ok(Edge::Rfe),
            'f' => Ok(Edge::Fre),
            'c' => Ok(Edge::Coe),
            'i' => Ok(Edge::Rfi),
            'p' => po(Order::Plain, "d"),
            's' => po(Order::Plain, "s"),
            'm' => po(Order::MFence, "d"),
            'n' => po(Order::MFence, "s"),
            other => return Err(format!("{other:?} is no edge")),
        };
        edges.push(edge.map_err(|error| error.to_string())?);
    }
    Cycle::new(edges).map_err(|error| error.to_string())
}
