//! A node's guest memory: one memfd, mapped once for the guest and once for us.
//!
//! The **guest mapping** is what KVM's memory slots point to and what userfaultfd watches. The **alias mapping** shows
//! the same pages and is never watched: the loader fills it before the guest runs, and devices read and write
//! borrowed pages through it. The pager itself reads pages with `pread` (`NodeMemory::read_page` says why).
//!
//! The page cache of the memfd is the record of what this node holds: a page that is in it and not yet mapped in the
//! guest mapping is mapped by the kernel without asking anybody. So **nothing may create a page that this node does
//! not hold**; a load through the alias is enough to create one.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use thiserror::Error;
use vm_memory::mmap::FromRangesError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};

use crate::ids::{Extent, Gfn, Run, EXTENT_BYTES, PAGE_BYTES};
use crate::layout::Layout;

/// Why guest memory could not be set up or used.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A system call failed.
    #[error("{operation} for {bytes} bytes of guest memory: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// With how many bytes.
        bytes: u64,
        /// Its answer.
        source: std::io::Error,
    },
    /// The alias mapping could not be made.
    #[error("alias mapping of guest memory: {0}")]
    Alias(#[from] FromRangesError),
    /// No RAM is at this frame.
    #[error("{0} is not RAM of this guest")]
    NotRam(Gfn),
}

/// A region of the guest mapping, as a KVM memory slot wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// First frame.
    pub start: Gfn,
    /// Length in pages.
    pub pages: u64,
    /// Host-virtual address of the first byte, in the guest mapping; congruent to the guest-physical address modulo
    /// 2 MiB.
    pub hva: u64,
}

/// One node's view of all guest memory. Pages that the node does not hold take no host memory.
#[derive(Debug)]
pub struct NodeMemory {
    layout: Layout,
    file: Arc<File>,
    guest: GuestMapping,
    alias: GuestMemoryMmap,
}

impl NodeMemory {
    /// Makes the memfd and both mappings. Nothing is allocated before it is touched. The memfd can neither grow nor
    /// shrink afterwards (seals), so no access to the mappings can hit its end.
    ///
    /// # Errors
    /// If the kernel refuses a mapping of this size.
    pub fn new(layout: Layout) -> Result<Arc<NodeMemory>, MemoryError> {
        let bytes = layout.bytes();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("tessera-guest", flags).map_err(system("memfd_create", bytes))?;
        rustix::fs::ftruncate(&fd, bytes).map_err(system("ftruncate", bytes))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(system("F_ADD_SEALS", bytes))?;
        let guest = GuestMapping::new(&fd, bytes)?;
        let file = Arc::new(File::from(fd));
        let alias = alias_mapping(&layout, &file)?;
        Ok(Arc::new(NodeMemory { layout, file, guest, alias }))
    }

