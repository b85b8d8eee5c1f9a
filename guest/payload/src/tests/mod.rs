//! The tests. Each takes its words from the command line, prints one result line and says whether it passed.

mod basic;

use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;

/// A test: whether it passed.
type Test = fn(&Machine) -> bool;

const TESTS: &[(&str, Test)] = &[("hello", basic::hello), ("smp", basic::smp)];

/// Runs the test of that name; an unknown name ends the run.
pub fn run(name: &str, machine: &Machine) -> bool {
    match TESTS.iter().find(|(known, _)| *known == name) {
        Some((_, test)) => test(machine),
        None => fail(Status::Usage, format_args!("there is no test {name}")),
    }
}
