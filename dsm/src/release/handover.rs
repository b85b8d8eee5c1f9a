//! The ownership of a segment moves.
//!
//! The owner has everybody stop asking (`Freeze`, `Frozen`), so that no message about the segment is under way but its own.
//! Then it hands the next owner each page that is not zeros, without bytes where that one has a copy, and says that
//! this was all. From `HandedOver` on the next owner is the owner; it tells all (`Thaw`). Guests go on reading and writing
//! the copies that they have; what needs the owner waits.
//!
//! Why it is safe when nodes are lost: before `HandedOver` is sent the old owner alone decides, and goes on as owner if the
//! next one is lost. After that the next one alone decides; if it is lost, so is the segment, even if the old owner could
//! go on, since others may have released to the next one already.

use super::segment::{Held, Out, Role, Segment};
use super::serve::Served;
use super::{Access, Action, Contents, Message, PageIndex, Term, Violation};
use crate::ids::{NodeId, NodeSet};

/// Pages that are handed over and not acknowledged yet: 256 KiB under way.
const WINDOW: u32 = 64;

/// A move of the ownership, as all nodes see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Freeze {
    pub term: Term,
    /// The next owner.
    pub to: NodeId,
    /// This node has said that nothing of its own is under way.
    pub told: bool,
}

/// A move of the ownership, as the owner sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leaving {
    /// Who may still have a question under way.
    pub asking: NodeSet,
    /// The next page to hand over.
    pub next: PageIndex,
    /// Handed over and not acknowledged.
    pub unacknowledged: u32,
}

impl Segment {
    /// The policy wants `to` to be the owner.
    pub fn transfer(&mut self, to: NodeId, out: &mut Out<'_>) {
        let segment = self.id();
        let possible = to != out.me && out.alive.contains(to) && !self.is_frozen();
        let asking = out.alive.without(out.me);
        let term = self.term.next();
        match self.served() {
            Some(served) if possible => {
                served.leaving = Some(Leaving { asking, next: PageIndex(0), unacknowledged: 0 });
            }
            _ => {
                out.counters.transfers_refused += 1;
                return;
            }
        }
        self.freeze = Some(Freeze { term, to, told: true });
        out.tell_all(Message::Freeze { segment, term, to });
        self.settle(out);
    }

    /// The owner wants nothing new to be asked.
    pub fn freeze(&mut self, from: NodeId, term: Term, to: NodeId) -> Result<(), Violation> {
        let (kind, segment) = ("Freeze", self.id());
        if self.is_frozen() || to == from {
            let expected = "one move at a time, to another node";
            return Err(Violation::Unexpected { kind, segment, from, expected });
        }
        if term != self.term.next() {
            let expected = Some(self.term.next());
            return Err(Violation::WrongTerm { kind, segment, from, seen: term, expected });
        }
        self.freeze = Some(Freeze { term, to, told: false });
        Ok(())
    }

    /// Says that nothing is under way, once that is so.
    pub fn report_frozen(&mut self, out: &mut Out<'_>) {
        let segment = self.id();
        if self.needs.values().any(super::local::Need::is_asking) {
            return;
        }
        let Some(freeze) = self.freeze.as_mut().filter(|freeze| !freeze.told) else { return };
        freeze.told = true;
        let Freeze { term, to, .. } = *freeze;
        if to == out.me {
            self.role = Role::Arriving(Served::new(self.spec.pages), PageIndex(0));
        }
        out.send(self.owner, Message::Frozen { segment, term });
    }

    /// A node has nothing under way. A late word about a move that was abandoned says nothing.
    pub fn frozen(&mut self, from: NodeId, term: Term) {
        if self.freeze.is_some_and(|freeze| freeze.term == term) {
            if let Some(leaving) = self.leaving() {
                leaving.asking.remove(from);
            }
        }
    }

    /// Hands over what can be handed over now.
    pub fn hand_on(&mut self, out: &mut Out<'_>) {
        let segment = self.id();
        let Some(Freeze { term, to, .. }) = self.freeze else { return };
        let Role::Owner(Served { copies, rounds, leaving: Some(leaving) }) = &mut self.role else { return };
        if !rounds.is_empty() || !leaving.asking.is_empty() {
            return;
        }
        while leaving.unacknowledged < WINDOW && leaving.next.index() < copies.len() {
            let page = leaving.next;
            leaving.next = PageIndex(page.0 + 1);
            let (here, there) = (self.held[page.index()] != Held::None, copies[page.index()]);
            if !here && there.is_empty() {
                continue;
            }
            let mut copies = there.without(to);
            if here {
                copies.insert(out.me);
            }
            leaving.unacknowledged += 1;
            out.send(to, Message::Hand { segment, page, copies, bytes: !there.contains(to) });
        }
        if leaving.unacknowledged == 0 {
            out.counters.handed_over += 1;
            out.send(to, Message::HandedOver { segment, term });
            self.role = Role::Departed;
        }
    }

