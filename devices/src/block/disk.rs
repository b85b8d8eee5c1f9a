//! What keeps a disk's bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::error::DiskError;
use super::file::{self, OpenFile};

/// Bytes of a sector: the unit of everything in virtio-blk.
pub const SECTOR_BYTES: u64 = 512;

/// Whether a disk can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// Yes.
    Allowed,
    /// No: writes are refused.
    Refused,
}

/// What keeps a disk's bytes. Called by several threads at a time; each call may wait for the host. Ranges are inside the
/// disk: the caller has checked them.
pub trait Disk: Send + Sync {
    /// Its size in bytes, a multiple of [`SECTOR_BYTES`]; it does not change.
    fn bytes(&self) -> u64;

    /// Whether it can be written.
    fn writes(&self) -> Writes;

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// The host's.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    /// The host's.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything last that was written before.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> io::Result<()>;

    /// The driver does not need these bytes any more; whatever they are then is fine.
    ///
    /// # Errors
    /// The host's.
    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Makes these bytes zeros, and gives their space back if `space` says so.
    ///
    /// # Errors
    /// The host's.
    fn write_zeroes(&self, offset: u64, bytes: u64, space: Space) -> io::Result<()>;
}

/// What becomes of the space of bytes that are zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// It stays reserved.
    Keep,
    /// It may be given back.
    Free,
}

/// A file or a block device with the disk's bytes as they are.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    bytes: u64,
    writes: Writes,
}

impl RawDisk {
    /// Opens an image. Whoever opens one to write has it alone; any number may read it.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(path: &Path, writes: Writes) -> Result<RawDisk, DiskError> {
        Ok(RawDisk::of(file::open(path, writes)?, writes))
    }

    /// Opens an image that the user has not said to be raw: one that begins like another format is refused, because
    /// a guest that sees its bytes instead of what they mean would destroy it.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open_unsaid(path: &Path, writes: Writes) -> Result<RawDisk, DiskError> {
        let opened = file::open(path, writes)?;
        match opened.looks_like_qcow2() {
            true => Err(DiskError::Unsaid(path.into())),
            false => Ok(RawDisk::of(opened, writes)),
        }
    }

    fn of(OpenFile { file, bytes }: OpenFile, writes: Writes) -> RawDisk {
        // What is left over behind the last whole sector cannot be reached.
        RawDisk { file, bytes: bytes - bytes % SECTOR_BYTES, writes }
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, bytes: u64) -> Result<(), Errno> {
        loop {
            match rustix::fs::fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, bytes) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn write_plain_zeroes(&self, mut offset: u64, bytes: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        let end = offset + bytes;
        while offset < end {
            let count = (end - offset).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..count as usize], offset)?;
            offset += count;
        }
        Ok(())
    }
}

impl Disk for RawDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn writes(&self) -> Writes {
        self.writes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match self.fallocate(FallocateFlags::PUNCH_HOLE, offset, bytes) {
            // A file system that cannot keeps the bytes, which is fine.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, space: Space) -> io::Result<()> {
        let mode = match space {
            Space::Free => FallocateFlags::PUNCH_HOLE,
            Space::Keep => FallocateFlags::ZERO_RANGE,
        };
        match self.fallocate(mode, offset, bytes) {
            Err(Errno::OPNOTSUPP) => self.write_plain_zeroes(offset, bytes),
            result => Ok(result?),
        }
    }
}
