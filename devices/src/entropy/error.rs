//! Why there are no random numbers.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there are no random numbers.
#[derive(Debug, Error)]
pub enum EntropyError {
    /// The source cannot be opened.
    #[error("cannot open the source of random numbers {path}: {source}", path = .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
