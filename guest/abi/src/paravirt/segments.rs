//! Shared segments: memory that processes of the guest share by a key or a name, with the coherence that they ask for.
//!
//! The area is a [`DirectoryHeader`] and a table of [sequence-locked](crate::seqlock) [`SegmentEntry`]s, one for each segment that
//! there may be. The segments' memory lies in the device's memory window. They are created, attached and released by
//! [requests](super::request).

use core::sync::atomic::AtomicU64;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::names::Name;
use super::stats::Table;
use super::PAGE_BYTES;
use crate::seqlock::{self, Reader, Writer, WORD_BYTES};

/// Bytes of an entry, its sequence number included.
pub const ENTRY_BYTES: usize = WORD_BYTES + size_of::<SegmentEntry>();
const HEADER_WORDS: usize = size_of::<DirectoryHeader>() / WORD_BYTES;
const ENTRIES_OFFSET: u64 = 64;

/// First word of the area: "TSSG" as the bytes lie in memory.
pub const DIRECTORY_MAGIC: u32 = u32::from_le_bytes(*b"TSSG");
/// Most segments of one guest.
pub const SEGMENTS_MAX: u32 = 256;
/// Largest segment, in bytes: 1 GiB.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The beginning of the directory; it never changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirectoryHeader {
    /// [`DIRECTORY_MAGIC`].
    pub magic: u32,
    /// [`Version::to_bits`](super::Version::to_bits).
    pub version: u32,
    /// Of [`SegmentEntry`]s, by segment number.
    pub segments: Table,
}

/// States of a segment.
pub mod segment_state {
    /// There is none of this number.
    pub const NONE: u8 = 0;
    /// It can be used.
    pub const READY: u8 = 1;
    /// It is being removed: who is attached may finish, nobody else may attach.
    pub const REMOVED: u8 = 2;
    /// It is lost with the host that owned it.
    pub const BROKEN: u8 = 3;
}

/// When others see what was written to a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Consistency {
    /// At once, as in any memory of the guest.
    Strict,
    /// After the writer's release. Only for programs that use locks, which must lie elsewhere.
    EagerRelease,
}

impl Consistency {
    /// As a number in a field.
    pub const fn to_code(self) -> u8 {
        match self {
            Consistency::Strict => 1,
            Consistency::EagerRelease => 2,
        }
    }

    /// From a field.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Consistency::Strict),
            2 => Some(Consistency::EagerRelease),
            _ => None,
        }
    }
}

/// A segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentEntry {
    /// Its number: its place in the table.
    pub segment: u32,
    /// [`segment_state`].
    pub state: u8,
    /// [`Consistency::to_code`].
    pub consistency: u8,
    /// The host that owns it; of a strict segment, that keeps its directory.
    pub owner: u16,
    /// Its key; 0 if it has a name.
    pub key: u64,
    /// Its name; zeros if it has a key.
    pub name: Name,
    /// Its size in bytes; a multiple of 4096.
    pub bytes: u64,
    /// Where it begins in the device's memory window, in bytes; a multiple of 4096.
    pub offset: u64,
    /// How often it is attached.
    pub attached: u32,
    /// How often its ownership has moved. Wraps round.
    pub moves: u32,
}

/// The directory, as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    area: &'a [AtomicU64],
    segments: Table,
}

impl<'a> Directory<'a> {
    /// Bytes of a directory of so many segments.
    pub const fn bytes(segments: u32) -> u64 {
        ENTRIES_OFFSET + segments as u64 * ENTRY_BYTES as u64
    }

    /// The device: makes an area of zeros a directory of so many segments. `None` if it is too short for them.
    pub fn create(area: &'a [AtomicU64], segments: u32) -> Option<Self> {
        let table = Table { offset: ENTRIES_OFFSET, stride: ENTRY_BYTES as u32, count: segments };
        let (magic, version) = (DIRECTORY_MAGIC, super::Version::CURRENT.to_bits());
        if (area.len() as u64) < Directory::bytes(segments) / WORD_BYTES as u64 {
            return None;
        }
        seqlock::store(area, &DirectoryHeader { magic, version, segments: table });
        Some(Directory { area, segments: table })
    }

    /// The guest: the directory in an area; `None` if it is none that this version can use.
    pub fn new(area: &'a [AtomicU64]) -> Option<Self> {
        let header: DirectoryHeader = seqlock::load(area.get(..HEADER_WORDS)?);
        let usable = super::Version::CURRENT.can_use(super::Version::from_bits(header.version));
        (header.magic == DIRECTORY_MAGIC && usable).then_some(Directory { area, segments: header.segments })
    }

    /// The entry of a segment, to be read.
    pub fn reader(&self, segment: u32) -> Option<Reader<'a, SegmentEntry>> {
        Reader::new(self.entry(segment)?)
    }

    /// The entry of a segment, to be written, by the home node alone.
    pub fn writer(&self, segment: u32) -> Option<Writer<'a, SegmentEntry>> {
        Writer::new(self.entry(segment)?)
    }

    fn entry(&self, segment: u32) -> Option<&'a [AtomicU64]> {
        self.area.get(self.segments.record(segment, ENTRY_BYTES)?..)
    }
}

/// Whether a segment can have this size.
pub const fn is_segment_size(bytes: u64) -> bool {
    bytes > 0 && bytes <= SEGMENT_BYTES_MAX && bytes.is_multiple_of(PAGE_BYTES)
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<DirectoryHeader>() == 24);
    assert!(size_of::<SegmentEntry>() == 72);
    assert!(offset_of!(SegmentEntry, name) == 16 && offset_of!(SegmentEntry, bytes) == 48);
};

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::Ordering;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn the_device_writes_what_the_guest_reads() {
        let words = Directory::bytes(4) as usize / WORD_BYTES;
        let area: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
        assert!(Directory::create(&area, 5).is_none(), "no room");
        assert!(Directory::new(&area).is_none(), "zeros");
        let device = Directory::create(&area, 4).expect("room");
        let guest = Directory::new(&area).expect("a directory");
        let entry = SegmentEntry {
            segment: 3,
            state: segment_state::READY,
            consistency: Consistency::EagerRelease.to_code(),
            owner: 1,
            key: 0,
            name: Name::new("heap").expect("a name"),
            bytes: 8192,
            offset: 4096,
            attached: 2,
            moves: 0,
        };
        device.writer(3).expect("there").write(&entry);
        let read = |segment| guest.reader(segment).expect("there").read().expect("whole").fields;
        assert_eq!(read(3), entry);
        assert_eq!(read(0).state, segment_state::NONE);
        assert!(guest.reader(4).is_none() && device.writer(4).is_none());
        area[0].store(u64::from(DIRECTORY_MAGIC) | 2 << 48, Ordering::Relaxed);
        assert!(Directory::new(&area).is_none(), "version 2");
    }

    #[test]
    fn sizes_are_whole_pages_up_to_a_gibibyte() {
        let sizes = [0, 1, 4095, 4096, 8192, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MAX + 4096, u64::MAX];
        let expected = [false, false, false, true, true, true, false, false];
        assert_eq!(sizes.map(is_segment_size), expected);
    }

    #[test]
    fn each_consistency_has_its_number() {
        for consistency in [Consistency::Strict, Consistency::EagerRelease] {
            assert_eq!(Consistency::from_code(consistency.to_code()), Some(consistency));
        }
        assert_eq!([0, 3, 255].map(Consistency::from_code), [None; 3]);
    }
}
