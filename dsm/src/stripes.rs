//! How guest memory is shared out among the pagers of a node: in stripes, one to each pager in turn.
//!
//! Every node has as many pagers as the others and cuts memory the same way, so that each pager speaks with its counterparts
//! on the other nodes and with nobody else. What lies in one extent is one pager's.

use std::ops::Range;

use crate::ids::{Gfn, Shard, EXTENT_PAGES, PAGE_BYTES, SHARDS_MAX};
use crate::layout::Layout;

/// The least bytes in a stripe of a guest: what a program goes through in order, and what a kernel gives to one use, is
/// mostly shorter.
pub const STRIPE_BYTES_MIN: u64 = 64 << 20;
/// Most stripes. Each can be a mapping of its own to the kernel, and a process may have only so many
/// (`vm.max_map_count`, 65530 by default).
pub const STRIPES_MAX: u64 = 1024;

/// How a guest's memory is cut: stripe *i* is shard *i mod n*'s. Stripes are counted over all RAM, holes left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stripes {
    /// Pages in a stripe; a multiple of [`EXTENT_PAGES`].
    pages: u64,
    shards: u8,
}

impl Stripes {
    /// All memory is one pager's.
    pub const NONE: Stripes = Stripes { pages: u64::MAX / EXTENT_PAGES * EXTENT_PAGES, shards: 1 };

    /// Memory of `layout` cut for `pagers` pagers, or for fewer if there are fewer stripes of [`STRIPE_BYTES_MIN`].
    pub fn new(layout: &Layout, pagers: u8) -> Self {
        Stripes::of_at_least(STRIPE_BYTES_MIN, layout, pagers)
    }

    /// As [`Stripes::new`], with another least length than [`STRIPE_BYTES_MIN`]; it is rounded up to whole extents. Stripes
    /// are longer, by powers of two, where there would be more than [`STRIPES_MAX`].
    pub fn of_at_least(bytes: u64, layout: &Layout, pagers: u8) -> Self {
        let least = bytes.div_ceil(PAGE_BYTES as u64).max(1).next_multiple_of(EXTENT_PAGES);
        let mut pages = least;
        while layout.pages().div_ceil(pages) > STRIPES_MAX {
            pages *= 2;
        }
        let most = layout.pages().div_ceil(pages).min(SHARDS_MAX as u64) as u8;
        match pagers.clamp(1, most) {
            1 => Stripes::NONE,
            shards => Stripes { pages, shards },
        }
    }

    /// How many shards there are, 1 to [`SHARDS_MAX`]; each has memory.
    pub fn count(&self) -> u8 {
        self.shards
    }

    /// All shards, in order.
    pub fn shards(&self) -> impl DoubleEndedIterator<Item = Shard> + ExactSizeIterator {
        (0..self.shards).map(Shard)
    }

    /// The shard of a frame of `layout`, which is the one that was cut; the first where no RAM is.
    pub fn shard_of(&self, layout: &Layout, gfn: Gfn) -> Shard {
        if self.shards == 1 {
            return Shard::FIRST;
        }
        let index = layout.index(gfn).map_or(0, |index| index as u64);
        Shard((index / self.pages % u64::from(self.shards)) as u8)
    }

    /// What a shard has of `layout`, which is the one that was cut.
    pub fn part_of(&self, layout: &Layout, shard: Shard) -> Layout {
        let mine = (u64::from(shard.0)..).step_by(self.shards.into());
        let stripe = |i: u64| -> Option<Range<u64>> {
            let start = i.checked_mul(self.pages).filter(|&start| start < layout.pages())?;
            Some(start..start.saturating_add(self.pages))
        };
        layout.part(mine.map_while(stripe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, EXTENT_BYTES};
    use crate::layout::Region;

    /// So many extents, of two nodes, with a hole of as many between them.
    fn layout(extents: u64) -> Layout {
        let pages = extents / 2 * EXTENT_PAGES;
        let region = |start, pages, home| Region { start: Gfn(start), pages, home: NodeId(home) };
        let rest = extents * EXTENT_PAGES - pages;
        Layout::new(vec![region(0, pages, 0), region(2 * pages, rest, 1)]).expect("valid")
    }

    #[test]
    fn every_page_is_in_the_part_of_its_shard_and_in_no_other() {
        for (extents, stripe, pagers) in [(9, 1, 3), (9, 2, 3), (10, 4, 2), (7, 1, 8), (8, 8, 4), (1, 1, 1)] {
            let layout = layout(extents.max(2));
            let stripes = Stripes::of_at_least(stripe * EXTENT_BYTES, &layout, pagers);
            let parts: Vec<Layout> = stripes.shards().map(|shard| stripes.part_of(&layout, shard)).collect();
            for index in (0..layout.pages() as usize).step_by(101) {
                let gfn = layout.gfn_at(index).expect("RAM");
                let owner = stripes.shard_of(&layout, gfn);
                for shard in stripes.shards() {
                    let part = &parts[shard.index()];
                    assert_eq!(part.index(gfn).is_some(), shard == owner, "{gfn} of {stripes:?}");
                    assert!(part.home(gfn).is_none_or(|home| Some(home) == layout.home(gfn)));
                }
            }
            assert_eq!(parts.iter().map(Layout::pages).sum::<u64>(), layout.pages());
            assert!(parts.iter().all(|part| part.pages() > 0));
        }
    }

    #[test]
    fn where_there_are_fewer_stripes_than_pagers_there_are_fewer_shards() {
        let shards = |mib: u64, pagers| Stripes::new(&layout(mib / 2), pagers).count();
        assert_eq!((shards(64, 4), shards(66, 4), shards(128, 4), shards(130, 4)), (1, 2, 2, 3));
        assert_eq!((shards(4096, 4), shards(4096, 200), shards(4096, 0)), (4, SHARDS_MAX as u8, 1));
        assert_eq!(Stripes::new(&layout(4096), 1), Stripes::NONE);
        assert_eq!(Stripes::NONE.part_of(&layout(4), Shard::FIRST), layout(4));
    }

    #[test]
    fn stripes_grow_with_memory() {
        // 128 GiB are 2048 stripes of the least length.
        let stripes = Stripes::new(&layout(1 << 16), 4);
        assert_eq!(stripes.pages * PAGE_BYTES as u64, 2 * STRIPE_BYTES_MIN);
        assert!(stripes.part_of(&layout(1 << 16), Shard(1)).regions().len() <= 257);
    }
}
