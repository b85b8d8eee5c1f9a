//! Opening what holds a disk's bytes.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::disk::{Writes, SECTOR_BYTES};
use super::error::DiskError;

/// How a qcow2 image begins.
pub(super) const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// An open file and how long it was then.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// Opens an image. Whoever opens one to write has it alone; any number may read it.
///
/// # Errors
/// [`DiskError`].
pub(super) fn open(path: &Path, writes: Writes) -> Result<OpenFile, DiskError> {
    let failed = |source| DiskError::Open { path: path.into(), source };
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    // Looked at before it is opened: opening a pipe would wait for its other end.
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::Kind(path.into()));
    }
    let opened = OpenOptions::new().read(true).write(writes == Writes::Allowed).open(path);
    let mut file = opened.map_err(failed)?;
    let lock = match writes {
        Writes::Allowed => FlockOperation::NonBlockingLockExclusive,
        Writes::Refused => FlockOperation::NonBlockingLockShared,
    };
    match rustix::fs::flock(&file, lock) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(DiskError::InUse(path.into())),
        Err(errno) => return Err(failed(errno.into())),
    }
    // (Of a block device, metadata says 0.)
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if bytes < SECTOR_BYTES {
        return Err(DiskError::Empty { path: path.into(), bytes });
    }
    Ok(OpenFile { file, bytes })
}

impl OpenFile {
    /// Whether it begins as a qcow2 image does.
    pub(super) fn looks_like_qcow2(&self) -> bool {
        let mut magic = [0; QCOW2_MAGIC.len()];
        self.file.read_exact_at(&mut magic, 0).is_ok_and(|()| magic == QCOW2_MAGIC)
    }
}
