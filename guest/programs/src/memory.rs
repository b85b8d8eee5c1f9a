//! Memory by the page, shared between threads as atomic words: what a page-granular machine wants to see.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::trouble::Trouble;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// 64-bit words of a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// Bytes of a huge page, and of what one host owns as a whole.
const HUGE_BYTES: usize = 2 << 20;

/// Anonymous zeroed memory, page by page; a page is placed where it is first touched.
pub struct Pages {
    start: NonNull<AtomicU64>,
    pages: usize,
    /// The mapping, which may begin before the first page.
    mapping: *mut libc::c_void,
    mapped_bytes: usize,
}

// SAFETY: the memory belongs to this value alone and is only handed out as atomics.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `pages` pages (at least one), untouched.
    ///
    /// # Errors
    /// Where the kernel has no such room.
    pub fn new(pages: usize) -> Result<Self, Trouble> {
        let pages = pages.max(1);
        Self::map(pages, pages * PAGE_BYTES)
    }

    /// Maps `pages` pages, untouched, that begin a huge page; the kernel is asked for huge pages. For what one
    /// thread uses much: whole huge pages come to its host at once, and few guest page faults are taken.
    ///
    /// # Errors
    /// Where the kernel has no such room.
    pub fn huge(pages: usize) -> Result<Self, Trouble> {
        let pages = pages.max(1);
        let bytes = (pages * PAGE_BYTES).next_multiple_of(HUGE_BYTES);
        let mut mapped = Self::map(pages, bytes + HUGE_BYTES)?;
        let skip = mapped.address().next_multiple_of(HUGE_BYTES) - mapped.address();
        // SAFETY: less than a huge page further, and there is one more than needed.
        mapped.start = unsafe { mapped.start.byte_add(skip) };
        // SAFETY: inside the new mapping. A kernel without huge pages refuses, and small ones do as well.
        unsafe {
            libc::madvise(mapped.start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Ok(mapped)
    }

    fn map(pages: usize, bytes: usize) -> Result<Self, Trouble> {
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast()) {
            Some(address) if start != libc::MAP_FAILED => {
                Ok(Self { start: address, pages, mapping: start, mapped_bytes: bytes })
            }
            _ => Err(Trouble::last_os(format!("mmap of {bytes} bytes"))),
        }
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.pages
    }

    /// Never: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has that many words, lives as long as `self`, and any bits are a valid word.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.pages * PAGE_WORDS) }
    }

    /// The words of page `index`.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn page(&self, index: usize) -> &[AtomicU64] {
        &self.words()[index * PAGE_WORDS..(index + 1) * PAGE_WORDS]
    }

    /// The first word of page `index`: a variable that has the page to itself.
    pub fn lone(&self, index: usize) -> &AtomicU64 {
        &self.page(index)[0]
    }

    /// The address of the first byte.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, of that size; no reference into it outlives `self`.
        unsafe {
            libc::munmap(self.mapping, self.mapped_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn pages_are_zero_aligned_and_apart() {
        let pages = Pages::new(3).unwrap();
        assert_eq!(pages.address() % PAGE_BYTES, 0);
        assert!(pages.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        pages.lone(2).store(7, Ordering::Relaxed);
        assert_eq!(pages.words()[2 * PAGE_WORDS].load(Ordering::Relaxed), 7);
        assert_eq!(Pages::new(0).unwrap().len(), 1);
        let huge = Pages::huge(600).unwrap();
        assert_eq!(huge.address() % HUGE_BYTES, 0);
        huge.lone(599).store(8, Ordering::Relaxed);
    }
}
