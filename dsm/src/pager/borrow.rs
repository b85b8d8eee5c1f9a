//! Borrowed pages: how devices and the VMM touch guest memory.
//!
//! Whoever reads or writes guest memory outside KVM_RUN borrows it first. The pages then stay on this node, with the
//! rights asked for, until the guard is dropped; the access itself goes through the alias mapping.
//!
//! Two nodes that each hold what the other waits for would wait for ever, so pages are collected in ascending order,
//! one after the other, while requests for all of them are already on their way. For the same reason a thread must
//! not borrow while it holds a borrow.

use std::sync::mpsc::SyncSender;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use super::{Command, Pager};
use crate::ids::{Gfn, PAGE_BYTES, PAGE_SHIFT};
use crate::layout::Layout;
use crate::protocol::Access;

/// Most pages in one borrow: 4 MiB. A device with more to do does it in pieces, so that no other node waits long.
pub const BORROW_PAGES_MAX: u64 = 1024;

/// Why memory could not be borrowed or accessed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BorrowError {
    /// The range is empty, or not all of it is RAM.
    #[error("{len} bytes at guest-physical address {gpa:#x} are not all RAM of this guest")]
    NotRam {
        /// Where the range starts.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// The range spans too many pages.
    #[error("{pages} pages are more than the {BORROW_PAGES_MAX} that may be borrowed at once")]
    TooLong {
        /// Pages that the range touches.
        pages: u64,
    },
    /// The pager has stopped or failed.
    #[error("the pager has stopped: guest memory cannot be borrowed any more")]
    Stopped,
    /// The access lies outside what was borrowed.
    #[error("{len} bytes at offset {offset} are outside the {borrowed} bytes borrowed")]
    Outside {
        /// Offset of the access.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// Bytes borrowed.
        borrowed: u64,
    },
    /// The memory was borrowed for reading.
    #[error("the memory was borrowed for reading only")]
    ReadOnly,
}

/// A run of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageRun {
    pub(super) first: Gfn,
    pub(super) pages: u64,
}

impl PageRun {
    /// The pages that a range of bytes touches, all of them RAM.
    fn of(layout: &Layout, gpa: u64, len: u64) -> Result<Self, BorrowError> {
        let not_ram = BorrowError::NotRam { gpa, len };
        let last = len.checked_sub(1).and_then(|len| gpa.checked_add(len)).ok_or(not_ram.clone())?;
        let first = Gfn::containing(gpa);
        let pages = (last >> PAGE_SHIFT) - first.0 + 1;
        if pages > BORROW_PAGES_MAX {
            return Err(BorrowError::TooLong { pages });
        }
        let run = PageRun { first, pages };
        match run.gfns().all(|gfn| layout.index(gfn).is_some()) {
            true => Ok(run),
            false => Err(not_ram),
        }
    }

    pub(super) fn gfns(self) -> impl Iterator<Item = Gfn> {
        (self.first.0..self.first.0 + self.pages).map(Gfn)
    }
}

/// Guest memory that stays here while this exists. Dropping it gives the pages back to the protocol.
#[must_use = "the pages go back when this is dropped"]
pub struct Borrowed<'a> {
    pager: &'a Pager,
    gpa: u64,
    len: u64,
    access: Access,
    run: PageRun,
}

impl<'a> Borrowed<'a> {
    pub(super) fn new(pager: &'a Pager, gpa: u64, len: u64, access: Access) -> Result<Self, BorrowError> {
        let run = PageRun::of(pager.memory.layout(), gpa, len)?;
        pager.collect(run, access)?;
        Ok(Borrowed { pager, gpa, len, access, run })
    }

    /// Bytes borrowed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is borrowed; never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies guest memory from `offset` of the borrowed range into `into`. The guest may write at the same time:
    /// what is read is then some mixture of old and new bytes.
    ///
    /// # Errors
    /// [`BorrowError::Outside`].
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), BorrowError> {
        let at = self.address(offset, into.len() as u64)?;
        let outside = self.outside(offset, into.len() as u64);
        self.pager.alias.read_slice(into, at).map_err(|_| outside)
    }

    /// Copies `bytes` into guest memory at `offset` of the borrowed range.
    ///
    /// # Errors
    /// [`BorrowError::Outside`], [`BorrowError::ReadOnly`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), BorrowError> {
        if self.access == Access::Read {
            return Err(BorrowError::ReadOnly);
        }
        let at = self.address(offset, bytes.len() as u64)?;
        let outside = self.outside(offset, bytes.len() as u64);
        self.pager.alias.write_slice(bytes, at).map_err(|_| outside)
    }

    fn address(&self, offset: u64, len: u64) -> Result<GuestAddress, BorrowError> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        end.map(|_| GuestAddress(self.gpa + offset)).ok_or(self.outside(offset, len))
    }

    fn outside(&self, offset: u64, len: u64) -> BorrowError {
        BorrowError::Outside { offset, len, borrowed: self.len }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // A pager that has stopped has nothing to give back to.
        let _ = self.pager.send(Command::Return(self.run));
    }
}

