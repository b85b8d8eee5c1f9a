//! The node's pager lends guest memory.

use std::sync::{Arc, OnceLock};

use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{BorrowError, BorrowedPages, PageSet, Pager};
use vm_memory::GuestMemoryMmap;

use super::{GuestRam, Held};

impl Held for BorrowedPages<'_> {
    fn fetched(&self) -> u64 {
        BorrowedPages::fetched(self)
    }
}

/// Guest memory of a node, whose pager comes later than its devices: KVM must know of memory before it is tracked, and
/// the devices are a part of the machine that KVM runs.
pub struct NodeRam {
    memory: GuestMemoryMmap,
    pager: OnceLock<Arc<Pager>>,
}

impl NodeRam {
    /// Memory that cannot be borrowed yet.
    pub fn new(memory: &NodeMemory) -> Self {
        NodeRam { memory: memory.alias_view(), pager: OnceLock::new() }
    }

    /// From now on `pager`, which serves the same memory, lends it. Only the first one counts.
    pub fn serve(&self, pager: Arc<Pager>) {
        let _only_once = self.pager.set(pager);
    }
}

impl GuestRam for NodeRam {
    fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    fn hold<'a>(&'a self, pages: &PageSet) -> Result<Box<dyn Held + 'a>, BorrowError> {
        let pager = self.pager.get().ok_or(BorrowError::Stopped)?;
        Ok(Box::new(pager.borrow_pages(pages.clone())?))
    }
}
