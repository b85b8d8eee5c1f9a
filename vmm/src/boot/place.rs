//! Writing into guest memory with a record of what was written.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;

use tessera_dsm::ids::{Gfn, PAGE_BYTES};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;

/// Node 0's low memory while a guest is loaded into it.
pub(super) struct GuestWriter<'a> {
    memory: &'a GuestMemoryMmap,
    end: u64,
    written: Vec<Range<u64>>,
}

impl<'a> GuestWriter<'a> {
    /// A writer for addresses below `end`.
    pub(super) fn new(memory: &'a GuestMemoryMmap, end: u64) -> Self {
        GuestWriter { memory, end, written: Vec::new() }
    }

    /// One past the last address that may be written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The memory itself, for a loader of another crate; tell [`Self::note`] what it writes.
    pub(super) fn memory(&self) -> &'a GuestMemoryMmap {
        self.memory
    }

    /// Checks that a place can be written, and records it as written.
    pub(super) fn note(&mut self, what: &'static str, start: u64, bytes: u64) -> Result<(), BootError> {
        let outside = BootError::Outside { what, start, bytes, end: self.end };
        let end = start.checked_add(bytes).filter(|&end| end <= self.end).ok_or(outside)?;
        if bytes > 0 {
            self.written.push(start..end);
        }
        Ok(())
    }

    /// Writes `bytes` at `start`.
    pub(super) fn write(&mut self, what: &'static str, start: u64, bytes: &[u8]) -> Result<(), BootError> {
        self.note(what, start, bytes.len() as u64)?;
        self.memory.write_slice(bytes, GuestAddress(start)).map_err(|source| BootError::Memory {
            what,
            start,
            source,
        })
    }

    /// Reads `bytes` bytes of `file` from `offset` on straight into guest memory at `start`.
    pub(super) fn copy_file(
        &mut self,
        what: &'static str,
        start: u64,
        file: &File,
        offset: u64,
        bytes: u64,
    ) -> Result<(), BootError> {
        self.note(what, start, bytes)?;
        let mut file = file;
        file.seek(SeekFrom::Start(offset)).map_err(|source| BootError::Read { what, source })?;
        self.memory
            .read_exact_volatile_from(GuestAddress(start), &mut file, bytes as usize)
            .map_err(|source| BootError::Memory { what, start, source })
    }

    /// Runs of pages that hold something now, ascending, none adjacent to the next.
    pub(super) fn written(mut self) -> Vec<(Gfn, u64)> {
        self.written.sort_by_key(|range| range.start);
        let mut runs: Vec<(Gfn, u64)> = Vec::new();
        for range in self.written {
            let first = Gfn::containing(range.start).0;
            let end = range.end.div_ceil(PAGE_BYTES as u64);
            match runs.last_mut() {
                Some((start, pages)) if first <= start.0 + *pages => *pages = (*pages).max(end - start.0),
                _ => runs.push((Gfn(first), end - first)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_runs_are_merged_and_cover_every_byte() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut guest = GuestWriter::new(&memory, 1 << 20);
        guest.write("a", 0x5ffe, &[1; 4]).unwrap();
        guest.write("b", 0x1000, &[1; 0x1000]).unwrap();
        guest.write("c", 0x2000, &[1]).unwrap();
        guest.write("d", 0x2800, &[1]).unwrap();
        guest.write("nothing", 0x9000, &[]).unwrap();
        assert_eq!(guest.written(), [(Gfn(1), 2), (Gfn(5), 2)]);
    }

    #[test]
    fn nothing_is_written_past_the_end() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut guest = GuestWriter::new(&memory, 0x8000);
        assert!(matches!(guest.write("a", 0x7fff, &[1, 2]), Err(BootError::Outside { .. })));
        assert!(guest.write("a", u64::MAX, &[1]).is_err());
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x7fff)).unwrap(), 0);
        assert!(guest.written().is_empty());
    }
}
