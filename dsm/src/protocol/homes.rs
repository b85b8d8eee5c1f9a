//! Who the nodes are, and which of them keeps the directory of which extent, as far as one node knows.

use std::sync::Arc;

use super::table::Place;
use crate::ids::{Extent, Gfn, NodeId, NodeSet, EXTENT_PAGES};
use crate::layout::Layout;

/// Numbers the homes of one extent: 0 is the one that the layout names, and each [`Event::HandOver`](super::Event::HandOver)
/// begins the next. What belongs to another term than the one expected is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Term(pub u32);

impl Term {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.wrapping_add(1))
    }
}

/// The home of an extent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Home {
    /// The node that keeps the directory of the extent's pages.
    pub node: NodeId,
    /// Which of the extent's homes it is.
    pub term: Term,
}

/// Who belongs to the guest when a node starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The nodes, this one among them.
    pub members: NodeSet,
    /// The extents whose home is not the one that the layout names, for a node that joins a running guest: what
    /// [`Node::homes`](super::Node::homes) says on any other node. No extent may be changing its home meanwhile.
    pub homes: Vec<(Extent, Home)>,
}

impl Membership {
    /// All of `nodes` nodes begin together.
    pub fn all(nodes: u8) -> Self {
        let mut members = NodeSet::EMPTY;
        (0..nodes).for_each(|node| members.insert(NodeId(node)));
        Membership { members, homes: Vec::new() }
    }
}

/// What a node knows of homes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Homes {
    pub members: NodeSet,
    /// By dense index of the extent.
    of: Vec<Home>,
}

impl Homes {
    /// What the layout says, but for what `membership` knows better. Extents outside RAM are skipped.
    pub fn new(layout: &Arc<Layout>, membership: &Membership) -> Self {
        let home = |region: &crate::layout::Region| Home { node: region.home, term: Term(0) };
        let regions = layout.regions().iter();
        let extents = regions.flat_map(|region| (0..region.pages / EXTENT_PAGES).map(move |_| home(region)));
        let mut homes = Homes { members: membership.members, of: extents.collect() };
        for &(extent, home) in &membership.homes {
            if let Some(index) = layout.extent_index(extent) {
                homes.of[index] = home;
            }
        }
        homes
    }

    /// The home of an extent.
    pub fn get(&self, extent: usize) -> Home {
        self.of[extent]
    }

    /// The extent has a new home.
    pub fn set(&mut self, extent: usize, home: Home) {
        self.of[extent] = home;
    }

    /// All homes, by extent.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Home)> + '_ {
        self.of.iter().copied().enumerate()
    }

    /// Where `gfn` is, or `None` if no RAM is there.
    pub fn place(&self, layout: &Layout, gfn: Gfn) -> Option<Place> {
        let index = layout.index(gfn)?;
        let extent_pages = EXTENT_PAGES as usize;
        let extent = index / extent_pages;
        Some(Place { gfn, home: self.of[extent].node, extent, page: index % extent_pages })
    }
}
