//! Why there are no sockets.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there are no sockets.
#[derive(Debug, Error)]
pub enum VsockError {
    /// Another program listens there.
    #[error("cannot listen at {path}: another program does", path = .0.display())]
    InUse(PathBuf),
    /// The socket for callers cannot be made.
    #[error("cannot listen at {path}: {source}", path = .path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
