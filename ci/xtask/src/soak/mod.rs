//! `cargo xtask soak ...`: what takes longer than a test may, for whoever wants to be surer.

mod fuzz;
mod litmus;
mod programs;
mod sim;
mod stock;
mod worker;

use anyhow::Result;

/// What can be soaked.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// The protocol and the links, with a peer that says anything.
    Fuzz(fuzz::Args),
    /// Litmus tests of memory order in bare-metal guests over several nodes of this machine.
    Litmus(litmus::Args),
    /// Programs of a Debian disk: databases, servers, encoders, over several hosts.
    Programs(programs::Args),
    /// The protocol's simulator, with random schedules.
    Sim(sim::Args),
    /// Stock guests whose vCPUs move a thousand times while they work.
    Stock(stock::Args),
}

/// Carries out a verb; gives the exit status: 0 only if nothing was wrong.
///
/// # Errors
/// When something cannot be started or does not come to its end.
pub fn main(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Fuzz(options) => fuzz::main(options),
        Verb::Litmus(options) => litmus::main(options),
        Verb::Programs(options) => programs::main(options),
        Verb::Sim(options) => sim::main(options),
        Verb::Stock(options) => stock::main(options),
    }
}
