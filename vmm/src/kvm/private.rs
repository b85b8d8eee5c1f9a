//! Memory that a VM has on this node only.

use std::io;

use rustix::mm::{madvise, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};

/// A page-aligned piece of anonymous memory.
#[derive(Debug)]
pub struct PrivateMemory {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory is only written through `write`, whose caller sees to it that nobody else does at that time.
unsafe impl Send for PrivateMemory {}
// SAFETY: as above.
unsafe impl Sync for PrivateMemory {}

impl PrivateMemory {
    /// Maps `bytes` of memory and lets `fill` write it once.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(bytes: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new anonymous mapping overlaps nothing.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE | MapFlags::NORESERVE)
        }?
        .cast::<u8>();
        // SAFETY: the mapping is `bytes` long, zeroed, and nobody else knows it yet.
        fill(unsafe { std::slice::from_raw_parts_mut(start, bytes) });
        Ok(PrivateMemory { start, bytes })
    }

    /// Writes `bytes` at `at`. The guest side must not use them meanwhile.
    ///
    /// # Panics
    /// If they lie outside.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.bytes, "a write of {} bytes at {at} is outside", bytes.len());
        // SAFETY: inside the mapping, and bytes from elsewhere do not overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    /// Gives the memory back to the host; it reads as zero then.
    pub fn give_back(&self) {
        // SAFETY: the mapping is ours, anonymous, and nothing in it is wanted any more.
        let given = unsafe { madvise(self.start.cast(), self.bytes, Advice::LinuxDontNeed) };
        debug_assert!(given.is_ok(), "giving back our own mapping cannot fail");
    }

    /// Where it stands in this process.
    pub fn hva(&self) -> u64 {
        self.start as u64
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; the VM that used it is gone (it drops its memory after its file).
        let unmapped = unsafe { munmap(self.start.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
    }
}
