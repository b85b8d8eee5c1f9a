//! Why there is no console.

use std::io;

use thiserror::Error;

/// Why there is no console.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// What wakes its thread cannot be made.
    #[error("no descriptor for a console: {0}")]
    Bell(#[from] io::Error),
}
