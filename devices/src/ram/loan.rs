//! Borrowed pages as a memory of their own.

use tessera_dsm::pager::PageSet;
use tessera_dsm::protocol::Access;
use vm_memory::bitmap::BS;
use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap, Permissions};

use super::Held;

/// Pages of guest memory that stay here while this exists.
#[must_use = "the pages go back when this is dropped"]
pub struct Loan<'a> {
    memory: &'a GuestMemoryMmap,
    pages: PageSet,
    /// (For its drop.)
    _held: Box<dyn Held + 'a>,
}

impl<'a> Loan<'a> {
    pub(super) fn new(memory: &'a GuestMemoryMmap, pages: PageSet, held: Box<dyn Held + 'a>) -> Self {
        Loan { memory, pages, _held: held }
    }

    fn allows(&self, start: GuestAddress, bytes: usize, access: Permissions) -> bool {
        let access = if access.has_write() { Access::Write } else { Access::Read };
        self.pages.allows(start.0, bytes as u64, access)
    }
}

impl GuestMemory for Loan<'_> {
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    fn check_range(&self, start: GuestAddress, bytes: usize, access: Permissions) -> bool {
        self.allows(start, bytes, access) && GuestMemoryBackend::check_range(self.memory, start, bytes)
    }

    fn get_slices<'s>(
        &'s self,
        start: GuestAddress,
        bytes: usize,
        access: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'s, BS<'s, ()>>> {
        match self.allows(start, bytes, access) {
            true => Ok(GuestMemoryBackend::get_slices(self.memory, start, bytes)),
            false => Err(Error::InvalidGuestAddress(start)),
        }
    }
}
