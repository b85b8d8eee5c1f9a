//! `cargo xtask setup`: installs what the lab needs, says what, once.

pub mod packages;
pub mod release;
pub mod sources;

use anyhow::{Context, Result};

use crate::kernels::{Kernel, Series};
use crate::progress::Step;
use crate::qemu;

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask setup")]
pub struct Args {}

/// Carries out the verb.
///
/// # Errors
/// When something is missing and cannot be installed.
pub fn main(_: &Args) -> Result<()> {
    ensure()?;
    println!("QEMU: {}", qemu::program()?.display());
    for series in [Series::Bookworm, Series::Backports] {
        println!("kernel {}: {}", series.name(), Kernel::get(series)?.release);
    }
    println!("everything is there");
    Ok(())
}

/// Makes sure that all programs and kernels are there; quick and silent when they are.
///
/// # Errors
/// As [`main`].
pub fn ensure() -> Result<()> {
    packages::ensure()?;
    qemu::ensure()?;
    for series in [Series::Bookworm, Series::Backports] {
        if Kernel::cached(series).is_none() {
            let step = Step::start(format!("fetching the stock kernel {}", series.name()));
            step.done(&fetch(series)?.release);
        }
    }
    Ok(())
}

/// Fetches a kernel. Lists that are there may be old, and what they name gone from the archive: then they are
/// read anew.
fn fetch(series: Series) -> Result<Kernel> {
    packages::ensure_lists()?;
    Kernel::get(series).or_else(|error| {
        packages::update_lists().context(error)?;
        Kernel::get(series)
    })
}
