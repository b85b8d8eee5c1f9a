//! The nouns of ownership: pages, extents, nodes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a page, the unit of ownership.
pub const PAGE_BYTES: usize = 4096;
/// log2 of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 12;
/// Pages in an extent: 2 MiB, aligned.
pub const EXTENT_PAGES: u64 = 512;
/// Bytes in an extent.
pub const EXTENT_BYTES: u64 = EXTENT_PAGES * PAGE_BYTES as u64;
/// Most nodes that one guest may span: the width of a [`NodeSet`].
pub const NODES_MAX: usize = 32;

/// A guest frame number: guest-physical address divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Gfn(pub u64);

impl Gfn {
    /// The frame that holds guest-physical address `gpa`.
    pub const fn containing(gpa: u64) -> Self {
        Gfn(gpa >> PAGE_SHIFT)
    }

    /// The guest-physical address of the frame's first byte.
    pub const fn gpa(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The extent that holds this frame.
    pub const fn extent(self) -> Extent {
        Extent(self.0 / EXTENT_PAGES)
    }
}

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn {:#x}", self.0)
    }
}

/// An aligned run of [`EXTENT_PAGES`] frames, numbered by address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Extent(pub u64);

impl Extent {
    /// The first frame of the extent.
    pub const fn first(self) -> Gfn {
        Gfn(self.0 * EXTENT_PAGES)
    }

    /// All frames of the extent, in order.
    pub fn pages(self) -> impl Iterator<Item = Gfn> {
        let first = self.first().0;
        (first..first + EXTENT_PAGES).map(Gfn)
    }
}

/// Frames one behind the other, all in one extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    first: Gfn,
    pages: u64,
}

impl Run {
    /// The first frame.
    pub const fn first(self) -> Gfn {
        self.first
    }

    /// How many there are.
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// Their length.
    pub const fn bytes(self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Gfn> {
        (self.first.0..self.first.0 + self.pages).map(Gfn)
    }

    /// Takes the frame in if it is the next one, in the same extent; whether it is.
    pub fn grow(&mut self, gfn: Gfn) -> bool {
        let next = gfn.0 == self.first.0 + self.pages && gfn.extent() == self.first.extent();
        self.pages += u64::from(next);
        next
    }
}

impl From<Gfn> for Run {
    fn from(first: Gfn) -> Self {
        Run { first, pages: 1 }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "extent {:#x}", self.0)
    }
}

/// A node of one guest: its place in the guest's list of hosts, from 0. Node 0 is the home node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u8);

impl NodeId {
    /// The node where the guest's devices live.
    pub const HOME: NodeId = NodeId(0);

    /// The node's place as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// Most pagers of one node.
pub const SHARDS_MAX: usize = 8;

/// A pager's share of guest memory, the same on all nodes: its place among the node's pagers, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Shard(pub u8);

impl Shard {
    /// The first; the only one where a node has one pager.
    pub const FIRST: Shard = Shard(0);

    /// The shard's place as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// A set of nodes, such as those that hold a copy of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct NodeSet(u32);

impl NodeSet {
    /// The empty set.
    pub const EMPTY: NodeSet = NodeSet(0);

    /// The set of `node` alone.
    pub fn only(node: NodeId) -> Self {
        let mut set = NodeSet::EMPTY;
        set.insert(node);
        set
    }

    /// The nodes whose bits are set in `bits`, the lowest bit for node 0.
    pub const fn from_bits(bits: u32) -> Self {
        NodeSet(bits)
    }

    /// The inverse of [`NodeSet::from_bits`].
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether every node of `self` is in `other` too.
    pub const fn is_subset_of(self, other: NodeSet) -> bool {
        self.0 & !other.0 == 0
    }

    /// Adds `node`.
    ///
    /// # Panics
    /// If `node` is not below [`NODES_MAX`]; node ids are checked where they enter.
    pub fn insert(&mut self, node: NodeId) {
        assert!(node.index() < NODES_MAX, "{node} is out of range");
        self.0 |= 1 << node.0;
    }

    /// Takes `node` out; nothing happens if it is not in.
    pub fn remove(&mut self, node: NodeId) {
        if node.index() < NODES_MAX {
            self.0 &= !(1 << node.0);
        }
    }

    /// Whether `node` is in the set.
    pub fn contains(self, node: NodeId) -> bool {
        node.index() < NODES_MAX && self.0 & (1 << node.0) != 0
    }

    /// The set less `node`.
    #[must_use]
    pub fn without(mut self, node: NodeId) -> Self {
        self.remove(node);
        self
    }

    /// How many nodes are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no node is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The nodes, in order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..NODES_MAX as u8).map(NodeId).filter(move |&node| self.contains(node))
    }

    /// The lowest node, if any.
    pub fn first(self) -> Option<NodeId> {
        (!self.is_empty()).then(|| NodeId(self.0.trailing_zeros() as u8))
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|node| node.0)).finish()
    }
}
