//! Does what a client asks for: one message, one answer.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::config::MESSAGE_BYTES_MAX;
use super::fids::{Fids, Place};
use super::folder::{self, Folder};
use super::request::{Attributes, Fid, Name, Request};
use super::wire::{Qid, Reader, Writer, HEADER_BYTES};

/// Fewest bytes of a message that a client may want.
const MESSAGE_BYTES_MIN: u32 = 4096;
/// Bytes of an answer with data in front of these (Linux, P9_IOHDRSZ has more for a write's).
const DATA_AT: usize = HEADER_BYTES + 4;
/// Bytes of an entry of a folder besides its name: qid, offset, kind, the name's length.
const LISTED_BYTES: usize = 13 + 8 + 1 + 2;
/// The type of an answer that is an error.
const RLERROR: u8 = 7;
/// What this server speaks.
const VERSION: &[u8] = b"9P2000.L";
/// P9_GETATTR_BASIC: all of them but for when it was made, and its versions.
const ATTRIBUTES_KNOWN: u64 = 0x7ff;
/// P9_LOCK_TYPE_UNLCK: nobody else has it.
const UNLOCKED: u8 = 2;

/// Bits of `Tsetattr` (P9_SETATTR_*).
mod set {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ACCESSED: u32 = 1 << 4;
    pub const MODIFIED: u32 = 1 << 5;
    pub const ACCESSED_GIVEN: u32 = 1 << 7;
    pub const MODIFIED_GIVEN: u32 = 1 << 8;
}

/// A server of one folder for one client.
#[derive(Debug)]
pub(super) struct Server {
    folder: Folder,
    fids: Fids,
    /// Most bytes of a message, as agreed upon.
    message_bytes: u32,
}

impl Server {
    pub fn new(folder: Folder) -> Self {
        Server { folder, fids: Fids::default(), message_bytes: MESSAGE_BYTES_MAX }
    }

    /// The client is gone, and with it its names.
    pub fn forget(&mut self) {
        self.fids.clear();
        self.message_bytes = MESSAGE_BYTES_MAX;
    }

    /// The answer to a message, with at most `room` bytes; `None` if the message has no tag to answer to, or there is no
    /// room for any answer.
    pub fn serve(&mut self, message: &[u8], room: u64) -> Option<Vec<u8>> {
        let mut reader = Reader(message);
        let (_length, kind, tag) = (reader.word().ok()?, reader.byte().ok()?, reader.half().ok()?);
        let most = u64::from(self.message_bytes).min(room) as usize;
        if most < DATA_AT {
            return None;
        }
        let mut answer = Writer::new(kind.wrapping_add(1), tag);
        let done = Request::read(kind, reader.0).and_then(|request| self.act(&request, most, &mut answer));
        let answer = answer.end();
        Some(match done {
            Ok(()) if answer.len() <= most => answer,
            Ok(()) => error(tag, Errno::MSGSIZE),
            Err(errno) => error(tag, errno),
        })
    }

