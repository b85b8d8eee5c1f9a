//! Why there is no network.

use std::io;

use thiserror::Error;

/// Why there is no network.
#[derive(Debug, Error)]
pub enum NetError {
    /// The back end cannot be set up.
    #[error("cannot set up {what}: {source}")]
    Backend {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A text is no hardware address.
    #[error("{0:?} is no hardware address of one card, such as 52:54:00:12:34:56")]
    Mac(String),
}
