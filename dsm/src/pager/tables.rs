//! Guest page tables that the host has read.
//!
//! A KVM that shadows page tables (`kvm_amd npt=0`, `kvm_intel ept=0`, software KVMs) keeps what it has read from a guest
//! page table and watches the page for writes of *this host's* vCPUs. A write on another host reaches it as a
//! page that goes and comes back; the mmu notifier then drops translations *to* the page, not those made *from* it,
//! and no INVLPG makes KVM read the table again. So whenever a page leaves this node, what KVM has made from it must be
//! dropped: after the page is out of the guest's reach (or KVM could read it once more), and before anybody else may write
//! it. How is the VMM's business: see [`TableCache`].

use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::{Gfn, PAGE_BYTES};

/// What a host has made of guest page tables. With hardware that walks the guest's own tables there is no such thing.
pub trait TableCache: Send {
    /// Drops what was made from the page. Called on the pager's thread: must not wait for guest memory.
    ///
    /// # Errors
    /// In one line, when it cannot be done: the node's part in the guest ends.
    fn forget(&mut self, gfn: Gfn) -> Result<(), String>;
}

/// One cache for several pagers. The lock is taken only to forget a table, on hosts that read any.
struct Shared(Arc<Mutex<Box<dyn TableCache>>>);

impl TableCache for Shared {
    fn forget(&mut self, gfn: Gfn) -> Result<(), String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(gfn)
    }
}

/// Shares a cache among the pagers of a node: each gets one that is made so.
pub(super) fn shared(tables: Box<dyn TableCache>) -> impl Fn() -> Box<dyn TableCache> {
    let tables = Arc::new(Mutex::new(tables));
    move || Box::new(Shared(tables.clone()))
}

/// Present and accessed (SDM 3A 4.5, APM 2 5.4): KVM sets the second whenever it makes a translation from an entry.
const PRESENT_ACCESSED: u64 = 0x21;
/// Bits 12 to 51: where an entry points to.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Whether a translation can have been made from a page of these bytes: whether any of its words can be an entry in use,
/// that is present, accessed, and pointing below `ram_end_gpa`. `false` is certain; `true` is a guess (small odd
/// numbers look the same), and then forgetting for nothing costs only time.
pub(crate) fn may_be_table(page: &[u8; PAGE_BYTES], ram_end_gpa: u64) -> bool {
    let (words, _) = page.as_chunks::<8>();
    words.iter().any(|bytes| {
        let word = u64::from_le_bytes(*bytes);
        word & PRESENT_ACCESSED == PRESENT_ACCESSED && word & ADDRESS < ram_end_gpa
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_with(word: u64) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[808..816].copy_from_slice(&word.to_le_bytes());
        page
    }

    #[test]
    fn every_entry_in_use_is_seen() {
        let end = 1 << 30;
        assert!(may_be_table(&page_with(0x1234_5067), end), "a table or page of the kernel");
        assert!(may_be_table(&page_with(0x8000_0000_1234_5025), end), "a user's page that is not executable");
        assert!(may_be_table(&page_with(0x3fe0_00e7), end), "a large page at the very end");
        assert!(may_be_table(&page_with(0x07f0_0000_0000_0063), end), "software bits and a protection key");
    }

    #[test]
    fn what_cannot_be_an_entry_in_use_is_passed_over() {
        let end = 1 << 30;
        assert!(!may_be_table(&[0; PAGE_BYTES], end));
        assert!(!may_be_table(&page_with(0xffff_8880_1234_5067), end), "a kernel pointer");
        assert!(!may_be_table(&page_with(0x1234_5041), end), "never used: not accessed");
        assert!(!may_be_table(&page_with(0x1234_5020), end), "not present");
        assert!(!may_be_table(&page_with(0x4000_0063), end), "points behind RAM");
    }
}