    /// Does it, and puts what there is to say into `answer`, which may have `most` bytes.
    fn act(&mut self, request: &Request<'_>, most: usize, answer: &mut Writer) -> Result<(), Errno> {
        match request {
            Request::Version { message_bytes, version } => self.version(*message_bytes, version, answer),
            // What was asked for before was answered before.
            Request::Flush => Ok(()),
            Request::Attach { fid } => self.attach(*fid, answer),
            Request::Walk { fid, new, names } => self.walk(*fid, *new, names, answer),
            Request::Open { fid, flags } => self.open(*fid, *flags, answer),
            Request::Create { fid, name, flags, mode } => self.create(*fid, name, *flags, *mode, answer),
            Request::Read { fid, offset, count } => {
                let count = (*count as usize).min(most - DATA_AT);
                self.read(*fid, *offset, count, answer)
            }
            Request::Write { fid, offset, data } => {
                self.folder.check_change()?;
                let written = rustix::io::pwrite(self.fids.open_file(*fid)?, data, *offset)?;
                // (No more than a message has.)
                answer.word(written as u32);
                Ok(())
            }
            Request::Clunk { fid } => self.fids.remove(*fid).map(drop),
            Request::Remove { fid } => self.remove(*fid),
            Request::ReadFolder { fid, offset, count } => {
                let count = (*count as usize).min(most - DATA_AT);
                self.read_folder(*fid, *offset, count, answer)
            }
            Request::FileSystem { fid } => self.file_system(*fid, answer),
            Request::Attributes { fid } => self.attributes(*fid, answer),
            Request::SetAttributes { fid, attributes } => self.set_attributes(*fid, attributes),
            Request::Sync { fid, data_only } => {
                let file = self.fids.open_file(*fid)?;
                if *data_only {
                    rustix::fs::fdatasync(file)
                } else {
                    rustix::fs::fsync(file)
                }
            }
            Request::MakeFolder { folder, name, mode } => {
                let folder = &self.fids.get(*folder)?.place;
                self.folder.make_folder(folder, name.bytes(), *mode)?;
                answer.qid(self.qid_of(&folder.join(name))?);
                Ok(())
            }
            Request::MakeLink { folder, fid, name } => {
                let (file, folder) = (self.fids.get(*fid)?, self.fids.get(*folder)?);
                self.folder.make_link(&file.place, &folder.place, name.bytes())
            }
            Request::MakeSymlink { folder, name, target } => {
                let folder = &self.fids.get(*folder)?.place;
                self.folder.make_symlink(folder, name.bytes(), target)?;
                answer.qid(self.qid_of(&folder.join(name))?);
                Ok(())
            }
            Request::ReadSymlink { fid } => {
                answer.string(&self.folder.read_symlink(&self.fids.get(*fid)?.place)?);
                Ok(())
            }
            Request::Rename { from, to } => {
                let (old, new) = (self.fids.get(from.0)?.place.clone(), self.fids.get(to.0)?.place.clone());
                self.rename((&old, from.1.bytes()), &old.join(&from.1), (&new, &to.1))
            }
            Request::RenameFid { fid, folder, name } => {
                let (old, new) = (self.fids.get(*fid)?.place.clone(), self.fids.get(*folder)?.place.clone());
                let (parent, last) = old.split().ok_or(Errno::BUSY)?;
                self.rename((&parent, last), &old, (&new, name))
            }
            Request::Unlink { folder, name, flags } => {
                let flags = AtFlags::from_bits_truncate(*flags) & AtFlags::REMOVEDIR;
                self.folder.unlink(&self.fids.get(*folder)?.place, name.bytes(), flags)
            }
            // Locks are the guest's kernel's: it has them among its own programs.
            Request::Lock { fid } => {
                self.fids.open_file(*fid)?;
                answer.byte(0);
                Ok(())
            }
            Request::TellLock { fid, start, length, process, client } => {
                self.fids.open_file(*fid)?;
                answer.byte(UNLOCKED).long(*start).long(*length).word(*process).string(client);
                Ok(())
            }
        }
    }

    fn version(&mut self, bytes: u32, version: &[u8], answer: &mut Writer) -> Result<(), Errno> {
        if bytes < MESSAGE_BYTES_MIN {
            return Err(Errno::INVAL);
        }
        self.fids.clear();
        self.message_bytes = bytes.min(MESSAGE_BYTES_MAX);
        let known = if version == VERSION { VERSION } else { b"unknown" };
        answer.word(self.message_bytes).string(known);
        Ok(())
    }

    fn attach(&mut self, fid: Fid, answer: &mut Writer) -> Result<(), Errno> {
        self.fids.may_add(fid)?;
        answer.qid(self.qid_of(&Place::default())?);
        self.fids.put(fid, Place::default(), None);
        Ok(())
    }

