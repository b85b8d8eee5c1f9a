//! Who gets which addresses of a window of guest-physical memory.

use std::ops::Range;

use thiserror::Error;
use vm_allocator::{AddressAllocator, AllocPolicy};

/// A window cannot hold what is asked of it.
#[derive(Debug, Error)]
#[error("no {bytes:#x} bytes are free in the PCI memory window {window:#x?}: {source}")]
pub struct WindowError {
    /// What was wanted.
    pub bytes: u64,
    /// The window.
    pub window: Range<u64>,
    /// What the allocator said.
    pub source: vm_allocator::Error,
}

/// A window in which BARs are placed.
#[derive(Debug)]
pub struct MemoryWindow {
    window: Range<u64>,
    free: AddressAllocator,
}

impl MemoryWindow {
    /// A window with nothing in it.
    ///
    /// # Errors
    /// When it is empty.
    pub fn new(window: Range<u64>) -> Result<Self, WindowError> {
        let bytes = window.end.saturating_sub(window.start);
        match AddressAllocator::new(window.start, bytes) {
            Ok(free) => Ok(MemoryWindow { window, free }),
            Err(source) => Err(WindowError { bytes, window, source }),
        }
    }

    /// A place for a BAR of `bytes` bytes, a power of two: the lowest free multiple of that.
    ///
    /// # Errors
    /// When there is none.
    pub fn place(&mut self, bytes: u64) -> Result<u64, WindowError> {
        let placed = self.free.allocate(bytes, bytes, AllocPolicy::FirstMatch);
        placed.map(|range| range.start()).map_err(|source| WindowError {
            bytes,
            window: self.window.clone(),
            source,
        })
    }
}
