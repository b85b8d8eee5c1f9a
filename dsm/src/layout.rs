//! Where guest memory is: which frames exist, and which node is each frame's home.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Extent, Gfn, NodeId, EXTENT_PAGES, NODES_MAX, PAGE_BYTES};

/// Most regions in a layout: each node's share, and one more cut by the hole below 4 GiB.
pub const REGIONS_MAX: usize = NODES_MAX + 1;

/// A run of guest RAM with one home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Region {
    /// First frame; a multiple of [`EXTENT_PAGES`].
    pub start: Gfn,
    /// Length in pages; a multiple of [`EXTENT_PAGES`].
    pub pages: u64,
    /// The node that keeps the directory of these pages, and whose NUMA node they are.
    pub home: NodeId,
}

impl Region {
    /// One past the last frame.
    pub fn end(&self) -> Gfn {
        Gfn(self.start.0 + self.pages)
    }

    /// Whether `gfn` lies in the region.
    pub fn contains(&self, gfn: Gfn) -> bool {
        (self.start.0..self.start.0 + self.pages).contains(&gfn.0)
    }
}

/// Why a list of regions is no layout.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// There must be 1 to [`REGIONS_MAX`] regions.
    #[error("a guest needs 1 to {REGIONS_MAX} memory regions, not {0}")]
    Count(usize),
    /// A region is empty or not made of whole extents.
    #[error("memory region {0} is not made of whole 2 MiB extents")]
    Alignment(usize),
    /// Regions must ascend without overlap.
    #[error("memory region {0} does not start behind the one before it")]
    Order(usize),
}

/// The guest's RAM: ascending regions. All nodes of a guest have the same layout.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<Region>", into = "Vec<Region>")]
pub struct Layout {
    regions: Vec<Region>,
    /// For each region, the pages of RAM below it.
    offsets: Vec<u64>,
}

impl TryFrom<Vec<Region>> for Layout {
    type Error = LayoutError;

    fn try_from(regions: Vec<Region>) -> Result<Self, LayoutError> {
        Layout::new(regions)
    }
}

impl From<Layout> for Vec<Region> {
    fn from(layout: Layout) -> Self {
        layout.regions
    }
}