    /// Which frames exist.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The guest mapping, region by region, for KVM's memory slots.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.layout.regions().iter().filter_map(|region| {
            let hva = self.guest_hva(region.start)?;
            Some(Slot { start: region.start, pages: region.pages, hva })
        })
    }

    /// The alias mapping, for loading **before the pager starts**. Later only borrowed pages may be touched through
    /// it ([`crate::pager::Pager::borrow`]): a load from a page that this node does not hold would create it.
    pub fn alias_view(&self) -> GuestMemoryMmap {
        self.alias.clone()
    }

    /// Where the frame is in the guest mapping, in which all regions lie one behind the other; `None` if it is not RAM.
    pub fn guest_hva(&self, gfn: Gfn) -> Option<u64> {
        self.layout.index(gfn).map(|index| self.guest.base + (index * PAGE_BYTES) as u64)
    }

    /// The frame that holds an address of the guest mapping; `None` for an address outside it.
    pub fn gfn_of_hva(&self, hva: u64) -> Option<Gfn> {
        let offset = hva.checked_sub(self.guest.base)?;
        self.layout.gfn_at(usize::try_from(offset).ok()? / PAGE_BYTES)
    }

    /// Host memory that the memfd really holds now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        // fstat of an open memfd does not fail; st_blocks counts units of 512 bytes whatever the block size.
        rustix::fs::fstat(&*self.file).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    /// Where the extent is in the guest mapping.
    ///
    /// # Errors
    /// If it is not RAM.
    pub(crate) fn extent_hva(&self, extent: Extent) -> Result<u64, MemoryError> {
        self.guest_hva(extent.first()).ok_or(MemoryError::NotRam(extent.first()))
    }

    /// Reads the bytes of a page that this node holds. An absent page reads as zeros and stays absent.
    ///
    /// `pread` and not a load through the alias: the bytes have to be copied once anyway, the alias would first take a
    /// fault of its own for each page that has come in, and it would create absent pages.
    ///
    /// # Errors
    /// If the frame is not RAM or the read fails.
    pub(crate) fn read_page(&self, gfn: Gfn, into: &mut [u8; PAGE_BYTES]) -> Result<(), MemoryError> {
        let offset = self.offset(gfn)?;
        let mut filled = 0;
        while filled < PAGE_BYTES {
            match rustix::io::pread(&*self.file, &mut into[filled..], offset + filled as u64) {
                // The size is sealed: the end of the file is never inside a page.
                Ok(0) => return Err(system("pread", PAGE_BYTES as u64)(Errno::IO)),
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(system("pread", PAGE_BYTES as u64)(errno)),
            }
        }
        Ok(())
    }

    /// Takes pages out of both mappings and gives their memory back to the host. They are absent afterwards.
    ///
    /// # Errors
    /// If a frame is not RAM or the kernel refuses.
    pub(crate) fn discard(&self, run: impl Into<Run>) -> Result<(), MemoryError> {
        let run = run.into();
        // (An extent is RAM as a whole or not at all.)
        let offset = self.offset(run.first())?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(&*self.file, mode, offset, run.bytes()) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(system("fallocate(PUNCH_HOLE)", run.bytes())(errno)),
            }
        }
    }

    /// The runs of pages that exist, as `(first index, pages)` in the order of [`Layout::index`].
    ///
    /// # Errors
    /// If the memfd cannot be searched.
    pub(crate) fn present_runs(&self) -> Result<Vec<(usize, usize)>, MemoryError> {
        let bytes = self.layout.bytes();
        let (mut runs, mut at) = (Vec::new(), 0);
        while at < bytes {
            let start = match rustix::fs::seek(&*self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(system("lseek(SEEK_DATA)", bytes)(errno)),
            };
            let end = rustix::fs::seek(&*self.file, SeekFrom::Hole(start))
                .map_err(system("lseek(SEEK_HOLE)", bytes))?;
            runs.push((start as usize / PAGE_BYTES, (end - start) as usize / PAGE_BYTES));
            at = end;
        }
        Ok(runs)
    }

    fn offset(&self, gfn: Gfn) -> Result<u64, MemoryError> {
        self.layout.index(gfn).map(|index| (index * PAGE_BYTES) as u64).ok_or(MemoryError::NotRam(gfn))
    }
}

/// The mapping that the guest uses; unmapped on drop.
#[derive(Debug)]
struct GuestMapping {
    /// Address of the first byte of guest memory; a multiple of 2 MiB.
    base: u64,
    /// What was reserved: the mapping and the rest of the extents at both ends, which stay without access.
    reserved: (*mut c_void, usize),
}

// SAFETY: the pointer is only an address to unmap on drop; nothing in this type reads or writes through it.
unsafe impl Send for GuestMapping {}
// SAFETY: as above.
unsafe impl Sync for GuestMapping {}

impl GuestMapping {
    fn new(memfd: &OwnedFd, bytes: u64) -> Result<Self, MemoryError> {
        // Reserve an extent more than needed and put the memory at its first aligned address.
        let length = (bytes + EXTENT_BYTES) as usize;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), flags) }
            .map_err(system("mmap (reserve)", bytes))?;
        let base = (start as u64).next_multiple_of(EXTENT_BYTES);
        let mapping = GuestMapping { base, reserved: (start, length) };
        let flags = MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the fixed range lies inside the reservation above, which nobody else uses.
        unsafe { rustix::mm::mmap(base as *mut c_void, bytes as usize, prot, flags, memfd, 0) }
            .map_err(system("mmap (guest)", bytes))?;
        advise(base as *mut c_void, bytes)?;
        Ok(mapping)
    }
}

impl Drop for GuestMapping {
    fn drop(&mut self) {
        // SAFETY: the range was reserved by `new` and is used only through this mapping, whose owner is going away.
        // Nothing can be done about a failure here.
        let _ = unsafe { rustix::mm::munmap(self.reserved.0, self.reserved.1) };
    }
}

