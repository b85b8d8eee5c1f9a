//! Borrowed pages: how devices and the VMM touch guest memory.
//!
//! Whoever reads or writes guest memory outside KVM_RUN borrows it first. The pages then stay on this node, with the
//! rights asked for, until the guard is dropped; the access itself goes through the alias mapping.
//!
//! Two nodes that each hold what the other waits for would wait for ever, so pages are collected in ascending order,
//! one after the other, while requests for all of them are already on their way: those of each shard by its pager, and
//! the shards' parts by the borrower's own thread. For the same reason a thread must not borrow while it holds a borrow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use super::Pager;
use crate::ids::{Gfn, Shard, PAGE_BYTES, PAGE_SHIFT};
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

/// A range of guest-physical memory, and what it is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Where it starts.
    pub gpa: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What for.
    pub access: Access,
}

/// Pages to borrow together: ascending, each once, with the strongest access that is wanted of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageSet(Arc<[(Gfn, Access)]>);

impl PageSet {
    /// The pages that these ranges touch. They may overlap and come in any order.
    ///
    /// # Errors
    /// [`BorrowError::NotRam`] when a range is empty or wraps round, [`BorrowError::TooLong`] when there are more than
    /// [`BORROW_PAGES_MAX`] pages.
    pub fn covering(ranges: impl IntoIterator<Item = Wanted>) -> Result<Self, BorrowError> {
        let mut pages = BTreeMap::new();
        for Wanted { gpa, len, access } in ranges {
            let not_ram = BorrowError::NotRam { gpa, len };
            let last = len.checked_sub(1).and_then(|len| gpa.checked_add(len)).ok_or(not_ram)?;
            let (first, last) = (Gfn::containing(gpa).0, last >> PAGE_SHIFT);
            if last - first >= BORROW_PAGES_MAX {
                return Err(BorrowError::TooLong { pages: last - first + 1 });
            }
            for gfn in (first..=last).map(Gfn) {
                let wanted = pages.entry(gfn).or_insert(access);
                *wanted = access.max(*wanted);
            }
            if pages.len() as u64 > BORROW_PAGES_MAX {
                return Err(BorrowError::TooLong { pages: pages.len() as u64 });
            }
        }
        Ok(PageSet(pages.into_iter().collect()))
    }

    /// The pages, ascending.
    pub fn pages(&self) -> &[(Gfn, Access)] {
        &self.0
    }

    /// Whether all bytes of a range lie in pages of the set, each with at least this access.
    pub fn allows(&self, gpa: u64, len: u64, access: Access) -> bool {
        let Some(last) = len.checked_sub(1).and_then(|len| gpa.checked_add(len)) else { return len == 0 };
        let (first, last) = (Gfn::containing(gpa), Gfn::containing(last));
        let Ok(start) = self.0.binary_search_by_key(&first, |&(gfn, _)| gfn) else { return false };
        let pages = usize::try_from(last.0 - first.0).unwrap_or(usize::MAX).saturating_add(1);
        let run = self.0.get(start..start.saturating_add(pages));
        // The pages ascend and each is there once: the run is without a gap if its last one is in place.
        run.is_some_and(|run| {
            run.last().is_some_and(|&(gfn, _)| gfn == last) && run.iter().all(|&(_, held)| held >= access)
        })
    }

    /// The runs of pages that are of one shard, ascending; a shard may come more than once.
    pub(super) fn parts(&self, shard_of: impl Fn(Gfn) -> Shard) -> Vec<(Shard, PageSet)> {
        let runs = self.0.chunk_by(|&(one, _), &(next, _)| shard_of(one) == shard_of(next));
        let whole = |run: &[(Gfn, Access)]| {
            if run.len() == self.0.len() {
                self.clone()
            } else {
                PageSet(run.into())
            }
        };
        runs.map(|run| (shard_of(run[0].0), whole(run))).collect()
    }

    /// Checks that all of it is RAM.
    fn check(&self, layout: &Layout) -> Result<(), BorrowError> {
        match self.0.iter().find(|(gfn, _)| layout.index(*gfn).is_none()) {
            Some((gfn, _)) => Err(BorrowError::NotRam { gpa: gfn.gpa(), len: PAGE_BYTES as u64 }),
            None => Ok(()),
        }
    }
}

/// Pages that stay here while this exists. Dropping it gives them back to the protocol. The access itself goes
/// through [`NodeMemory::alias_view`](crate::memory::NodeMemory::alias_view).
#[must_use = "the pages go back when this is dropped"]
pub struct BorrowedPages<'a> {
    pager: &'a Pager,
    pages: PageSet,
    /// What is held, by shard.
    held: Vec<(Shard, PageSet)>,
    fetched: u64,
}

