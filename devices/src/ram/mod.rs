//! Guest memory, as devices may touch it: only while they hold the pages.
//!
//! A page of the guest may be on any host. A device that wants to read or write some borrows them all at once
//! ([`GuestRam`]), works on the [`Loan`], and gives them back by dropping it. While a device holds pages, no other host
//! gets them: so nothing that waits (a disk, a socket, a lock that others hold for long) may be done under a loan, and
//! bytes are copied to and from memory of our own. A thread that holds a loan must not borrow more
//! ([`Pager::borrow_pages`](tessera_dsm::pager::Pager::borrow_pages)).
//!
//! A loan is a [`vm_memory::GuestMemory`] that knows the borrowed pages only: whatever else an address names, it is
//! refused.

#[cfg(test)]
pub(crate) mod fake;
mod loan;
mod pager;
#[cfg(test)]
mod tests;

use tessera_dsm::pager::{BorrowError, PageSet};
use vm_memory::GuestMemoryMmap;

pub use loan::Loan;
pub use pager::NodeRam;

/// Something that keeps pages here until it is dropped.
pub trait Held {
    /// How many of them had to come from elsewhere.
    fn fetched(&self) -> u64 {
        0
    }
}

/// Lends guest memory. Many threads may borrow at a time.
pub trait GuestRam: Send + Sync {
    /// All of guest RAM, by guest-physical address. Only pages that are held may be touched through it.
    fn memory(&self) -> &GuestMemoryMmap;

    /// Brings pages here and keeps them; waits until all have come. Use [`borrow`](#method.borrow) to get at their bytes.
    ///
    /// # Errors
    /// When one of them is not RAM, or guest memory is not served any more.
    fn hold<'a>(&'a self, pages: &PageSet) -> Result<Box<dyn Held + 'a>, BorrowError>;
}

impl dyn GuestRam + '_ {
    /// Borrows pages.
    ///
    /// # Errors
    /// As [`GuestRam::hold`].
    pub fn borrow(&self, pages: PageSet) -> Result<Loan<'_>, BorrowError> {
        let held = self.hold(&pages)?;
        Ok(Loan::new(self.memory(), pages, held))
    }
}
