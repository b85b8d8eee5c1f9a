//! What the pager does to the guest's pages: each [`Action`](crate::protocol::Action) about memory as ioctls.
//!
//! **Untouched pages.** A page may be this node's to write and still be absent: in an extent that was owned as a
//! whole and is tracked again. Such a page reads as zero, but while it is tracked somebody must put the zeros there:
//! this module remembers which pages may be in that state, and does it when the guest waits for the page, or right
//! after write-protecting it (else a load would find nothing later, when this node may no longer write the page and
//! nobody would bring it). The record may say "untouched" of a page that is there by now; filling it then finds it
//! (`EEXIST`) and leaves it.
//!
//! **Mappings.** The guest mapping falls into as many kernel mappings as there are runs of tracked and untracked
//! extents, and a process may have only so many (`vm.max_map_count`, 65530 by default). When they run out, extents are
//! tracked although they need not be, with all their pages on record as untouched: slower, and as right.

use std::sync::Arc;

use thiserror::Error;

use super::tables::{may_be_table, TableCache};
use crate::ids::{Extent, Gfn, Run, EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES};
use crate::layout::Layout;
use crate::memory::{MemoryError, NodeMemory};
use crate::protocol::Access;
use crate::uffd::{Fault, FaultBatch, Placed, Protection, UffdCounts, UffdError, Userfaultfd, Waiters};

/// A page of zeros.
pub(crate) static ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// The same, as one page of several.
static ZERO_PAGES: &[[u8; PAGE_BYTES]] = std::slice::from_ref(&ZERO_PAGE);

/// The bytes of pages to install.
#[derive(Clone, Copy)]
pub(crate) enum Bytes<'a> {
    /// These, one page behind the other.
    Pages(&'a [[u8; PAGE_BYTES]]),
    /// All zero.
    Zero,
}

/// Why an action could not be carried out. Each of these ends the node's part in the guest.
#[derive(Debug, Error)]
pub enum PagesError {
    /// The kernel refused an operation on the guest mapping.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// The kernel refused an operation on the memfd, or the page is not RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A page was to be installed where one is: somebody touched memory that this node does not hold.
    #[error("{0} was to be installed, but this host has a page there that nobody granted it")]
    Conflict(Gfn),
    /// What the host has made of a guest page table could not be dropped.
    #[error("the translations made from {gfn} could not be dropped: {why}")]
    Tables {
        /// The page.
        gfn: Gfn,
        /// What went wrong.
        why: String,
    },
}

/// The guest's pages of one part of memory on this node, as the pager changes them.
pub(crate) struct GuestPages {
    // Before `memory`: closed while the mapping that it watches still exists.
    uffd: Userfaultfd,
    memory: Arc<NodeMemory>,
    /// Which part. All indices are of this.
    part: Arc<Layout>,
    untouched: BitSet,
    /// Extents that are not tracked, by dense index.
    untracked: BitSet,
    discards: u64,
    /// What the host makes of guest page tables, and how often it was told to forget.
    tables: Option<Box<dyn TableCache>>,
    forgotten: u64,
    ram_end_gpa: u64,
    scratch: Box<[u8; PAGE_BYTES]>,
}

impl GuestPages {
    /// Starts to track a part of guest memory.
    pub(crate) fn new(
        memory: Arc<NodeMemory>,
        part: Arc<Layout>,
        tables: Option<Box<dyn TableCache>>,
    ) -> Result<Self, PagesError> {
        let pages = part.pages() as usize;
        let ram_end_gpa = memory.layout().regions().last().map_or(0, |region| region.end().gpa());
        let mut this = GuestPages {
            uffd: Userfaultfd::open()?,
            memory,
            part,
            untouched: BitSet::new(pages),
            untracked: BitSet::new(pages / EXTENT_PAGES as usize),
            discards: 0,
            tables,
            forgotten: 0,
            ram_end_gpa,
            scratch: Box::new(ZERO_PAGE),
        };
        this.register_all()?;
        Ok(this)
    }

    /// Tracks all of the part.
    fn register_all(&mut self) -> Result<(), PagesError> {
        let mut next = None::<(u64, u64)>;
        for region in self.part.regions() {
            let (hva, length) = (self.hva(region.start)?, region.pages * PAGE_BYTES as u64);
            // Regions lie one behind the other in the mapping: those that touch there are tracked with one call.
            match &mut next {
                Some((start, bytes)) if *start + *bytes == hva => *bytes += length,
                other => {
                    if let Some((hva, length)) = other.replace((hva, length)) {
                        // SAFETY: as below.
                        unsafe { self.uffd.register(hva, length)? };
                    }
                }
            }
        }
        if let Some((hva, length)) = next {
            // SAFETY: the guest mapping is shared memory that `memory` owns and gives out as addresses only. It stays
            // mapped as long as `memory`, which this object keeps for longer than `uffd`.
            unsafe { self.uffd.register(hva, length)? };
        }
        Ok(())
    }