    /// This node is handed a page.
    pub fn handed(
        &mut self,
        from: NodeId,
        page: PageIndex,
        copies: NodeSet,
        bytes: bool,
        out: &mut Out<'_>,
    ) -> Result<(), Violation> {
        let (kind, segment, seen) = ("Hand", self.id(), self.held(page));
        let Role::Arriving(served, next) = &mut self.role else {
            let expected = "it only at the node that is to become the owner, when that asks nothing more";
            return Err(Violation::Unexpected { kind, segment, from, expected });
        };
        if page < *next || copies.contains(out.me) {
            let expected = "each page once, in order, with the copies of others";
            return Err(Violation::Unexpected { kind, segment, from, expected });
        }
        if bytes == seen.rights().is_some() {
            let expected = if bytes { "none of it" } else { "a copy" };
            return Err(Violation::Holds { kind, segment, page, from, seen, expected });
        }
        *next = PageIndex(page.0 + 1);
        let living = copies.iter().filter(|node| out.alive.contains(*node));
        living.for_each(|node| served.copies[page.index()].insert(node));
        if bytes {
            self.put_in(page, Access::Read, Contents::Received, out);
        }
        out.send(from, Message::Taken { segment, page });
        self.advance(page, out);
        Ok(())
    }

    /// The next owner has a page.
    pub fn taken(&mut self, from: NodeId) -> Result<(), Violation> {
        let (kind, segment) = ("Taken", self.id());
        let to = self.freeze.map(|freeze| freeze.to);
        let leaving = self.leaving().filter(|leaving| leaving.unacknowledged > 0 && to == Some(from));
        let Some(leaving) = leaving else {
            let expected = "one for each page that was handed over";
            return Err(Violation::Unexpected { kind, segment, from, expected });
        };
        leaving.unacknowledged -= 1;
        Ok(())
    }

    /// This node has been handed everything.
    pub fn handed_over(&mut self, from: NodeId, term: Term, out: &mut Out<'_>) -> Result<(), Violation> {
        let (kind, segment) = ("HandedOver", self.id());
        let expected = self.freeze.map(|freeze| freeze.term);
        if expected != Some(term) {
            return Err(Violation::WrongTerm { kind, segment, from, seen: term, expected });
        }
        let Role::Arriving(served, _) = &mut self.role else {
            let expected = "it only at the node that is to become the owner";
            return Err(Violation::Unexpected { kind, segment, from, expected });
        };
        let served = std::mem::replace(served, Served::new(0));
        self.role = Role::Owner(served);
        out.tell_all(Message::Thaw { segment, term });
        self.go_on(term, out.me, out);
        Ok(())
    }

    /// The owner, new or old, says that it is.
    pub fn thaw(&mut self, from: NodeId, term: Term, out: &mut Out<'_>) -> Result<(), Violation> {
        let (kind, segment) = ("Thaw", self.id());
        let Some(freeze) = self.freeze.filter(|freeze| freeze.term == term) else {
            let expected = self.freeze.map(|freeze| freeze.term);
            return Err(Violation::WrongTerm { kind, segment, from, seen: term, expected });
        };
        let by_last = from == self.owner && self.role == Role::User;
        let by_next = from == freeze.to && freeze.told && matches!(self.role, Role::User | Role::Departed);
        if !by_last && !by_next {
            let expected = "it from the segment's last or next owner, once, at the other nodes";
            return Err(Violation::Unexpected { kind, segment, from, expected });
        }
        self.role = Role::User;
        self.go_on(term, from, out);
        Ok(())
    }

    /// The next owner was lost before it was one.
    pub fn resume(&mut self, term: Term, out: &mut Out<'_>) {
        let segment = self.id();
        out.counters.transfers_abandoned += 1;
        if let Some(served) = self.served() {
            served.leaving = None;
        }
        out.tell_all(Message::Thaw { segment, term });
        self.go_on(term, out.me, out);
    }

    /// The segment has an owner that can be asked.
    fn go_on(&mut self, term: Term, owner: NodeId, out: &mut Out<'_>) {
        (self.term, self.owner, self.freeze) = (term, owner, None);
        out.act(Action::Owned { segment: self.id(), owner });
        let pages: Vec<PageIndex> = self.needs.keys().copied().collect();
        pages.into_iter().for_each(|page| self.advance(page, out));
        self.crowded = true;
    }
}