/// A borrower that waits for its pages.
#[derive(Debug)]
pub(super) struct BorrowRequest {
    pub(super) run: PageRun,
    pub(super) access: Access,
    /// Told when all pages are here; dropped unsaid if that will never be.
    pub(super) ready: SyncSender<()>,
}

/// The borrowers that wait, each for one page at a time.
#[derive(Debug, Default)]
pub(super) struct Tickets(Vec<Ticket>);

#[derive(Debug)]
struct Ticket {
    request: BorrowRequest,
    /// Pages that are here already.
    collected: u64,
}

impl Ticket {
    fn awaits(&self) -> Gfn {
        Gfn(self.request.run.first.0 + self.collected)
    }
}

/// What to do when a page was lent.
#[derive(Debug)]
pub(super) enum Lent {
    /// Borrow this page next, for the same borrower.
    Next(Gfn),
    /// The borrower has all of its pages and was told.
    Complete,
    /// The borrower does not wait any more: give these back.
    Abandoned(PageRun),
    /// Nobody waits for this page.
    Unasked,
}

impl Tickets {
    /// Adds a borrower; its first page is to be borrowed now.
    pub(super) fn add(&mut self, request: BorrowRequest) {
        self.0.push(Ticket { request, collected: 0 });
    }

    /// One page was lent.
    pub(super) fn lent(&mut self, gfn: Gfn, access: Access) -> Lent {
        let waits = |ticket: &Ticket| ticket.awaits() == gfn && ticket.request.access == access;
        let Some(i) = self.0.iter().position(waits) else { return Lent::Unasked };
        self.0[i].collected += 1;
        if self.0[i].collected < self.0[i].request.run.pages {
            return Lent::Next(self.0[i].awaits());
        }
        let request = self.0.swap_remove(i).request;
        match request.ready.send(()) {
            Ok(()) => Lent::Complete,
            Err(_) => Lent::Abandoned(request.run),
        }
    }

    /// Lets all borrowers go without their pages.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Checks that a page's worth of bytes is what the rest of the module takes it for.
const _: () = assert!(1 << PAGE_SHIFT == PAGE_BYTES);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::ids::NodeId;
    use crate::layout::Region;

    #[test]
    fn a_range_is_the_pages_that_it_touches() {
        let region = |start, pages| Region { start: Gfn(start), pages, home: NodeId(0) };
        let layout = Layout::new(vec![region(0, 2048), region(2048, 512), region(4096, 512)]).expect("valid");
        let run = |gpa, len| PageRun::of(&layout, gpa, len).map(|run| (run.first.0, run.pages));
        assert_eq!(run(0, 1), Ok((0, 1)));
        assert_eq!(run(4095, 2), Ok((0, 2)));
        assert_eq!(run(2047 << 12, 8192), Ok((2047, 2)), "regions that touch are one range");
        assert!(matches!(run(2559 << 12, 8192), Err(BorrowError::NotRam { .. })));
        assert!(matches!(run(0, 0), Err(BorrowError::NotRam { .. })));
        assert!(matches!(run(u64::MAX, 2), Err(BorrowError::NotRam { .. })));
        assert!(matches!(run(0, u64::MAX), Err(BorrowError::TooLong { .. })));
        assert!(matches!(run(1, 4 << 20), Err(BorrowError::TooLong { pages: 1025 })));
    }

    #[test]
    fn borrowers_collect_in_order_and_each_page_lent_serves_one() {
        let (mut tickets, request) = (Tickets::default(), |first, pages, access| {
            let (ready, told) = sync_channel(1);
            (BorrowRequest { run: PageRun { first: Gfn(first), pages }, access, ready }, told)
        });
        let (first, first_told) = request(1, 2, Access::Write);
        let (second, second_told) = request(1, 1, Access::Write);
        tickets.add(first);
        tickets.add(second);
        assert!(matches!(tickets.lent(Gfn(1), Access::Read), Lent::Unasked));
        assert!(matches!(tickets.lent(Gfn(1), Access::Write), Lent::Next(Gfn(2))));
        assert!(matches!(tickets.lent(Gfn(1), Access::Write), Lent::Complete));
        assert!(first_told.try_recv().is_err());
        assert!(second_told.try_recv().is_ok());
        drop(first_told);
        assert!(matches!(
            tickets.lent(Gfn(2), Access::Write),
            Lent::Abandoned(PageRun { first: Gfn(1), pages: 2 })
        ));
        assert!(matches!(tickets.lent(Gfn(2), Access::Write), Lent::Unasked));
    }
}
