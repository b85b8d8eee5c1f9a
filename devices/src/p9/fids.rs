//! What the guest has names for: paths in the folder, and open files.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::config::{FIDS_MAX, OPEN_MAX, PATH_BYTES_MAX};
use super::request::{Fid, Name};

/// A place in the shared folder: names with slashes between them; empty for the folder itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Place(Vec<u8>);

impl Place {
    /// The place of a name in this folder.
    pub fn join(&self, name: &Name) -> Place {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.bytes());
        Place(path)
    }

    /// As a path from the shared folder.
    pub fn path(&self) -> &[u8] {
        if self.0.is_empty() {
            b"."
        } else {
            &self.0
        }
    }

    /// The folder that this is in, and its name there; `None` for the shared folder itself.
    pub fn split(&self) -> Option<(Place, &[u8])> {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => Some((Place(self.0[..at].to_vec()), &self.0[at + 1..])),
            None if self.0.is_empty() => None,
            None => Some((Place::default(), &self.0)),
        }
    }

    /// Where this is after `from` has become `to`, if that changes it.
    fn moved(&self, from: &Place, to: &Place) -> Option<Place> {
        let rest = self.0.strip_prefix(from.0.as_slice())?;
        // (Not `ab` when `a` is renamed.)
        (rest.is_empty() || rest.starts_with(b"/")).then(|| Place([to.0.as_slice(), rest].concat()))
    }
}

/// What a fid stands for.
#[derive(Debug)]
pub(super) struct Entry {
    pub place: Place,
    pub open: Option<OwnedFd>,
}

/// All fids of a guest.
#[derive(Debug, Default)]
pub(super) struct Fids {
    entries: BTreeMap<Fid, Entry>,
    open: usize,
    path_bytes: usize,
}

impl Fids {
    pub fn get(&self, fid: Fid) -> Result<&Entry, Errno> {
        self.entries.get(&fid).ok_or(Errno::BADF)
    }

    /// The open file of a fid.
    pub fn open_file(&self, fid: Fid) -> Result<&OwnedFd, Errno> {
        self.get(fid)?.open.as_ref().ok_or(Errno::BADF)
    }

    /// Whether one more file may be opened for `fid`.
    pub fn may_open(&self, fid: Fid) -> Result<(), Errno> {
        match self.get(fid)?.open {
            Some(_) => Err(Errno::BADF),
            None if self.open >= OPEN_MAX => Err(Errno::NFILE),
            None => Ok(()),
        }
    }

    /// Whether a new fid may be this one.
    pub fn may_add(&self, fid: Fid) -> Result<(), Errno> {
        match self.entries.contains_key(&fid) {
            true => Err(Errno::BADF),
            false if self.entries.len() >= FIDS_MAX || self.path_bytes >= PATH_BYTES_MAX => Err(Errno::NFILE),
            false => Ok(()),
        }
    }

    /// Adds or replaces what a fid stands for.
    pub fn put(&mut self, fid: Fid, place: Place, open: Option<OwnedFd>) {
        let _replaced = self.remove(fid);
        self.open += usize::from(open.is_some());
        self.path_bytes += place.0.len();
        self.entries.insert(fid, Entry { place, open });
    }

    /// Forgets a fid.
    pub fn remove(&mut self, fid: Fid) -> Result<Entry, Errno> {
        let entry = self.entries.remove(&fid).ok_or(Errno::BADF)?;
        self.open -= usize::from(entry.open.is_some());
        self.path_bytes -= entry.place.0.len();
        Ok(entry)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Fids::default();
    }

    /// `from` has become `to`: what is there or below is elsewhere.
    pub fn rename(&mut self, from: &Place, to: &Place) {
        for entry in self.entries.values_mut() {
            if let Some(place) = entry.place.moved(from, to) {
                self.path_bytes = self.path_bytes - entry.place.0.len() + place.0.len();
                entry.place = place;
            }
        }
    }
}
