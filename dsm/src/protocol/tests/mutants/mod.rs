//! Proof that the checks would see a mistake: nodes with one mistake each, all of which must be caught.
//!
//! A mistake is built in from outside, by changing a node's state before or after an event, or the actions that it asks
//! for. The product contains no trace of it. `docs/checking.md` lists all mistakes with who catches them, and that is
//! checked here.

// All mistakes have one signature, also those that add or take no action.
#![allow(clippy::ptr_arg)]

mod directory;
mod homes;
mod owner;
mod requester;
mod table;
mod tamper;
mod waiting;

use super::cluster::Mutant;

/// The mistakes.
fn all() -> impl Iterator<Item = Mutant> {
    let all = [requester::MUTANTS, owner::MUTANTS, directory::MUTANTS, homes::MUTANTS, waiting::MUTANTS];
    all.into_iter().flatten().copied()
}

/// The mistake of this name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> Option<Mutant> {
    let found = all().find(|mutant| mutant.name == name);
    assert!(found.is_some(), "there is no mutant called {name:?}");
    found
}
