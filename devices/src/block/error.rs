//! Why a disk cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a disk cannot be used.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open the disk image {path}: {source}", path = .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is neither a regular file nor a block device.
    #[error("{path} is neither a file nor a block device", path = .0.display())]
    Kind(PathBuf),
    /// The file does not hold one sector.
    #[error("the disk image {path} has {bytes} bytes: not one sector", path = .path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file is no image of the format that the user said.
    #[error("cannot use {path} as a qcow2 image: {source}", path = .path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user has not said the format of the file, which is not raw by the look of it.
    #[error(
        "{path} begins like a qcow2 image: say image_type=qcow2, or image_type=raw if that is what the guest keeps there",
        path = .0.display()
    )]
    Unsaid(PathBuf),
    /// Another program uses the file.
    #[error("the disk image {path} is in use by another program", path = .0.display())]
    InUse(PathBuf),
    /// Its threads cannot be made.
    #[error("no threads for a disk: {0}")]
    Threads(io::Error),
}
