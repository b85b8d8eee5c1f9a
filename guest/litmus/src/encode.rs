//! Tests into a [table](crate::table).

use crate::code;
use crate::oracle;
use crate::table::{View, MAGIC, SOURCE_LAST};
use crate::test::{Alignment, Digit, Kind, Observed, Part, Test, TestError, Variable};

/// A test whose variables straddle pages has twice as many programs for each access; beyond so many accesses it is left
/// out.
const SPLIT_ACCESSES_MAX: usize = 6;

/// A table of these tests. Each has a record for aligned variables, and, unless it is too large for that or touches
/// halves of variables, one for straddling ones.
///
/// # Errors
/// When a test's outcomes cannot be written down.
pub fn encode(tests: &[Test]) -> Result<Vec<u8>, TestError> {
    let mut records = Vec::new();
    for test in tests {
        records.push(record(test, Alignment::Aligned)?);
        if straddles(test) {
            records.push(record(test, Alignment::Straddling)?);
        }
    }
    let mut table = MAGIC.to_vec();
    table.extend((records.len() as u32).to_le_bytes());
    for record in records {
        table.extend((record.len() as u32).to_le_bytes());
        table.extend(record);
    }
    Ok(table)
}

/// Whether a table has a record of the test for straddling variables.
pub fn straddles(test: &Test) -> bool {
    let accesses = test.threads().iter().flatten().filter(|op| op.variable().is_some()).count();
    let fits = test.digits(Alignment::Straddling).len() <= crate::outcome::DIGITS_MAX;
    !test.is_mixed() && accesses <= SPLIT_ACCESSES_MAX && fits
}

fn record(test: &Test, alignment: Alignment) -> Result<Vec<u8>, TestError> {
    let mut bytes = Vec::new();
    counted(&mut bytes, test.name.as_bytes());
    bytes.push(u8::from(alignment == Alignment::Straddling));
    let variables = (0..test.variables() as u8).map(Variable);
    counted(&mut bytes, &variables.map(|variable| last(test, variable)).collect::<Vec<_>>());
    let digits = test.digits(alignment);
    bytes.push(digits.len() as u8);
    digits.iter().for_each(|digit| bytes.extend(source(test, digit)));
    bytes.push(test.threads().len() as u8);
    for thread in 0..test.threads().len() {
        bytes.push(test.loads(thread) as u8);
        let variables: Vec<u8> = test.thread_variables(thread).iter().map(|variable| variable.0).collect();
        counted(&mut bytes, &variables);
        let code = code::thread(test, thread);
        bytes.extend((code.len() as u16).to_le_bytes());
        bytes.extend(code);
    }
    let outcomes = oracle::allowed(test, alignment)?;
    bytes.extend((outcomes.len() as u32).to_le_bytes());
    outcomes.iter().for_each(|outcome| bytes.extend(outcome.0.to_le_bytes()));
    let asked = |outcome| test.condition().kind == Kind::Exists && test.fulfils(alignment, outcome);
    bytes.extend(outcomes.iter().map(|&outcome| u8::from(asked(outcome))));
    Ok(bytes)
}

/// Names and lists are shorter than 256: a name that is longer is cut.
fn counted(bytes: &mut Vec<u8>, list: &[u8]) {
    let length = list.len().min(255);
    bytes.push(length as u8);
    bytes.extend(&list[..length]);
}

/// [`crate::table::Last`] as a byte.
fn last(test: &Test, variable: Variable) -> u8 {
    let stores: Vec<_> = test.stores(variable).collect();
    match stores[..] {
        [] => 0,
        [only] if !test.is_mixed() => only.stored().unwrap_or(0),
        _ => 0xff,
    }
}

fn source(test: &Test, digit: &Digit) -> [u8; 4] {
    let (thread, load, variable, loaded) = match digit.of {
        Observed::Final(variable) => (SOURCE_LAST, 0, variable, Part::Whole),
        Observed::Load { thread, load } => {
            let loads = test.threads()[usize::from(thread)].iter().filter(|op| op.loaded().is_some());
            let op = loads.clone().nth(usize::from(load));
            let variable = op.and_then(|op| op.variable()).unwrap_or(Variable(0));
            (thread, load, variable, op.and_then(|op| op.loaded()).unwrap_or(Part::Whole))
        }
    };
    let view = match (digit.part, loaded) {
        (Part::Whole, _) => View::Whole,
        (Part::Low, _) => View::Low,
        (Part::High, Part::Whole) => View::High,
        (Part::High, _) => View::HighAlone,
    };
    [thread, load, variable.0, view as u8]
}
