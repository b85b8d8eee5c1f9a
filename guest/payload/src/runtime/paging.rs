//! Page tables beyond the first 4 GiB that `ring0.s` brings along. All are built before other CPUs start.

use core::sync::atomic::{AtomicU64, Ordering};

use super::arena::{Arena, Page, MAPPED_LIMIT};
use super::boot::ZeroPage;

/// Present, writable, ring 3, accessed: an entry that leads to another table.
pub const TABLE: u64 = 0x27;
/// The same plus dirty: an entry that maps a page.
pub const LEAF: u64 = 0x67;
const LARGE: u64 = 0xe7;
const GIB: u64 = 1 << 30;

unsafe extern "C" {
    static pml4: [AtomicU64; 512];
    static pdpt: [AtomicU64; 512];
}

/// Maps memory from 4 GiB on, as far as the memory map says there is some, by 2 MiB pages.
pub fn map_high_memory(arena: &Arena, zero_page: ZeroPage) {
    let top = zero_page.memory().map(|range| range.end).max().unwrap_or(0).min(MAPPED_LIMIT);
    // SAFETY: a table of the image, changed by this CPU alone before others start.
    let table = unsafe { &pdpt };
    for gib in 4..top.div_ceil(GIB) {
        let directory = &arena.aligned_block(4096)[0];
        for (entry, index) in directory.words.iter().zip(0u64..) {
            entry.store((gib * GIB + index * (2 << 20)) | LARGE, Ordering::Relaxed);
        }
        table[gib as usize].store(directory.address() | TABLE, Ordering::Relaxed);
    }
}

/// A window of 512 pages at a virtual address of its own, all of whose translations come from one table page.
#[derive(Clone, Copy)]
pub struct Window {
    /// Virtual address of its first page.
    pub start: u64,
    /// Its table page.
    pub table: &'static Page,
}

impl Window {
    /// Builds the window at the top-level entry `slot` (1..=255), with an empty table page.
    pub fn new(arena: &Arena, slot: usize) -> Self {
        let (level3, level2, table) = (arena.page(), arena.page(), arena.page());
        level3.word(0).store(level2.address() | TABLE, Ordering::Relaxed);
        level2.word(0).store(table.address() | TABLE, Ordering::Relaxed);
        // SAFETY: the image's top-level table; this entry was empty.
        let top = unsafe { &pml4 };
        top[slot].store(level3.address() | TABLE, Ordering::Relaxed);
        Self { start: (slot as u64) << 39, table }
    }

    /// Lets entry `index` lead to `page`.
    pub fn map(&self, index: usize, page: &'static Page) {
        self.table.word(index).store(page.address() | LEAF, Ordering::Release);
    }

    /// Reads word 0 of the window's page `index`, by whatever translation this CPU has.
    pub fn read(&self, index: usize) -> u64 {
        let address = self.start + index as u64 * 4096;
        // SAFETY: the caller mapped the entry to a page of the arena, and entries are only ever changed from
        // one page to another.
        unsafe { core::ptr::read_volatile(address as *const u64) }
    }
}