    pub(crate) fn memory(&self) -> &NodeMemory {
        &self.memory
    }

    pub(crate) fn uffd(&self) -> &Userfaultfd {
        &self.uffd
    }

    pub(crate) fn counts(&self) -> UffdCounts {
        self.uffd.counts()
    }

    /// Pages given back to the host so far.
    pub(crate) fn discards(&self) -> u64 {
        self.discards
    }

    /// The faults that wait to be read.
    pub(crate) fn read_faults<'a>(&self, batch: &'a mut FaultBatch) -> Result<&'a [Fault], PagesError> {
        Ok(self.uffd.read_faults(batch)?)
    }

    /// Puts pages where there are none.
    pub(crate) fn install(
        &mut self,
        run: impl Into<Run>,
        bytes: Bytes<'_>,
        rights: Access,
        waiters: Waiters,
    ) -> Result<(), PagesError> {
        let run = run.into();
        let hva = self.hva(run.first())?;
        for gfn in run.iter() {
            self.take_untouched(gfn);
        }
        let placed = match (bytes, rights) {
            (Bytes::Pages(pages), Access::Write) => {
                self.uffd.copy(hva, pages, Protection::Writable, waiters)?
            }
            (Bytes::Pages(pages), Access::Read) => {
                self.uffd.copy(hva, pages, Protection::Protected, waiters)?
            }
            (Bytes::Zero, Access::Write) => self.uffd.zeropage(hva, run.bytes(), waiters)?,
            (Bytes::Zero, Access::Read) => self.install_zeros_to_read(run, hva, waiters)?,
        };
        match placed {
            Placed::New => Ok(()),
            Placed::AlreadyThere { before } => Err(PagesError::Conflict(Gfn(run.first().0 + before))),
        }
    }

    fn install_zeros_to_read(&mut self, run: Run, hva: u64, waiters: Waiters) -> Result<Placed, UffdError> {
        for before in 0..run.pages() {
            let hva = hva + before * PAGE_BYTES as u64;
            let placed = self.uffd.copy(hva, ZERO_PAGES, Protection::Protected, waiters)?;
            if placed != Placed::New {
                return Ok(Placed::AlreadyThere { before });
            }
        }
        Ok(Placed::New)
    }

    /// From here on the guest's stores to the pages wait.
    pub(crate) fn protect(&mut self, run: impl Into<Run>) -> Result<(), PagesError> {
        let run = run.into();
        let hva = self.hva(run.first())?;
        self.uffd.write_protect(hva, run.bytes(), Protection::Protected)?;
        for gfn in run.iter() {
            if self.take_untouched(gfn) {
                // The protection above stays in force whichever way this goes: on an absent page it left a marker in the
                // page table, which protects also a page that a borrower has just created through the alias.
                let hva = self.hva(gfn)?;
                let (Placed::New | Placed::AlreadyThere { .. }) =
                    self.uffd.copy(hva, ZERO_PAGES, Protection::Protected, Waiters::Leave)?;
            }
        }
        Ok(())
    }

    /// Lets the guest's stores to the page through, and wakes who waits.
    pub(crate) fn unprotect(&mut self, gfn: Gfn) -> Result<(), PagesError> {
        let hva = self.hva(gfn)?;
        Ok(self.uffd.write_protect(hva, PAGE_BYTES as u64, Protection::Writable)?)
    }

    /// Takes pages from the guest and gives their memory back to the host.
    pub(crate) fn discard(&mut self, run: impl Into<Run>) -> Result<(), PagesError> {
        let run = run.into();
        for gfn in run.iter() {
            self.take_untouched(gfn);
        }
        self.discards += run.pages();
        let Some(tables) = &mut self.tables else { return Ok(self.memory.discard(run)?) };
        let mut may_be_tables = [false; EXTENT_PAGES as usize];
        for (gfn, may_be) in run.iter().zip(&mut may_be_tables) {
            self.memory.read_page(gfn, &mut self.scratch)?;
            *may_be = may_be_table(&self.scratch, self.ram_end_gpa);
        }
        self.memory.discard(run)?;
        // Only now: while the guest could still reach the pages, the host could have read them once more.
        for (gfn, _) in run.iter().zip(may_be_tables).filter(|(_, may_be)| *may_be) {
            self.forgotten += 1;
            tables.forget(gfn).map_err(|why| PagesError::Tables { gfn, why })?;
        }
        Ok(())
    }

    /// How often the host was told to forget what it had made of a page.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Leaves the extent to the kernel, and wakes who waits in it.
    pub(crate) fn own_extent(&mut self, extent: Extent) -> Result<(), PagesError> {
        let hva = self.memory.extent_hva(extent)?;
        match self.uffd.unregister(hva, EXTENT_BYTES) {
            Ok(()) => {
                let index = self.index_of(extent)?;
                self.untracked.insert(index);
                self.each_page(index, BitSet::remove);
                Ok(())
            }
            Err(error) if is_out_of_memory(&error) => self.own_tracked(extent),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes all pages of an extent ours to write without leaving it to the kernel.
    fn own_tracked(&mut self, extent: Extent) -> Result<(), PagesError> {
        let (hva, index) = (self.memory.extent_hva(extent)?, self.index_of(extent)?);
        self.each_page(index, BitSet::insert);
        Ok(self.uffd.write_protect(hva, EXTENT_BYTES, Protection::Writable)?)
    }

    /// Tracks an owned extent page by page again.
    pub(crate) fn split_extent(&mut self, extent: Extent) -> Result<(), PagesError> {
        let (hva, index) = (self.memory.extent_hva(extent)?, self.index_of(extent)?);
        // SAFETY: as in `register_all`. (To register what is registered already changes nothing.)
        match unsafe { self.uffd.register(hva, EXTENT_BYTES) } {
            Ok(()) => {
                if self.untracked.take(index) {
                    self.each_page(index, BitSet::insert);
                }
                Ok(())
            }
            Err(error) if is_out_of_memory(&error) => self.track_all(),
            Err(error) => Err(error.into()),
        }
    }

    /// Tracks all of the part, each run of which then is one mapping for the kernel.
    fn track_all(&mut self) -> Result<(), PagesError> {
        self.register_all()?;
        for index in 0..(self.part.pages() / EXTENT_PAGES) as usize {
            if self.untracked.take(index) {
                self.each_page(index, BitSet::insert);
            }
        }
        Ok(())
    }

    /// Wakes who waits for a page that this node holds with `rights`; puts zeros there if it was never touched.
    pub(crate) fn wake(&mut self, gfn: Gfn, rights: Access) -> Result<(), PagesError> {
        let hva = self.hva(gfn)?;
        if self.take_untouched(gfn) {
            let placed = match rights {
                Access::Write => self.uffd.zeropage(hva, PAGE_BYTES as u64, Waiters::Wake)?,
                Access::Read => self.uffd.copy(hva, ZERO_PAGES, Protection::Protected, Waiters::Wake)?,
            };
            if placed == Placed::New {
                return Ok(());
            }
        }
        Ok(self.uffd.wake(hva, PAGE_BYTES as u64)?)
    }

    fn hva(&self, gfn: Gfn) -> Result<u64, MemoryError> {
        self.memory.guest_hva(gfn).ok_or(MemoryError::NotRam(gfn))
    }

    fn take_untouched(&mut self, gfn: Gfn) -> bool {
        self.part.index(gfn).is_some_and(|index| self.untouched.take(index))
    }

    fn index_of(&self, extent: Extent) -> Result<usize, MemoryError> {
        self.part.extent_index(extent).ok_or(MemoryError::NotRam(extent.first()))
    }

    fn each_page(&mut self, extent_index: usize, change: fn(&mut BitSet, usize)) {
        let pages = EXTENT_PAGES as usize;
        (extent_index * pages..(extent_index + 1) * pages).for_each(|page| change(&mut self.untouched, page));
    }
}

fn is_out_of_memory(error: &UffdError) -> bool {
    matches!(error, UffdError::Operation { source, .. } if source.raw_os_error() == Some(libc::ENOMEM))
}

/// A fixed set of small numbers; members beyond its size are ignored.
struct BitSet(Vec<u64>);

impl BitSet {
    fn new(size: usize) -> Self {
        BitSet(vec![0; size.div_ceil(64)])
    }

    fn insert(&mut self, member: usize) {
        if let Some(word) = self.0.get_mut(member / 64) {
            *word |= 1 << (member % 64);
        }
    }

    fn remove(&mut self, member: usize) {
        self.take(member);
    }

    /// Takes `member` out and says whether it was in.
    fn take(&mut self, member: usize) -> bool {
        let bit = 1 << (member % 64);
        self.0.get_mut(member / 64).is_some_and(|word| {
            let was = *word & bit != 0;
            *word &= !bit;
            was
        })
    }
}

#[cfg(test)]
mod tests;
