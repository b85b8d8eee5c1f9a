//! The folder on the host. Every path is resolved from its descriptor, and never leaves it.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, StatFs, Timestamps,
};
use rustix::io::Errno;

use super::error::P9Error;
use super::fids::Place;
use super::wire::Qid;

/// Nothing outside, nothing behind a link, nothing that is mounted below.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// What a guest may say of who may do what: not that a program runs as somebody else.
const MODE_MASK: u32 = 0o1777;
/// Bytes of names that are read at a time.
const NAMES_BYTES: usize = 32 << 10;
/// The kind of a folder's qid (P9_QTDIR).
pub(super) const QT_FOLDER: u8 = 0x80;
/// The kind of a symbolic link's (P9_QTSYMLINK).
const QT_SYMLINK: u8 = 0x02;

/// Whether a guest may change what is in a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changes {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

/// A folder of the host.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
    changes: Changes,
}

/// Something in a folder.
pub(super) struct Listed<'a> {
    pub qid: Qid,
    /// Where to go on behind it.
    pub next: u64,
    /// DT_*.
    pub kind: u8,
    pub name: &'a CStr,
}

impl Folder {
    /// Opens a folder, from which nothing else can be reached.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub fn open(path: &Path, changes: Changes) -> Result<Self, P9Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Folder { root, changes }),
            Err(error) => Err(P9Error::Open { path: path.into(), source: error.into() }),
        }
    }

    /// Checks that something may be changed.
    pub(super) fn check_change(&self) -> Result<(), Errno> {
        match self.changes {
            Changes::Allowed => Ok(()),
            Changes::Refused => Err(Errno::ROFS),
        }
    }

    fn resolve(&self, place: &Place, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fs::openat2(&self.root, place.path(), flags, mode, BENEATH)
    }

    /// What is at a place, itself and not what it links to, neither to be read nor written.
    pub(super) fn find(&self, place: &Place) -> Result<(OwnedFd, Stat), Errno> {
        let found = self.resolve(place, OFlags::PATH, Mode::empty())?;
        let stat = fs::fstat(&found)?;
        Ok((found, stat))
    }

    /// Opens a file or a folder. (Opening anything else may wait, or do something.)
    pub(super) fn open_file(&self, place: &Place, flags: OFlags) -> Result<(OwnedFd, Stat), Errno> {
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            self.check_change()?;
        }
        check_kind(&self.find(place)?.1)?;
        // It may be another one by now: that does no harm, as it is beneath, and nothing waits.
        let file = self.resolve(place, flags | OFlags::NONBLOCK, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        check_kind(&stat)?;
        Ok((file, stat))
    }

    /// Makes a file that was not there, and opens it.
    pub(super) fn create(&self, place: &Place, flags: OFlags, mode: u32) -> Result<(OwnedFd, Stat), Errno> {
        self.check_change()?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NONBLOCK;
        let file = self.resolve(place, flags, Mode::RUSR | Mode::WUSR)?;
        // The guest has taken its own mask off already.
        fs::fchmod(&file, allowed(mode))?;
        let stat = fs::fstat(&file)?;
        Ok((file, stat))
    }

    /// Makes a folder.
    pub(super) fn make_folder(&self, folder: &Place, name: &[u8], mode: u32) -> Result<(), Errno> {
        self.check_change()?;
        let folder = self.find(folder)?.0;
        fs::mkdirat(&folder, name, Mode::RWXU)?;
        let made = fs::openat2(
            &folder,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            BENEATH,
        )?;
        fs::chmodat(fs::CWD, itself(&made), allowed(mode), AtFlags::empty())
    }

    /// Makes a symbolic link. What it says is the guest's own affair: it is never followed here.
    pub(super) fn make_symlink(&self, folder: &Place, name: &[u8], target: &[u8]) -> Result<(), Errno> {
        self.check_change()?;
        fs::symlinkat(target, &self.find(folder)?.0, name)
    }

    /// What a symbolic link says.
    pub(super) fn read_symlink(&self, place: &Place) -> Result<Vec<u8>, Errno> {
        let link = self.find(place)?.0;
        Ok(fs::readlinkat(&link, c"", Vec::new())?.into_bytes())
    }

    /// Gives a file another name.
    pub(super) fn make_link(&self, file: &Place, folder: &Place, name: &[u8]) -> Result<(), Errno> {
        self.check_change()?;
        let (file, stat) = self.find(file)?;
        check_kind(&stat)?;
        fs::linkat(fs::CWD, itself(&file), &self.find(folder)?.0, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Renames something; what has the new name already is replaced.
    pub(super) fn rename(&self, from: (&Place, &[u8]), to: (&Place, &[u8])) -> Result<(), Errno> {
        self.check_change()?;
        fs::renameat(&self.find(from.0)?.0, from.1, &self.find(to.0)?.0, to.1)
    }

    /// Takes a name away: of a folder, which must be empty, or of anything else.
    pub(super) fn unlink(&self, folder: &Place, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
        self.check_change()?;
        fs::unlinkat(&self.find(folder)?.0, name, flags)
    }

    /// Changes who may do what with a file or folder.
    pub(super) fn set_mode(&self, place: &Place, mode: u32) -> Result<(), Errno> {
        self.check_change()?;
        let (file, stat) = self.find(place)?;
        check_kind(&stat)?;
        fs::chmodat(fs::CWD, itself(&file), allowed(mode), AtFlags::empty())
    }

    /// Changes when a file or folder was used.
    pub(super) fn set_times(&self, place: &Place, times: &Timestamps) -> Result<(), Errno> {
        self.check_change()?;
        let (file, stat) = self.find(place)?;
        check_kind(&stat)?;
        fs::utimensat(fs::CWD, itself(&file), times, AtFlags::empty())
    }

    /// Changes how long a file is.
    pub(super) fn set_size(&self, place: &Place, bytes: u64) -> Result<(), Errno> {
        let file = self.open_file(place, OFlags::WRONLY)?.0;
        fs::ftruncate(&file, bytes)
    }

    /// The file system of a place.
    pub(super) fn file_system(&self, place: &Place) -> Result<StatFs, Errno> {
        fs::fstatfs(&self.find(place)?.0)
    }
}

/// Reads names of an open folder from a place on that an earlier reading gave, until `take` wants no more.
pub(super) fn list(
    folder: &OwnedFd,
    from: u64,
    mut take: impl FnMut(Listed<'_>) -> bool,
) -> Result<(), Errno> {
    fs::seek(folder, SeekFrom::Start(from))?;
    let mut room = vec![MaybeUninit::uninit(); NAMES_BYTES];
    let mut names = RawDir::new(folder.as_fd(), &mut room);
    while let Some(entry) = names.next() {
        let entry = entry?;
        let kind = match entry.file_type() {
            FileType::Directory => QT_FOLDER,
            FileType::Symlink => QT_SYMLINK,
            _ => 0,
        };
        let listed = Listed {
            qid: Qid { kind, version: 0, path: entry.ino() },
            next: entry.next_entry_cookie(),
            // DT_* are the file type's bits, 12 to the right.
            kind: (entry.file_type().as_raw_mode() >> 12) as u8,
            name: entry.file_name(),
        };
        if !take(listed) {
            break;
        }
    }
    Ok(())
}

/// How the protocol tells a file from others.
pub(super) fn qid(stat: &Stat) -> Qid {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => QT_FOLDER,
        FileType::Symlink => QT_SYMLINK,
        _ => 0,
    };
    // Another one at each change that anybody can see.
    let version = (stat.st_mtime as u32) ^ (stat.st_mtime_nsec as u32).rotate_left(8);
    Qid { kind, version, path: stat.st_ino }
}

/// Only files and folders are opened and changed.
fn check_kind(stat: &Stat) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(()),
        FileType::Symlink => Err(Errno::LOOP),
        _ => Err(Errno::ACCESS),
    }
}

fn allowed(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & MODE_MASK)
}

/// A path of what a descriptor has open, for the calls that take no such descriptor.
fn itself(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
