//! qcow2 images, by the crate `imago`.
//!
//! A guest can write whatever it likes into an image that is its own, and an image may name other files of the host. So no
//! format is ever guessed, and no other file is opened unless the user allows it. The crate asserts some of what a damaged
//! image may break: such a panic ends the image, not the node.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as Storage;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};

use super::disk::{Disk, Space, Writes, SECTOR_BYTES};
use super::error::DiskError;
use super::file::{self, OpenFile};
use super::tables;

/// Whether an image may build on others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackingFiles {
    /// No: it is refused.
    Refused,
    /// It may, on whichever it names: the image is trusted.
    Allowed,
}

/// Most images below one another.
const DEPTH_MAX: usize = 16;

/// A qcow2 image.
pub struct Qcow2Disk {
    /// Taken out when it is dropped.
    image: RwLock<Option<FormatAccess<Storage>>>,
    /// The image's files. What was cut off one of them while it is in use would read zeros.
    files: Vec<OpenFile>,
    bytes: u64,
    writes: Writes,
    /// The crate has panicked: nothing that it says of this image is worth anything any more.
    is_broken: AtomicBool,
}

impl Qcow2Disk {
    /// Opens an image, and those on which it builds if they are allowed. It is had alone by who may write it; those on which it
    /// builds may be read by any number.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(path: &Path, writes: Writes, backing: BackingFiles) -> Result<Qcow2Disk, DiskError> {
        let opened = file::open(path, writes)?;
        let failed = |source| DiskError::Image { path: path.into(), source };
        tables::check(&opened).map_err(failed)?;
        let mut files = Vec::new();
        let image = contained(|| {
            let storage = storage(&opened, path, writes)?;
            let mut image = Qcow2::<Storage>::open_image(storage, writes == Writes::Allowed)?;
            if image.requires_external_data_file() {
                return Err(io::Error::other("its data are in another file"));
            }
            image.open_implicit_dependencies_gated(Gate { backing, files: &mut files, depth: 0 })?;
            Ok(FormatAccess::new(image))
        });
        let image = image.map_err(failed)?;
        files.push(opened);
        let bytes = image.size();
        if bytes < SECTOR_BYTES {
            return Err(DiskError::Empty { path: path.into(), bytes });
        }
        Ok(Qcow2Disk {
            image: RwLock::new(Some(image)),
            files,
            bytes: bytes - bytes % SECTOR_BYTES,
            writes,
            is_broken: AtomicBool::new(false),
        })
    }

    /// Does something with the image, if it is still good for it.
    fn with<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("the image is damaged"));
        }
        contained(act).inspect_err(|error| {
            if error.get_ref().is_some_and(|inner| inner.is::<Damaged>()) {
                self.is_broken.store(true, Ordering::SeqCst);
            }
        })
    }

    fn shared(&self) -> RwLockReadGuard<'_, Option<FormatAccess<Storage>>> {
        // After a panic under the lock nobody gets this far: the image is broken.
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Option<FormatAccess<Storage>>> {
        // As above.
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, act: impl FnOnce(&FormatAccess<Storage>) -> io::Result<()>) -> io::Result<()> {
        self.with(|| self.shared().as_ref().map_or(Ok(()), act))
    }

    fn change(&self, act: impl FnOnce(&mut FormatAccess<Storage>) -> io::Result<()>) -> io::Result<()> {
        self.with(|| self.alone().as_mut().map_or(Ok(()), act))
    }

    /// That no file is shorter than it was.
    fn check_files(&self) -> io::Result<()> {
        let is_whole = |open: &OpenFile| -> io::Result<bool> {
            let now = open.file.metadata()?;
            Ok(!now.is_file() || now.len() >= open.bytes)
        };
        match self.files.iter().map(is_whole).collect::<io::Result<Vec<bool>>>()?.contains(&false) {
            true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file of the image was cut short")),
            false => Ok(()),
        }
    }
}

impl Drop for Qcow2Disk {
    fn drop(&mut self) {
        let image = self.image.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // It writes what it has not written yet; of a broken image that may panic again.
        let _ = contained(|| {
            drop(image);
            Ok(())
        });
    }
}

impl Disk for Qcow2Disk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn writes(&self) -> Writes {
        self.writes
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read(|image| image.read(into, offset))?;
        self.check_files()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.read(|image| image.write(bytes, offset))
    }

    fn flush(&self) -> io::Result<()> {
        self.read(|image| {
            image.flush()?;
            image.sync()
        })
    }

    fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match self.change(|image| image.discard_to_any(offset, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, bytes: u64, space: Space) -> io::Result<()> {
        match space {
            Space::Keep => self.read(|image| image.write_zeroes(offset, bytes)),
            Space::Free => self.change(|image| image.discard_to_zero(offset, bytes)),
        }
    }
}

/// The crate panicked.
#[derive(Debug, thiserror::Error)]
#[error("the image is damaged")]
struct Damaged;

/// Does something with the crate, whose panics become errors.
fn contained<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err(io::Error::other(Damaged)))
}

/// A file as the crate wants it. It knows its path only to find others beside it.
fn storage(open: &OpenFile, path: &Path, writes: Writes) -> io::Result<Storage> {
    let options = StorageOpenOptions::new().filename(path).write(writes == Writes::Allowed);
    Storage::from_open_file(open.file.try_clone()?, options)
}

/// Opens the images on which one builds, if that is allowed.
struct Gate<'a> {
    backing: BackingFiles,
    files: &'a mut Vec<OpenFile>,
    depth: usize,
}

impl ImplicitOpenGate<Storage> for Gate<'_> {
    fn open_format<F: FormatDriverBuilder<Storage>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<Storage>> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("it builds on more than {DEPTH_MAX} images")));
        }
        let below = Gate { backing: self.backing, files: &mut *self.files, depth };
        Ok(FormatAccess::new(builder.open(below)?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<Storage> {
        let path = options.get_filename().map(PathBuf::from).unwrap_or_default();
        if self.backing == BackingFiles::Refused {
            let line = format!("it builds on {}: if that is right, say backing_files=on", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, line));
        }
        let opened = file::open(&path, Writes::Refused).map_err(io::Error::other)?;
        let storage = storage(&opened, &path, Writes::Refused);
        self.files.push(opened);
        storage
    }
}