impl<'a> BorrowedPages<'a> {
    pub(super) fn new(pager: &'a Pager, pages: PageSet) -> Result<Self, BorrowError> {
        pages.check(pager.memory.layout())?;
        let parts = pager.parts(&pages);
        let missing = Arc::new(AtomicU64::new(0));
        for (shard, part) in parts.iter().skip(1) {
            pager.fetch(*shard, part, &missing)?;
        }
        // What is held goes back if the rest does not come.
        let mut borrowed = BorrowedPages { pager, pages, held: Vec::with_capacity(parts.len()), fetched: 0 };
        for (at, (shard, part)) in parts.into_iter().enumerate() {
            let missing = pager.collect(shard, &part)?;
            // The later parts were counted when they were asked for.
            borrowed.fetched += if at == 0 { missing } else { 0 };
            borrowed.held.push((shard, part));
        }
        borrowed.fetched += missing.load(Ordering::SeqCst);
        Ok(borrowed)
    }

    /// How many of them were not here, or not with the rights asked for, when they were asked for.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    /// Which pages.
    pub fn pages(&self) -> &PageSet {
        &self.pages
    }
}

impl Drop for BorrowedPages<'_> {
    fn drop(&mut self) {
        for (shard, part) in self.held.drain(..) {
            self.pager.give_back(shard, part);
        }
    }
}

/// Guest memory that stays here while this exists. Dropping it gives the pages back to the protocol.
#[must_use = "the pages go back when this is dropped"]
pub struct Borrowed<'a> {
    pager: &'a Pager,
    gpa: u64,
    len: u64,
    access: Access,
    /// (Held for its drop.)
    _pages: BorrowedPages<'a>,
}

