//! `cargo xtask bench ...`

mod async_faults;
mod dsm;
mod moves;
mod payload;
mod stock_moves;
pub mod table;

use anyhow::Result;

/// What can be measured.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// The blackout of vCPU moves over the size of the guest's memory: bare-metal payload, any KVM.
    Moves(moves::Args),
    /// What a page of another node costs, beside what it must cost: bare-metal payload, any KVM.
    Dsm(dsm::Args),
    /// How long vCPUs stand still for pages, and how much a stock Linux guest gets done, with asynchronous page faults and
    /// without.
    AsyncFaults(async_faults::Args),
    /// The blackout of vCPU moves of a stock Linux guest that works.
    StockMoves(stock_moves::Args),
}

/// Carries out a verb; gives the exit status.
///
/// # Errors
/// When a guest cannot be started or does not come to its end.
pub fn main(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Moves(options) => moves::main(options),
        Verb::Dsm(options) => dsm::main(options),
        Verb::AsyncFaults(options) => async_faults::main(options),
        Verb::StockMoves(options) => stock_moves::main(options),
    }
}
