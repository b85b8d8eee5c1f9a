//! Memory that a VM has on this node only.

use std::io;

use rustix::mm::{mmap_anonymous, munmap, MapFlags, ProtFlags};

/// A page-aligned piece of anonymous memory.
#[derive(Debug)]
pub struct PrivateMemory {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: after `new` nobody in this process reads or writes the memory; the guest does, on its own terms.
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
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE) }?
            .cast::<u8>();
        // SAFETY: the mapping is `bytes` long, zeroed, and nobody else knows it yet.
        fill(unsafe { std::slice::from_raw_parts_mut(start, bytes) });
        Ok(PrivateMemory { start, bytes })
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
