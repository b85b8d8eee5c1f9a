//! `cargo xtask clean-lab`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cleanup::TemporaryDir;
use crate::paths;

/// Options of `cargo xtask clean-lab`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask clean-lab")]
pub struct Args {}

/// Carries out the verb.
///
/// # Errors
/// When something cannot be removed.
pub fn main(_: &Args) -> Result<()> {
    remove(&paths::lab_cache())?;
    for dir in TemporaryDir::abandoned() {
        remove(&dir)?;
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        println!("removed {}", dir.display());
    }
    Ok(())
}
