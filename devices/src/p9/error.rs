//! Why a folder cannot be shared.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::config::TAG_BYTES_MAX;

/// Why a folder cannot be shared.
#[derive(Debug, Error)]
pub enum P9Error {
    /// It cannot be opened.
    #[error("cannot open the folder {path}: {source}", path = .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tag is empty or too long.
    #[error("the tag of a folder has 1 to {TAG_BYTES_MAX} bytes, not {0}")]
    Tag(usize),
}
