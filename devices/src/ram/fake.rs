//! Guest memory for tests: one host, which keeps the borrowers to the rules.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use tessera_dsm::pager::{BorrowError, PageSet, BORROW_PAGES_MAX};
use tessera_dsm::PAGE_BYTES;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::{GuestRam, Held};

thread_local! {
    /// Whether the thread holds a loan.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// RAM from 0 to [`FakeRam::BYTES`] and from [`FakeRam::HIGH`] on.
pub(crate) struct FakeRam {
    memory: GuestMemoryMmap,
    loans: AtomicU64,
    stopped: AtomicBool,
}

impl FakeRam {
    /// Bytes of RAM at 0.
    pub(crate) const BYTES: u64 = 8 << 20;
    /// Where the rest of the RAM begins.
    pub(crate) const HIGH: u64 = 4 << 30;
    /// Bytes of RAM there.
    pub(crate) const HIGH_BYTES: u64 = 1 << 20;

    pub(crate) fn new() -> Arc<Self> {
        let ranges =
            [(GuestAddress(0), Self::BYTES as usize), (GuestAddress(Self::HIGH), Self::HIGH_BYTES as usize)];
        let memory = GuestMemoryMmap::from_ranges(&ranges).expect("memory");
        Arc::new(FakeRam { memory, loans: AtomicU64::new(0), stopped: AtomicBool::new(false) })
    }

    /// How often memory was lent.
    pub(crate) fn loans(&self) -> u64 {
        self.loans.load(Ordering::SeqCst)
    }

    /// From now on nothing is lent.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }
}

struct FakeHeld;

impl Held for FakeHeld {}

impl Drop for FakeHeld {
    fn drop(&mut self) {
        HOLDS.set(false);
    }
}

impl GuestRam for FakeRam {
    fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    fn hold<'a>(&'a self, pages: &PageSet) -> Result<Box<dyn Held + 'a>, BorrowError> {
        assert!(!HOLDS.get(), "a thread that holds a loan borrows more");
        assert!(pages.pages().len() as u64 <= BORROW_PAGES_MAX);
        if self.stopped.load(Ordering::SeqCst) {
            return Err(BorrowError::Stopped);
        }
        for &(gfn, _) in pages.pages() {
            let start = GuestAddress(gfn.gpa());
            if !GuestMemory::check_range(&self.memory, start, PAGE_BYTES, Permissions::Read) {
                return Err(BorrowError::NotRam { gpa: start.0, len: PAGE_BYTES as u64 });
            }
        }
        HOLDS.set(true);
        self.loans.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeHeld))
    }
}