/// One alias region for each region of the layout.
fn alias_mapping(layout: &Layout, file: &Arc<File>) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::with_capacity(layout.regions().len());
    let mut offset = 0;
    for region in layout.regions() {
        let bytes = region.pages * PAGE_BYTES as u64;
        let backing = FileOffset::from_arc(file.clone(), offset);
        let mapped = GuestRegionMmap::<()>::from_range(
            GuestAddress(region.start.gpa()),
            bytes as usize,
            Some(backing),
        )?;
        advise(mapped.as_ptr().cast(), bytes)?;
        regions.push(mapped);
        offset += bytes;
    }
    let alias = GuestMemoryMmap::from_regions(regions).map_err(FromRangesError::from)?;
    debug_assert_eq!(alias.num_regions(), layout.regions().len());
    Ok(alias)
}

/// Pages are tracked one by one, so no huge ones; and guest memory belongs neither to a child process nor into a
/// core dump.
fn advise(start: *mut c_void, bytes: u64) -> Result<(), MemoryError> {
    let advices = [
        (Advice::LinuxNoHugepage, "madvise(MADV_NOHUGEPAGE)"),
        (Advice::LinuxDontFork, "madvise(MADV_DONTFORK)"),
        (Advice::LinuxDontDump, "madvise(MADV_DONTDUMP)"),
    ];
    for (advice, operation) in advices {
        // SAFETY: the range is a mapping that the caller has just made, and none of these changes its contents.
        match unsafe { rustix::mm::madvise(start, bytes as usize, advice) } {
            // A kernel without huge pages knows no MADV_NOHUGEPAGE, and needs none.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(system(operation, bytes)(errno)),
        }
    }
    Ok(())
}

fn system(operation: &'static str, bytes: u64) -> impl FnOnce(Errno) -> MemoryError {
    move |errno| MemoryError::System { operation, bytes, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::ids::NodeId;
    use crate::layout::Region;

    fn memory() -> Arc<NodeMemory> {
        let region = |start, pages, home| Region { start: Gfn(start), pages, home: NodeId(home) };
        let layout = Layout::new(vec![region(0, 1024, 0), region(1 << 20, 512, 1)]).expect("valid layout");
        NodeMemory::new(layout).expect("guest memory")
    }

    #[test]
    fn addresses_and_frames_are_inverse() {
        let memory = memory();
        for gfn in [0, 1, 1023, 1 << 20, (1 << 20) + 511].map(Gfn) {
            let hva = memory.guest_hva(gfn).expect("RAM");
            assert_eq!(memory.gfn_of_hva(hva), Some(gfn));
            assert_eq!(memory.gfn_of_hva(hva + 4095), Some(gfn));
        }
        assert_eq!(memory.guest_hva(Gfn(1024)), None);
        let (base, bytes) = (memory.guest_hva(Gfn(0)).expect("RAM"), memory.layout().bytes());
        assert_eq!(memory.gfn_of_hva(base + bytes), None);
        assert_eq!(memory.gfn_of_hva(base - 1), None);
        assert!(memory.slots().all(|slot| slot.hva % EXTENT_BYTES == 0));
    }

    #[test]
    fn both_mappings_show_the_same_page_and_a_discarded_one_is_gone() {
        let memory = memory();
        let gfn = Gfn((1 << 20) + 7);
        memory.alias_view().write_obj(0x1122_3344_u32, GuestAddress(gfn.gpa() + 8)).expect("RAM");
        let hva = memory.guest_hva(gfn).expect("RAM");
        // SAFETY: an aligned address inside the guest mapping, which no Rust reference covers.
        let word = unsafe { ptr::read_volatile((hva + 8) as *const u32) };
        assert_eq!(word, 0x1122_3344);
        assert_eq!(memory.resident_bytes(), PAGE_BYTES as u64);
        assert_eq!(memory.present_runs().expect("search"), vec![(1024 + 7, 1)]);

        memory.discard(gfn).expect("discard");
        assert_eq!(memory.resident_bytes(), 0);
        let mut page = [1; PAGE_BYTES];
        memory.read_page(gfn, &mut page).expect("read");
        assert_eq!(page, [0; PAGE_BYTES]);
        assert_eq!(memory.resident_bytes(), 0, "reading an absent page must not create it");
    }

    #[test]
    fn frames_outside_ram_are_refused() {
        let memory = memory();
        assert!(matches!(memory.discard(Gfn(2048)), Err(MemoryError::NotRam(Gfn(2048)))));
        assert!(matches!(memory.read_page(Gfn(2048), &mut [0; PAGE_BYTES]), Err(MemoryError::NotRam(_))));
    }
}