impl Layout {
    /// Checks and adopts `regions`.
    ///
    /// # Errors
    /// When they do not ascend, overlap, or are not whole extents.
    pub fn new(regions: Vec<Region>) -> Result<Self, LayoutError> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(LayoutError::Count(regions.len()));
        }
        let mut offsets = Vec::with_capacity(regions.len());
        let (mut total, mut end) = (0u64, 0u64);
        for (i, region) in regions.iter().enumerate() {
            let whole = |pages: u64| pages.is_multiple_of(EXTENT_PAGES);
            // 2^40 pages are 4 PiB: more than any guest-physical address space here.
            if region.pages == 0
                || !whole(region.pages)
                || !whole(region.start.0)
                || region.pages > 1 << 40
                || region.start.0 > 1 << 40
                || region.home.index() >= NODES_MAX
            {
                return Err(LayoutError::Alignment(i));
            }
            if region.start.0 < end {
                return Err(LayoutError::Order(i));
            }
            offsets.push(total);
            total += region.pages;
            end = region.end().0;
        }
        Ok(Layout { regions, offsets })
    }

    /// The regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Pages of RAM in all regions.
    pub fn pages(&self) -> u64 {
        self.regions.iter().map(|region| region.pages).sum()
    }

    /// Bytes of RAM in all regions.
    pub fn bytes(&self) -> u64 {
        self.pages() * PAGE_BYTES as u64
    }

    /// The home of `gfn`, or `None` if no RAM is there.
    pub fn home(&self, gfn: Gfn) -> Option<NodeId> {
        self.find(gfn).map(|i| self.regions[i].home)
    }

    /// How many pages of RAM lie below `gfn`: the page's place in a dense table or in the backing
    /// file. `None` if no RAM is there.
    pub fn index(&self, gfn: Gfn) -> Option<usize> {
        self.find(gfn).map(|i| (self.offsets[i] + gfn.0 - self.regions[i].start.0) as usize)
    }

    /// The frame at a dense index: the inverse of [`Layout::index`].
    pub fn gfn_at(&self, index: usize) -> Option<Gfn> {
        let index = index as u64;
        let i = self.offsets.partition_point(|&offset| offset <= index).checked_sub(1)?;
        let within = index - self.offsets[i];
        (within < self.regions[i].pages).then(|| Gfn(self.regions[i].start.0 + within))
    }

    /// The extent's place in a dense table of extents.
    pub fn extent_index(&self, extent: Extent) -> Option<usize> {
        self.index(extent.first()).map(|index| index / EXTENT_PAGES as usize)
    }

    /// The part of it whose dense indices lie in these ascending runs of whole extents. Of its own it counts pages anew,
    /// without gaps; it may have more than [`REGIONS_MAX`] regions.
    pub(crate) fn part(&self, runs: impl IntoIterator<Item = Range<u64>>) -> Layout {
        let mut part = Layout { regions: Vec::new(), offsets: Vec::new() };
        let mut total = 0;
        for run in runs {
            for (region, &offset) in self.regions.iter().zip(&self.offsets) {
                let from = run.start.max(offset);
                let to = run.end.min(offset + region.pages);
                if from >= to {
                    continue;
                }
                let piece =
                    Region { start: Gfn(region.start.0 + from - offset), pages: to - from, ..*region };
                match part.regions.last_mut().filter(|last| last.end() == piece.start) {
                    Some(last) if last.home == piece.home => last.pages += piece.pages,
                    _ => {
                        part.regions.push(piece);
                        part.offsets.push(total);
                    }
                }
                total += piece.pages;
            }
        }
        part
    }

    fn find(&self, gfn: Gfn) -> Option<usize> {
        let i = self.regions.partition_point(|region| region.start <= gfn).checked_sub(1)?;
        self.regions[i].contains(gfn).then_some(i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Layout {
        let region = |start, pages, home| Region { start: Gfn(start), pages, home: NodeId(home) };
        Layout::new(vec![region(0, 1024, 0), region(4096, 512, 1)]).expect("valid")
    }

    #[test]
    fn index_and_gfn_at_are_inverse() {
        let layout = two();
        for index in 0..layout.pages() as usize {
            let gfn = layout.gfn_at(index).expect("in RAM");
            assert_eq!(layout.index(gfn), Some(index));
        }
        assert_eq!(layout.gfn_at(1536), None);
        assert_eq!(layout.home(Gfn(1024)), None, "a hole has no home");
        assert_eq!(layout.home(Gfn(4100)), Some(NodeId(1)));
        assert_eq!(layout.extent_index(Gfn(4100).extent()), Some(2));
    }

    #[test]
    fn a_part_has_only_its_runs_and_counts_them_without_gaps() {
        let layout = two();
        assert_eq!(layout.part(Some(0..1536)), layout, "all of it");
        assert_eq!(layout.part([0..512, 512..1024]).regions().len(), 1, "runs that touch are one region");
        let part = layout.part(Some(512..1536));
        let region = |start, home| Region { start: Gfn(start), pages: 512, home: NodeId(home) };
        assert_eq!(part.regions(), [region(512, 0), region(4096, 1)]);
        assert_eq!(
            (part.index(Gfn(512)), part.index(Gfn(4097)), part.index(Gfn(0))),
            (Some(0), Some(513), None)
        );
        assert_eq!((part.gfn_at(513), part.pages()), (Some(Gfn(4097)), 1024));
    }

    #[test]
    fn bad_regions_are_refused() {
        let region = |start, pages| Region { start: Gfn(start), pages, home: NodeId(0) };
        assert_eq!(Layout::new(vec![]), Err(LayoutError::Count(0)));
        assert_eq!(Layout::new(vec![region(0, 1)]), Err(LayoutError::Alignment(0)));
        assert_eq!(Layout::new(vec![region(0, 1024), region(512, 512)]), Err(LayoutError::Order(1)));
        assert_eq!(Layout::new(vec![region(0, u64::MAX - 511)]), Err(LayoutError::Alignment(0)));
    }
}
