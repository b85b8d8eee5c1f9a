//! One direction of a shared link: a ring of bytes in memory that two processes share.
//!
//! Each side trusts only what it keeps for itself: its own position. What it reads of the other's is checked each time, and
//! can do no more harm than end the link. Bytes are copied out before anybody looks at them.
//!
//! **Waiting.** Who finds nothing (or no room) says so in a flag of its own and looks again. Who puts in (or takes out) looks at
//! that flag behind its own store, takes it back, and rings the bell. Either the one sees the bytes or the other sees the flag:
//! between store and load of both sides there is a full fence.

use std::io::{self, IoSlice};
use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileMemoryError};

use crate::ids::PAGE_BYTES;

/// Bytes that a ring holds: what is sent at once for some dozens of pages.
pub(super) const RING_BYTES: usize = 256 << 10;
/// Bytes of the words about one ring. Each has a cache line of its own.
const CONTROL_BYTES: usize = 256;
/// Bytes of all: the words of both rings in one page, then the rings.
pub(super) const REGION_BYTES: usize = PAGE_BYTES + 2 * RING_BYTES;

/// Offset, in a ring's words, of how many bytes were put in since the beginning.
const WRITTEN: usize = 0;
/// Of how many were taken out.
const TAKEN: usize = 64;
/// Of whether the reader waits for bytes.
const READER_WAITS: usize = 128;
/// Of whether the writer waits for room.
const WRITER_WAITS: usize = 192;

/// Which of the two rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// From the one who made the memory.
    FromMaker,
    /// To the one who made it.
    ToMaker,
}

/// What came of putting in or taking out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moved {
    /// How many bytes.
    pub bytes: usize,
    /// The other side waits, and is to be woken.
    pub ring: bool,
}

/// A ring as one of its two sides sees it.
#[derive(Debug)]
struct Half {
    region: Arc<MmapRegion>,
    /// Where its words are.
    control: usize,
    /// Where its bytes are.
    bytes: usize,
}

/// The side that puts bytes in.
#[derive(Debug)]
pub(super) struct Writer {
    half: Half,
    written: u64,
}

/// The side that takes them out.
#[derive(Debug)]
pub(super) struct Reader {
    half: Half,
    taken: u64,
}

/// Makes new memory ready: nobody has looked yet, so both readers are to be woken by what comes first.
///
/// # Errors
/// If the memory is too small.
pub(super) fn prepare(region: &Arc<MmapRegion>) -> io::Result<()> {
    for direction in [Direction::FromMaker, Direction::ToMaker] {
        Half::new(region.clone(), direction).wait(READER_WAITS)?;
    }
    Ok(())
}

impl Half {
    fn new(region: Arc<MmapRegion>, direction: Direction) -> Self {
        match direction {
            Direction::FromMaker => Half { region, control: 0, bytes: PAGE_BYTES },
            Direction::ToMaker => Half { region, control: CONTROL_BYTES, bytes: PAGE_BYTES + RING_BYTES },
        }
    }

    fn position(&self, word: usize) -> io::Result<&AtomicU64> {
        self.region.get_atomic_ref(self.control + word).map_err(outside)
    }

    fn flag(&self, word: usize) -> io::Result<&AtomicU32> {
        self.region.get_atomic_ref(self.control + word).map_err(outside)
    }

    /// How far the writer is before the reader.
    fn held(written: u64, taken: u64) -> io::Result<usize> {
        match usize::try_from(written.wrapping_sub(taken)) {
            Ok(held) if held <= RING_BYTES => Ok(held),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a ring of {RING_BYTES} bytes cannot be at {written} written and {taken} taken"),
            )),
        }
    }

    /// Where in the region the byte at a position lies, and how many lie behind one another from there.
    fn place(&self, position: u64) -> (usize, usize) {
        let at = (position % RING_BYTES as u64) as usize;
        (self.bytes + at, RING_BYTES - at)
    }

    /// Announces that the caller waits.
    fn wait(&self, word: usize) -> io::Result<()> {
        self.flag(word)?.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Whether the other side waits. It is then the caller's to wake it.
    fn take_waiter(&self, word: usize) -> io::Result<bool> {
        fence(Ordering::SeqCst);
        let flag = self.flag(word)?;
        Ok(flag.load(Ordering::SeqCst) != 0 && flag.swap(0, Ordering::SeqCst) != 0)
    }
}

impl Writer {
    pub fn new(region: Arc<MmapRegion>, direction: Direction) -> Self {
        Writer { half: Half::new(region, direction), written: 0 }
    }

    /// Puts in as much of the parts, one behind the other, as there is room for.
    ///
    /// # Errors
    /// If the other side's position is none that can be.
    pub fn put(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Moved> {
        let taken = self.half.position(TAKEN)?.load(Ordering::Acquire);
        let room = RING_BYTES - Half::held(self.written, taken)?;
        let mut bytes = 0;
        for part in parts {
            let fits = &part[..part.len().min(room - bytes)];
            self.put_at(self.written + bytes as u64, fits)?;
            bytes += fits.len();
        }
        if bytes == 0 {
            return Ok(Moved { bytes, ring: false });
        }
        self.written += bytes as u64;
        self.half.position(WRITTEN)?.store(self.written, Ordering::Release);
        Ok(Moved { bytes, ring: self.half.take_waiter(READER_WAITS)? })
    }

    fn put_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let (at, before_end) = self.half.place(position);
        let (first, second) = bytes.split_at(bytes.len().min(before_end));
        self.half.region.as_volatile_slice().write_slice(first, at).map_err(outside)?;
        if !second.is_empty() {
            let region = self.half.region.as_volatile_slice();
            region.write_slice(second, self.half.bytes).map_err(outside)?;
        }
        Ok(())
    }

    /// Asks to be woken when there is room; to be followed by another attempt.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn wait_for_room(&self) -> io::Result<()> {
        self.half.wait(WRITER_WAITS)
    }
}

impl Reader {
    pub fn new(region: Arc<MmapRegion>, direction: Direction) -> Self {
        Reader { half: Half::new(region, direction), taken: 0 }
    }

    /// Takes out as much as there is, and fits. A writer that waits is to be woken when at least half of the ring is free.
    ///
    /// # Errors
    /// If the other side's position is none that can be.
    pub fn take(&mut self, into: &mut [u8]) -> io::Result<Moved> {
        let written = self.half.position(WRITTEN)?.load(Ordering::Acquire);
        let held = Half::held(written, self.taken)?;
        let bytes = held.min(into.len());
        if bytes == 0 {
            return Ok(Moved { bytes, ring: false });
        }
        let (at, before_end) = self.half.place(self.taken);
        let (first, second) = into[..bytes].split_at_mut(bytes.min(before_end));
        let region = self.half.region.as_volatile_slice();
        region.read_slice(first, at).map_err(outside)?;
        if !second.is_empty() {
            region.read_slice(second, self.half.bytes).map_err(outside)?;
        }
        self.taken += bytes as u64;
        self.half.position(TAKEN)?.store(self.taken, Ordering::Release);
        let ring = held - bytes <= RING_BYTES / 2 && self.half.take_waiter(WRITER_WAITS)?;
        Ok(Moved { bytes, ring })
    }

    /// Asks to be woken when there are bytes; to be followed by another attempt.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn wait_for_bytes(&self) -> io::Result<()> {
        self.half.wait(READER_WAITS)
    }
}

/// (All offsets are inside the region, whose size was checked.)
fn outside(error: VolatileMemoryError) -> io::Error {
    io::Error::other(error)
}
