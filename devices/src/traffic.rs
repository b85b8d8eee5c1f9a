//! What of a device's work crossed hosts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tessera_dsm::pager::{BorrowError, PageSet};
use vm_memory::GuestMemoryMmap;

use crate::ram::{GuestRam, Held};

/// Figures of one device since the guest's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Pages of guest memory that it borrowed, each time that it did.
    pub pages_borrowed: u64,
    /// Those of them that were not on this node, or not with the rights that it needs.
    pub pages_fetched: u64,
    /// Accesses to its registers by vCPUs of other nodes.
    pub remote_accesses: u64,
}

/// Counts them.
#[derive(Debug, Default)]
pub struct TrafficCounters {
    pages_borrowed: AtomicU64,
    pages_fetched: AtomicU64,
    remote_accesses: AtomicU64,
}

impl TrafficCounters {
    /// What was counted so far.
    pub fn read(&self) -> Traffic {
        Traffic {
            pages_borrowed: self.pages_borrowed.load(Ordering::Relaxed),
            pages_fetched: self.pages_fetched.load(Ordering::Relaxed),
            remote_accesses: self.remote_accesses.load(Ordering::Relaxed),
        }
    }

    /// A vCPU of another node accessed a register.
    pub fn remote_access(&self) {
        self.remote_accesses.fetch_add(1, Ordering::Relaxed);
    }
}

/// Guest memory as one device borrows it: counted.
pub struct CountedRam {
    ram: Arc<dyn GuestRam>,
    counters: Arc<TrafficCounters>,
}

impl CountedRam {
    /// The same memory; what is borrowed of it is counted.
    pub fn new(ram: Arc<dyn GuestRam>, counters: Arc<TrafficCounters>) -> Self {
        CountedRam { ram, counters }
    }
}

impl GuestRam for CountedRam {
    fn memory(&self) -> &GuestMemoryMmap {
        self.ram.memory()
    }

    fn hold<'a>(&'a self, pages: &PageSet) -> Result<Box<dyn Held + 'a>, BorrowError> {
        let held = self.ram.hold(pages)?;
        self.counters.pages_borrowed.fetch_add(pages.pages().len() as u64, Ordering::Relaxed);
        self.counters.pages_fetched.fetch_add(held.fetched(), Ordering::Relaxed);
        Ok(held)
    }
}
