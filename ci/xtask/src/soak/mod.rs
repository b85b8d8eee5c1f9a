//! `cargo xtask soak ...`: checks that go on for as long as wanted.

mod sim;

use anyhow::Result;

/// What can go on and on.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// The simulator of the ownership protocol: run after run, each from a seed of its own.
    Sim(sim::Args),
}

/// Carries out a verb; gives the exit status.
///
/// # Errors
/// When the check cannot be built or run.
pub fn main(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Sim(options) => sim::main(options),
    }
}
