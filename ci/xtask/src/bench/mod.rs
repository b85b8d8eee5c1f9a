//! `cargo xtask bench ...`

mod moves;

use anyhow::Result;

/// What can be measured.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// The blackout of vCPU moves.
    Moves(moves::Args),
}

/// Carries out a verb; gives the exit status.
///
/// # Errors
/// When a guest cannot be started or does not come to its end.
pub fn main(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Moves(options) => moves::main(options),
    }
}