impl<'a> Borrowed<'a> {
    pub(super) fn new(pager: &'a Pager, gpa: u64, len: u64, access: Access) -> Result<Self, BorrowError> {
        let pages = PageSet::covering([Wanted { gpa, len, access }])?;
        pages.check(pager.memory.layout()).map_err(|_| BorrowError::NotRam { gpa, len })?;
        let pages = BorrowedPages::new(pager, pages)?;
        Ok(Borrowed { pager, gpa, len, access, _pages: pages })
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

/// Somebody will borrow pages soon.
#[derive(Debug)]
pub(super) struct FetchRequest {
    pub(super) pages: PageSet,
    /// Where those are counted that are not here.
    pub(super) missing: Arc<AtomicU64>,
}

/// A borrower that waits for its pages.
#[derive(Debug)]
pub(super) struct BorrowRequest {
    pub(super) pages: PageSet,
    /// Told when all pages are here, and how many were not when they were asked for; dropped unsaid if that will never be.
    pub(super) ready: SyncSender<u64>,
}

/// The borrowers that wait, each for one page at a time.
#[derive(Debug, Default)]
pub(super) struct Tickets(Vec<Ticket>);

#[derive(Debug)]
struct Ticket {
    request: BorrowRequest,
    /// Pages that are here already.
    collected: usize,
    /// Pages that were not here when they were asked for.
    missing: u64,
}

impl Ticket {
    fn awaits(&self) -> Option<(Gfn, Access)> {
        self.request.pages.pages().get(self.collected).copied()
    }
}

/// What to do when a page was lent.
#[derive(Debug)]
pub(super) enum Lent {
    /// Borrow this page next, for the same borrower.
    Next(Gfn, Access),
    /// The borrower has all of its pages and was told.
    Complete,
    /// The borrower does not wait any more: give these back.
    Abandoned(PageSet),
    /// Nobody waits for this page.
    Unasked,
}

impl Tickets {
    /// Adds a borrower, of whose pages so many are not here; its first page is to be borrowed now.
    pub(super) fn add(&mut self, request: BorrowRequest, missing: u64) {
        self.0.push(Ticket { request, collected: 0, missing });
    }

    /// One page was lent.
    pub(super) fn lent(&mut self, gfn: Gfn, access: Access) -> Lent {
        let waits = |ticket: &Ticket| ticket.awaits() == Some((gfn, access));
        let Some(i) = self.0.iter().position(waits) else { return Lent::Unasked };
        self.0[i].collected += 1;
        if let Some((gfn, access)) = self.0[i].awaits() {
            return Lent::Next(gfn, access);
        }
        let Ticket { request, missing, .. } = self.0.swap_remove(i);
        match request.ready.send(missing) {
            Ok(()) => Lent::Complete,
            Err(_) => Lent::Abandoned(request.pages),
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

    fn layout() -> Layout {
        let region = |start, pages| Region { start: Gfn(start), pages, home: NodeId(0) };
        Layout::new(vec![region(0, 2048), region(2048, 512), region(4096, 512)]).expect("valid")
    }

    fn wanted(gpa: u64, len: u64, access: Access) -> Wanted {
        Wanted { gpa, len, access }
    }

    #[test]
    fn a_range_is_the_pages_that_it_touches() {
        let run = |gpa, len| {
            let pages = PageSet::covering([wanted(gpa, len, Access::Read)])?;
            pages.check(&layout())?;
            Ok((pages.pages()[0].0 .0, pages.pages().len()))
        };
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
    fn a_set_has_each_page_once_in_order_with_the_strongest_access() {
        let ranges = [(0x5000, 0x1001, Access::Read), (0x1ffe, 4, Access::Write), (0x2000, 1, Access::Read)];
        let set = PageSet::covering(ranges.map(|(gpa, len, access)| wanted(gpa, len, access))).expect("RAM");
        let pages: Vec<(u64, Access)> = set.pages().iter().map(|&(gfn, access)| (gfn.0, access)).collect();
        assert_eq!(pages, [(1, Access::Write), (2, Access::Write), (5, Access::Read), (6, Access::Read)]);
        for (gpa, len, access, allowed) in [
            (0x1000, 0x2000, Access::Write, true),
            (0x1000, 0x2001, Access::Read, false),
            (0x2fff, 0x2002, Access::Read, false),
            (0x5000, 0x2000, Access::Read, true),
            (0x5000, 1, Access::Write, false),
            (0x7000, 1, Access::Read, false),
            (0, 1, Access::Read, false),
            (0x9000, 0, Access::Write, true),
            (u64::MAX, 2, Access::Read, false),
            (0x1000, u64::MAX, Access::Read, false),
        ] {
            assert_eq!(set.allows(gpa, len, access), allowed, "{gpa:#x} {len:#x} {access:?}");
        }
        let many = (0..1025u64).map(|page| wanted(page << 13, 1, Access::Read));
        assert_eq!(PageSet::covering(many), Err(BorrowError::TooLong { pages: 1025 }));
    }

    #[test]
    fn a_set_falls_into_runs_of_one_shard_each() {
        let set = PageSet::covering([wanted(0x3000, 0x5000, Access::Read)]).expect("few");
        let parts = set.parts(|gfn| Shard((gfn.0 / 2 % 2) as u8));
        let pages = |set: &PageSet| set.pages().iter().map(|(gfn, _)| gfn.0).collect::<Vec<_>>();
        let parts: Vec<_> = parts.iter().map(|(shard, part)| (shard.0, pages(part))).collect();
        assert_eq!(parts, [(1, vec![3]), (0, vec![4, 5]), (1, vec![6, 7])]);
        assert_eq!(set.parts(|_| Shard(4)), [(Shard(4), set.clone())]);
        let nothing = PageSet::covering([]).expect("nothing");
        assert_eq!(nothing.parts(|_| Shard(0)), []);
    }

    #[test]
    fn borrowers_collect_in_order_and_each_page_lent_serves_one() {
        let (mut tickets, request) = (Tickets::default(), |gpa, len, access| {
            let (ready, told) = sync_channel(1);
            let pages = PageSet::covering([wanted(gpa, len, access)]).expect("few");
            (BorrowRequest { pages, ready }, told)
        });
        let (first, first_told) = request(0x1000, 0x2000, Access::Write);
        let (second, second_told) = request(0x1000, 1, Access::Write);
        tickets.add(first, 2);
        tickets.add(second, 1);
        assert!(matches!(tickets.lent(Gfn(1), Access::Read), Lent::Unasked));
        assert!(matches!(tickets.lent(Gfn(1), Access::Write), Lent::Next(Gfn(2), Access::Write)));
        assert!(matches!(tickets.lent(Gfn(1), Access::Write), Lent::Complete));
        assert!(first_told.try_recv().is_err());
        assert_eq!(second_told.try_recv(), Ok(1), "how many pages were missing");
        drop(first_told);
        let Lent::Abandoned(pages) = tickets.lent(Gfn(2), Access::Write) else { panic!("not abandoned") };
        assert_eq!(pages.pages(), [(Gfn(1), Access::Write), (Gfn(2), Access::Write)]);
        assert!(matches!(tickets.lent(Gfn(2), Access::Write), Lent::Unasked));
    }
}
