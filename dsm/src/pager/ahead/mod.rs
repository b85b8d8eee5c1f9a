//! Asking ahead: a vCPU that goes through another node's memory gets pages before it asks for them.
//!
//! A page more costs far less than a round trip more. But what is asked for in vain is not only wasted: its owner, who may be
//! writing it, has to fetch it back. So:
//!
//! - **Blocks** ([`blocks`]): with the page that a vCPU loads from come the others of its aligned block of [`BLOCK`] pages,
//!   unless pages of that block were taken away again lately because somebody writes them.
//! - **Streams** ([`streams`]): faults of one kind whose frames ascend. One that goes on as soon as all that was asked for is
//!   used up gets more and more at a time.
//!
//! Nothing is asked for beyond the extent (one that nobody has touched would be granted as a whole, to the wrong node
//! perhaps). Loads ask for read copies; only streams of stores (a vCPU that has moved, and whose memory follows it)
//! ask for the pages themselves.

mod blocks;
mod streams;

use blocks::Blocks;
use streams::Streams;

use crate::ids::Gfn;
use crate::layout::Layout;
use crate::protocol::{Access, Micros};

/// Pages of a block: what programs put together they put together in such sizes.
const BLOCK: u64 = 8;

/// What one node's faults were like lately.
pub(super) struct Ahead {
    loads: Streams,
    stores: Streams,
    blocks: Blocks,
}

/// A fault, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// The page, and its number in the layout.
    pub(super) page: (Gfn, usize),
    /// What the vCPU wants to do.
    pub(super) access: Access,
    /// When it was noticed.
    pub(super) at: Micros,
    /// How long pages take to come.
    pub(super) usual_us: Micros,
}

impl Ahead {
    pub(super) fn new(layout: &Layout) -> Self {
        Ahead { loads: Streams::new(), stores: Streams::new(), blocks: Blocks::new(layout) }
    }

    /// A vCPU waits for a page: which others of its extent to ask for besides, the nearest behind it first.
    pub(super) fn fault(&mut self, fault: Fault) -> impl Iterator<Item = Gfn> {
        let (gfn, index) = fault.page;
        let block_start = gfn.0 - gfn.0 % BLOCK;
        let whole_block = fault.access == Access::Read && self.blocks.fault(index);
        let (first, least_end) = match whole_block {
            true => (block_start, block_start + BLOCK),
            false => (gfn.0 + 1, gfn.0 + 1),
        };
        let streams = match fault.access {
            Access::Read => &mut self.loads,
            Access::Write => &mut self.stores,
        };
        let end = streams.fault(gfn, least_end, (fault.at, fault.usual_us));
        let extent = gfn.extent();
        (gfn.0 + 1..end).chain(first..gfn.0).map(Gfn).filter(move |page| page.extent() == extent)
    }

    /// A page was taken away by a node that writes it.
    pub(super) fn lost(&mut self, page_index: usize) {
        self.blocks.lost(page_index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::layout::Region;

    fn ahead() -> Ahead {
        let region = Region { start: Gfn(0), pages: 4096, home: NodeId(0) };
        Ahead::new(&Layout::new(vec![region]).expect("a layout"))
    }

    fn asked(ahead: &mut Ahead, gfn: u64, access: Access) -> Vec<u64> {
        let fault = Fault { page: (Gfn(gfn), gfn as usize), access, at: 1, usual_us: 100 };
        ahead.fault(fault).map(|page| page.0).collect()
    }

    #[test]
    fn a_load_brings_its_block_until_the_block_is_fought_for() {
        let mut ahead = ahead();
        assert_eq!(asked(&mut ahead, 1002, Access::Read), [1003, 1004, 1005, 1006, 1007, 1000, 1001]);
        ahead.lost(1005);
        assert_eq!(asked(&mut ahead, 1003, Access::Read), [] as [u64; 0]);
    }

    #[test]
    fn a_store_brings_nothing_but_itself() {
        assert_eq!(asked(&mut ahead(), 1002, Access::Write), [] as [u64; 0]);
    }

    #[test]
    fn a_scan_goes_on_behind_the_block_and_ends_with_the_extent() {
        let mut ahead = ahead();
        asked(&mut ahead, 1000, Access::Read);
        assert_eq!(asked(&mut ahead, 1008, Access::Read), (1009..1024).collect::<Vec<_>>());
        assert_eq!(asked(&mut ahead, 1023, Access::Read), (1016..1023).collect::<Vec<_>>());
    }
}