    /// Goes from name to name. What is told is as far as it goes; only where all of it does is there a new fid.
    fn walk(&mut self, fid: Fid, new: Fid, names: &[Name], answer: &mut Writer) -> Result<(), Errno> {
        let entry = self.fids.get(fid)?;
        if new != fid {
            self.fids.may_add(new)?;
        } else if entry.open.is_some() {
            return Err(Errno::BADF);
        }
        let (mut place, mut qids) = (entry.place.clone(), Vec::new());
        for name in names {
            place = place.join(name);
            match self.qid_of(&place) {
                Ok(qid) => qids.push(qid),
                Err(errno) if qids.is_empty() => return Err(errno),
                Err(_) => break,
            }
        }
        if qids.len() == names.len() {
            self.fids.put(new, place, None);
        }
        // (At most as many as there are names in a walk.)
        answer.half(qids.len() as u16);
        qids.into_iter().for_each(|qid| {
            answer.qid(qid);
        });
        Ok(())
    }

    fn open(&mut self, fid: Fid, flags: u32, answer: &mut Writer) -> Result<(), Errno> {
        self.fids.may_open(fid)?;
        let place = self.fids.get(fid)?.place.clone();
        let (file, stat) = self.folder.open_file(&place, host_flags(flags))?;
        self.opened(fid, place, file, &stat, answer);
        Ok(())
    }

    fn create(
        &mut self,
        fid: Fid,
        name: &Name,
        flags: u32,
        mode: u32,
        answer: &mut Writer,
    ) -> Result<(), Errno> {
        self.fids.may_open(fid)?;
        let place = self.fids.get(fid)?.place.join(name);
        let (file, stat) = self.folder.create(&place, host_flags(flags) - OFlags::DIRECTORY, mode)?;
        self.opened(fid, place, file, &stat, answer);
        Ok(())
    }

    fn opened(&mut self, fid: Fid, place: Place, file: OwnedFd, stat: &Stat, answer: &mut Writer) {
        self.fids.put(fid, place, Some(file));
        // As many bytes at a time as a message has.
        answer.qid(folder::qid(stat)).word(0);
    }

    fn read(&self, fid: Fid, offset: u64, count: usize, answer: &mut Writer) -> Result<(), Errno> {
        let mut data = vec![0; count];
        let read = rustix::io::pread(self.fids.open_file(fid)?, &mut data[..], offset)?;
        answer.data(data.get(..read).unwrap_or_default());
        Ok(())
    }

    fn read_folder(&self, fid: Fid, offset: u64, count: usize, answer: &mut Writer) -> Result<(), Errno> {
        let mut entries = Writer::default();
        let mut left = count;
        folder::list(self.fids.open_file(fid)?, offset, |listed| {
            let name = listed.name.to_bytes();
            match left.checked_sub(LISTED_BYTES + name.len()) {
                Some(rest) => left = rest,
                None => return false,
            }
            entries.qid(listed.qid).long(listed.next).byte(listed.kind).string(name);
            true
        })?;
        answer.data(&entries.into_bytes());
        Ok(())
    }

    fn remove(&mut self, fid: Fid) -> Result<(), Errno> {
        // The fid is gone, whatever becomes of the file.
        let place = self.fids.remove(fid)?.place;
        let (parent, name) = place.split().ok_or(Errno::BUSY)?;
        let is_folder = self.qid_of(&place)?.kind == folder::QT_FOLDER;
        let flags = if is_folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.folder.unlink(&parent, name, flags)
    }

    fn rename(&mut self, from: (&Place, &[u8]), old: &Place, to: (&Place, &Name)) -> Result<(), Errno> {
        self.folder.rename(from, (to.0, to.1.bytes()))?;
        self.fids.rename(old, &to.0.join(to.1));
        Ok(())
    }

