//! The owner's side: who has copies of which page, and whose changes wait for copies to be thrown away.

use std::collections::BTreeMap;

use super::handover::Leaving;
use super::segment::{Held, Out, Segment};
use super::{Access, Action, Contents, Message, PageIndex, Violation};
use crate::ids::{NodeId, NodeSet};

/// Changes that are merged; copies without them are being thrown away.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Round {
    /// Whose changes.
    pub by: NodeId,
    /// Whose copies are not known to be gone yet.
    pub waits: NodeSet,
}

/// What an owner knows of its segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Served {
    /// By page, the nodes other than this that have a copy and were not told to throw it away.
    pub copies: Vec<NodeSet>,
    /// Under way, by page; of each node at most one for a page.
    pub rounds: BTreeMap<PageIndex, Vec<Round>>,
    /// The ownership is on its way to another node.
    pub leaving: Option<Leaving>,
}

impl Served {
    /// Nobody has anything.
    pub fn new(pages: u32) -> Self {
        Served { copies: vec![NodeSet::EMPTY; pages as usize], rounds: BTreeMap::new(), leaving: None }
    }

    /// Whether no round is under way.
    pub fn is_idle(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Nodes that were told to throw their copy of the page away and have not said that it is gone.
    pub fn going(&self, page: PageIndex) -> NodeSet {
        let mut going = NodeSet::EMPTY;
        for round in self.rounds.get(&page).into_iter().flatten() {
            round.waits.iter().for_each(|node| going.insert(node));
        }
        going
    }

    /// A copy is gone; gives whose changes are thereby seen by all, or `None` if this copy was not waited for.
    fn gone(&mut self, page: PageIndex, node: NodeId) -> Option<Vec<NodeId>> {
        if !self.going(page).contains(node) {
            return None;
        }
        let rounds = self.rounds.get_mut(&page)?;
        rounds.iter_mut().for_each(|round| round.waits.remove(node));
        let over = rounds.iter().filter(|round| round.waits.is_empty()).map(|round| round.by).collect();
        rounds.retain(|round| !round.waits.is_empty());
        if rounds.is_empty() {
            self.rounds.remove(&page);
        }
        Some(over)
    }

    /// A node is lost, and with it its copies; gives whose changes to which page are thereby seen by all.
    pub fn forget(&mut self, node: NodeId) -> Vec<(PageIndex, NodeId)> {
        self.copies.iter_mut().for_each(|copies| copies.remove(node));
        let pages: Vec<PageIndex> = self.rounds.keys().copied().collect();
        let over = |page| self.gone(page, node).unwrap_or_default().into_iter().map(move |by| (page, by));
        pages.into_iter().flat_map(over).collect()
    }
}

impl Segment {
    /// A node asks for a page.
    pub fn fetched(&mut self, from: NodeId, page: PageIndex, out: &mut Out<'_>) -> Result<(), Violation> {
        let segment = self.id();
        let Some(served) = self.served() else { return Ok(()) };
        // Links keep the order: a node that has thrown its copy away has said so before it asks again.
        if served.copies[page.index()].contains(from) || served.going(page).contains(from) {
            let expected = "it only from a node without a copy";
            return Err(Violation::Unexpected { kind: "Fetch", segment, from, expected });
        }
        served.copies[page.index()].insert(from);
        out.counters.copies_sent += 1;
        out.send(from, Message::Page { segment, page });
        Ok(())
    }

    /// Whether a node may send changes of the page now.
    pub fn check_diff(&mut self, from: NodeId, page: PageIndex) -> Result<(), Violation> {
        let segment = self.id();
        let rounds = self.served().and_then(|served| served.rounds.get(&page));
        match rounds.into_iter().flatten().any(|round| round.by == from) {
            false => Ok(()),
            true => {
                let expected = "no changes of a page before the last ones are acknowledged";
                Err(Violation::Unexpected { kind: "Diff", segment, from, expected })
            }
        }
    }

    /// A node releases changes.
    pub fn changed(&mut self, from: NodeId, page: PageIndex, out: &mut Out<'_>) -> Result<(), Violation> {
        self.check_diff(from, page)?;
        let segment = self.id();
        if self.held(page) == Held::None {
            self.put_in(page, Access::Read, Contents::Zero, out);
        }
        out.counters.diffs_applied += 1;
        out.act(Action::Apply { segment, page });
        if !self.throw_copies_away(page, from, out) {
            self.answer(from, page, out);
        }
        self.advance(page, out);
        Ok(())
    }

    /// Has all copies but this node's and `by`'s thrown away; gives whether there are any to wait for.
    ///
    /// Copies that were on their way out already lack the new changes too: they are waited for as well.
    pub fn throw_copies_away(&mut self, page: PageIndex, by: NodeId, out: &mut Out<'_>) -> bool {
        let segment = self.id();
        let Some(served) = self.served() else { return false };
        let mut waits = served.going(page);
        let copies = std::mem::take(&mut served.copies[page.index()]);
        for node in copies.iter() {
            if node == by {
                served.copies[page.index()].insert(node);
            } else {
                waits.insert(node);
                out.counters.invalidations_sent += 1;
                out.send(node, Message::Invalidate { segment, page });
            }
        }
        waits.remove(by);
        let any = !waits.is_empty();
        if any {
            served.rounds.entry(page).or_default().push(Round { by, waits });
        }
        any
    }

    /// A copy is gone.
    pub fn invalidated(&mut self, from: NodeId, page: PageIndex, out: &mut Out<'_>) -> Result<(), Violation> {
        let (kind, segment) = ("Invalidated", self.id());
        let over = self.served().and_then(|served| served.gone(page, from));
        let over = over.ok_or(Violation::Unasked { kind, segment, page, from })?;
        over.into_iter().for_each(|by| self.answer(by, page, out));
        Ok(())
    }

    /// Changes are merged and no copy is without them.
    pub fn answer(&mut self, by: NodeId, page: PageIndex, out: &mut Out<'_>) {
        let segment = self.id();
        if by == out.me {
            if let Some(release) = self.needs.get_mut(&page).and_then(|need| need.diffing.take()) {
                self.releases.page_done(release);
            }
            self.advance(page, out);
        } else if out.alive.contains(by) {
            out.send(by, Message::Applied { segment, page });
        }
    }
}
