//! Pages for tests, from all over the guest's memory.
//!
//! The memory after the image is divided into eight stripes of equal size, and pages are handed out from one
//! stripe after the other: memory is spread over the nodes in address order, so pages that belong together by
//! turns come to have different homes. `homes=low` keeps to the first stripe instead.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::boot::{Range, ZeroPage};
use super::exit::{fail, Status};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Memory above this is left alone; the page tables that map it would take too long to build.
pub const MAPPED_LIMIT: u64 = 64 << 30;
/// Pieces of equal size that memory is divided into.
pub const STRIPES: usize = 8;
const RANGES: usize = 16;

/// A page of words. All sharing between CPUs goes through words of such pages.
#[repr(C, align(4096))]
pub struct Page {
    /// Its contents.
    pub words: [AtomicU64; 512],
}

impl Page {
    /// Sets all words to zero.
    pub fn clear(&self) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The word at `index`.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }

    /// Where the page is; virtual and physical addresses are the same.
    pub fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }
}

/// Where pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Homes {
    /// One stripe after the other.
    Spread,
    /// The first stripe only.
    Low,
}

/// The allocator. Pages are never given back: a payload runs a few tests and ends.
pub struct Arena {
    stripes: [Cell<Range>; STRIPES],
    next: Cell<usize>,
    homes: Cell<Homes>,
}

unsafe extern "C" {
    static image_end: u8;
}

impl Arena {
    /// Takes all usable memory above the image, up to [`MAPPED_LIMIT`], but for the initramfs.
    pub fn new(zero_page: ZeroPage) -> Self {
        let first = (&raw const image_end) as u64;
        let mut ranges = [Range::default(); RANGES];
        let mut count = 0;
        let taken = zero_page.initramfs();
        for range in zero_page.memory().flat_map(|range| without(range, taken)) {
            let start = range.start.max(first).next_multiple_of(PAGE_BYTES);
            let end = range.end.min(MAPPED_LIMIT) & !(PAGE_BYTES - 1);
            if start < end && count < RANGES {
                ranges[count] = Range { start, end };
                count += 1;
            }
        }
        let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let stripe = (total / STRIPES as u64) & !(PAGE_BYTES - 1);
        let stripes = core::array::from_fn(|i| Cell::new(piece(&ranges, i as u64 * stripe, stripe)));
        Self { stripes, next: Cell::new(0), homes: Cell::new(Homes::Spread) }
    }

    /// Chooses where pages come from, from now on.
    pub fn set_homes(&self, homes: Homes) {
        self.homes.set(homes);
    }

    /// One page of zeros.
    pub fn page(&self) -> &'static Page {
        &self.pages(1)[0]
    }

    /// `count` pages of zeros, adjacent, all from one stripe.
    pub fn pages(&self, count: usize) -> &'static [Page] {
        let pages = self.untouched(count);
        pages.iter().for_each(Page::clear);
        pages
    }

    /// `count` pages that nobody has touched since the machine started, adjacent, all from one stripe.
    pub fn untouched(&self, count: usize) -> &'static [Page] {
        let stripe = match self.homes.get() {
            Homes::Low => 0,
            Homes::Spread => self.next.replace((self.next.get() + 1) % STRIPES),
        };
        self.take(stripe, count as u64 * PAGE_BYTES, PAGE_BYTES)
    }

    /// `count` pages that nobody has touched of each stripe, in address order.
    pub fn each_stripe(&self, count: usize) -> [&'static [Page]; STRIPES] {
        core::array::from_fn(|stripe| self.take(stripe, count as u64 * PAGE_BYTES, PAGE_BYTES))
    }

    /// `count` pages of a stripe (0 to [`STRIPES`] - 1) that nobody has touched, adjacent.
    pub fn untouched_of(&self, stripe: usize, count: usize) -> &'static [Page] {
        if stripe >= STRIPES {
            fail(Status::Usage, format_args!("there is no stripe {stripe} among {STRIPES}"));
        }
        self.take(stripe, count as u64 * PAGE_BYTES, PAGE_BYTES)
    }

    /// `count` pages of zeros of a stripe, adjacent.
    pub fn pages_of(&self, stripe: usize, count: usize) -> &'static [Page] {
        let pages = self.untouched_of(stripe, count);
        pages.iter().for_each(Page::clear);
        pages
    }

    /// A block of `bytes`, aligned to `bytes`, zeroed, from the first stripe: for the runtime's own use.
    pub fn aligned_block(&self, bytes: u64) -> &'static [Page] {
        let pages = self.take(0, bytes, bytes);
        pages.iter().for_each(Page::clear);
        pages
    }

    /// Pages left in the smallest stripe.
    pub fn left(&self) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| stripe.get())
            .map(|s| (s.end - s.start) / PAGE_BYTES)
            .min()
            .unwrap_or(0)
    }

    fn take(&self, stripe: usize, bytes: u64, align: u64) -> &'static [Page] {
        let range = self.stripes[stripe].get();
        let start = range.start.next_multiple_of(align);
        let Some(end) = start.checked_add(bytes).filter(|&end| end <= range.end) else {
            fail(Status::Usage, format_args!("the guest has too little memory: {bytes} more bytes are needed in a stripe that ends at {:#x}", range.end));
        };
        self.stripes[stripe].set(Range { start: end, ..range });
        // SAFETY: usable memory by the memory map, outside the image, mapped, handed out once; any bytes are
        // valid words.
        unsafe { core::slice::from_raw_parts(start as *const Page, (bytes / PAGE_BYTES) as usize) }
    }
}

/// What is left of `range` on either side of `taken`.
fn without(range: Range, taken: Range) -> [Range; 2] {
    if taken.start >= taken.end {
        return [range, Range::default()];
    }
    let below = Range { start: range.start, end: range.end.min(taken.start) };
    let above = Range { start: range.start.max(taken.end), end: range.end };
    [below, above]
}

/// The part of the ranges, laid end to end, that starts at `offset`: as much of `length` as lies in one
/// range.
fn piece(ranges: &[Range], mut offset: u64, length: u64) -> Range {
    for range in ranges {
        let size = range.end - range.start;
        if offset < size {
            let start = range.start + offset;
            return Range { start, end: (start + length).min(range.end) };
        }
        offset -= size;
    }
    Range::default()
}
