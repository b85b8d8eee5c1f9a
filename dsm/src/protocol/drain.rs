//! A node comes, or goes: who is told, and how its pages are taken over.
//!
//! Who decides that a node leaves does this, in order ([`Event`](super::Event)):
//! 1. No vCPU and no device of it touches memory any more, and it has no request out.
//! 2. It hands all its extents over, until it is the home of none and no home is changing.
//! 3. Every other node drains it: each home asks, as if its own guest wanted to write, for every page that the node has.
//! 4. When all are clear of it and it knows itself that no home is changing, they dismiss it. Nothing that concerns it is on any link then but hints, and it can stop.
//!
//! A node joins in the reverse order: all admit it, it starts with nothing, and homes hand extents over to it.

use super::extent::ExtentEntry;
use super::node::{Node, Outbox};
use super::requester::Claim;
use super::table::Place;
use super::{Access, Micros, Violation};
use crate::ids::{Extent, NodeId, EXTENT_PAGES};

/// Most requests of this node's while it drains another.
const REQUESTS_AT_ONCE: usize = 32;

/// How far a drain has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Drain {
    node: NodeId,
    /// The next page to look at, by dense index.
    next: usize,
}

impl Node {
    /// The nodes of the guest, as far as this one has been told.
    pub fn members(&self) -> crate::ids::NodeSet {
        self.homes.members
    }

    /// Whether no extent's home is changing, as far as this node has a part in it.
    pub fn homes_rest(&self) -> bool {
        self.handovers.is_empty()
    }

    /// Whether nothing at this node concerns `node` any more: it is no home, has no page whose home is here, and is not
    /// waited for. Looks at every page's entry.
    pub fn is_clear_of(&self, node: NodeId) -> bool {
        let asked = self.wanted.iter().any(|wanted| wanted.asked_of().node == node);
        let is_home = self.homes.iter().any(|(_, home)| home.node == node);
        !asked && !is_home && self.handovers.is_empty() && !self.directory.concerns(node)
    }

    pub(super) fn drain(&mut self, node: NodeId) -> Result<(), Violation> {
        self.check_other(node)?;
        self.draining = Some(Drain { node, next: 0 });
        Ok(())
    }

    pub(super) fn admit(&mut self, node: NodeId) -> Result<(), Violation> {
        if node.0 >= self.nodes {
            return Err(Violation::Member { node });
        }
        self.homes.members.insert(node);
        Ok(())
    }

    pub(super) fn dismiss(&mut self, node: NodeId) -> Result<(), Violation> {
        self.check_other(node)?;
        if !self.is_clear_of(node) {
            return Err(Violation::Member { node });
        }
        self.homes.members.remove(node);
        Ok(())
    }

    fn check_other(&self, node: NodeId) -> Result<(), Violation> {
        match node != self.me && self.homes.members.contains(node) {
            true => Ok(()),
            false => Err(Violation::Member { node }),
        }
    }

    /// Asks for more pages of the node that is drained, if there are any.
    pub(super) fn drain_on(&mut self, now: Micros, out: &mut Outbox<'_>) -> Result<(), Violation> {
        while self.wanted.len() < REQUESTS_AT_ONCE {
            let Some(drain) = self.draining else { return Ok(()) };
            if self.directory.awaits(drain.node) {
                // What it has got last is not in the directory yet.
                return Ok(());
            }
            match self.next_to_drain(drain) {
                Some((place, index)) => {
                    self.draining = Some(Drain { next: index + 1, ..drain });
                    self.want(now, place, Access::Write, Claim::Guest, out)?;
                }
                None => self.draining = None,
            }
        }
        Ok(())
    }

    fn next_to_drain(&self, drain: Drain) -> Option<(Place, usize)> {
        let extent_pages = EXTENT_PAGES as usize;
        let mut next = drain.next;
        while let Some(first) = self.extent_at(next / extent_pages).map(Extent::first) {
            let end = (next / extent_pages + 1) * extent_pages;
            let place = self.place(first).ok().filter(|place| place.home == self.me);
            if let Some(place) = place {
                let has = |page: usize| match self.directory.extent(place.extent) {
                    ExtentEntry::Untouched => false,
                    ExtentEntry::Whole(owner) => *owner == drain.node,
                    ExtentEntry::Split(split) => split.entry(page).holders().contains(drain.node),
                };
                if let Some(index) = (next..end).find(|index| has(index % extent_pages)) {
                    let gfn = crate::ids::Gfn(first.0 + (index % extent_pages) as u64);
                    return Some((Place { gfn, page: index % extent_pages, ..place }, index));
                }
            }
            next = end;
        }
        None
    }
}

#[cfg(test)]
impl Node {
    /// The next page of a node that is drained is left out.
    pub fn skip_one_to_drain(&mut self) {
        if let Some(drain) = &mut self.draining {
            drain.next += 1;
        }
    }
}