    fn file_system(&self, fid: Fid, answer: &mut Writer) -> Result<(), Errno> {
        let stat = self.folder.file_system(&self.fids.get(fid)?.place)?;
        // (Its kind and the size of its blocks have 32 bits here.)
        answer.word(stat.f_type as u32).word(stat.f_bsize as u32);
        answer.long(stat.f_blocks).long(stat.f_bfree).long(stat.f_bavail);
        // Its number says nothing to a guest.
        answer.long(stat.f_files).long(stat.f_ffree).long(0).word(stat.f_namelen as u32);
        Ok(())
    }

    fn attributes(&self, fid: Fid, answer: &mut Writer) -> Result<(), Errno> {
        let entry = self.fids.get(fid)?;
        // An open file may have no name any more.
        let stat = match &entry.open {
            Some(file) => rustix::fs::fstat(file)?,
            None => self.folder.find(&entry.place)?.1,
        };
        answer.long(ATTRIBUTES_KNOWN).qid(folder::qid(&stat));
        answer.word(stat.st_mode).word(stat.st_uid).word(stat.st_gid).long(stat.st_nlink);
        answer.long(stat.st_rdev).long(stat.st_size as u64).long(stat.st_blksize as u64);
        answer.long(stat.st_blocks as u64);
        answer.long(stat.st_atime as u64).long(stat.st_atime_nsec);
        answer.long(stat.st_mtime as u64).long(stat.st_mtime_nsec);
        answer.long(stat.st_ctime as u64).long(stat.st_ctime_nsec);
        // When it was made, and its versions: not known.
        (0..4).for_each(|_| {
            answer.long(0);
        });
        Ok(())
    }

    fn set_attributes(&self, fid: Fid, wanted: &Attributes) -> Result<(), Errno> {
        let place = &self.fids.get(fid)?.place;
        self.folder.check_change()?;
        if wanted.valid & (set::UID | set::GID) != 0 {
            let stat = self.folder.find(place)?.1;
            let same = |bit, new, old| wanted.valid & bit == 0 || new == old;
            if !same(set::UID, wanted.uid, stat.st_uid) || !same(set::GID, wanted.gid, stat.st_gid) {
                return Err(Errno::PERM);
            }
        }
        if wanted.valid & set::MODE != 0 {
            self.folder.set_mode(place, wanted.mode)?;
        }
        if wanted.valid & set::SIZE != 0 {
            match &self.fids.get(fid)?.open {
                Some(file) => rustix::fs::ftruncate(file, wanted.size)?,
                None => self.folder.set_size(place, wanted.size)?,
            }
        }
        if wanted.valid & (set::ACCESSED | set::MODIFIED) != 0 {
            let time = |changed, given, (seconds, nanoseconds): (u64, u64)| {
                let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
                match (wanted.valid & changed != 0, wanted.valid & given != 0) {
                    (false, _) => Ok(omit),
                    (true, false) => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
                    (true, true) if nanoseconds >= 1_000_000_000 => Err(Errno::INVAL),
                    (true, true) => Ok(Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 }),
                }
            };
            let times = Timestamps {
                last_access: time(set::ACCESSED, set::ACCESSED_GIVEN, wanted.accessed)?,
                last_modification: time(set::MODIFIED, set::MODIFIED_GIVEN, wanted.modified)?,
            };
            self.folder.set_times(place, &times)?;
        }
        Ok(())
    }

    fn qid_of(&self, place: &Place) -> Result<Qid, Errno> {
        Ok(folder::qid(&self.folder.find(place)?.1))
    }
}

/// What of a client's flags (Linux's own, as P9_DOTL_*) is wanted of the host. The guest's kernel sees to appending.
fn host_flags(flags: u32) -> OFlags {
    let taken =
        OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC | OFlags::DSYNC | OFlags::SYNC | OFlags::DIRECTORY;
    OFlags::from_bits_truncate(flags) & taken
}

fn error(tag: u16, errno: Errno) -> Vec<u8> {
    let mut answer = Writer::new(RLERROR, tag);
    answer.word(errno.raw_os_error().unsigned_abs());
    answer.end()
}
