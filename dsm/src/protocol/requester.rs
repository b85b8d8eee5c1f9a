//! The node as requester: faults and borrows, and what comes for them.

use super::homes::{Home, Term};
use super::node::{Node, Outbox};
use super::table::{ForPage, PageTable, Place, Rights};
use super::{Access, Action, Contents, Counters, Message, Micros, Txn, Violation};
use crate::ids::{Gfn, NodeId, NodeSet};

/// Most borrows of one page at a time, waiting ones included.
const LENT_MAX: u16 = u16::MAX;

/// A page has one transaction at a time: while this node owes its part in another's, its own request is not served.
const AFTER_THE_ORDER: &str = "it after the order for the page that this node has not obeyed yet";

/// Who waits for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// A vCPU: it tries again when it is woken, so nothing need be remembered.
    Guest,
    /// A device: it gets exactly one [`Action::Lend`].
    Device,
}

/// Borrows that wait for a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Borrows {
    read: u16,
    write: u16,
}

/// A request of this node's, from the fault until it is fulfilled.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Wanted {
    place: Place,
    /// Which of the page's homes was asked.
    term: Term,
    /// What the home was asked for.
    asked: Access,
    /// A write joined while a read was asked for: ask for that next.
    then_write: bool,
    borrows: Borrows,
    /// The transaction, once a message of it has come.
    txn: Option<Txn>,
    /// The grant has come, and needs so many acknowledgements.
    acks_needed: Option<u8>,
    /// Whose acknowledgements have come, before or after the grant.
    acks: NodeSet,
}

impl ForPage for Wanted {
    fn gfn(&self) -> Gfn {
        self.place.gfn
    }
}

impl Wanted {
    fn new(place: Place, asked: Access) -> Self {
        let (borrows, acks) = (Borrows::default(), NodeSet::EMPTY);
        let term = Term::default();
        Wanted { place, term, asked, then_write: false, borrows, txn: None, acks_needed: None, acks }
    }

    fn join(&mut self, access: Access, claim: Claim) {
        self.then_write |= access > self.asked;
        match (claim, access) {
            (Claim::Guest, _) => {}
            (Claim::Device, Access::Read) => self.borrows.read += 1,
            (Claim::Device, Access::Write) => self.borrows.write += 1,
        }
    }

    /// The page.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The home that was asked.
    pub fn asked_of(&self) -> Home {
        Home { node: self.place.home, term: self.term }
    }

    /// Whether this node's transaction is the one under way, so that nobody else's can be.
    pub fn is_being_served(&self) -> bool {
        self.txn.is_some()
    }

    fn check_txn(&self, kind: &'static str, from: NodeId, seen: Txn) -> Result<(), Violation> {
        match self.txn {
            Some(expected) if expected != seen => {
                let gfn = self.place.gfn;
                Err(Violation::Transaction { kind, gfn, from, seen, expected: Some(expected) })
            }
            _ => Ok(()),
        }
    }

    /// Lends the page to all who wait to borrow it for what `rights` allow.
    fn lend(&mut self, rights: Rights, pages: &mut PageTable, counters: &mut Counters, out: &mut Outbox<'_>) {
        for access in [Access::Read, Access::Write] {
            let waiting = match access {
                Access::Read => &mut self.borrows.read,
                Access::Write => &mut self.borrows.write,
            };
            if rights.allow(access) {
                for _ in 0..std::mem::take(waiting) {
                    lend(self.place, access, pages, counters, out);
                }
            }
        }
    }
}

#[cfg(test)]
impl Wanted {
    /// Whose acknowledgements have come.
    pub fn acks_mut(&mut self) -> &mut NodeSet {
        &mut self.acks
    }
}

fn lend(place: Place, access: Access, pages: &mut PageTable, counters: &mut Counters, out: &mut Outbox<'_>) {
    *pages.lent_mut(place) += 1;
    counters.lends += 1;
    out.act(Action::Lend { gfn: place.gfn, access });
}

impl Node {
    /// The guest touched a page that it may not.
    pub(super) fn fault(
        &mut self,
        now: Micros,
        place: Place,
        access: Access,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        match self.pages.rights(place).access() {
            Some(rights) if rights >= access => {
                self.counters.spurious += 1;
                out.act(Action::Wake { gfn: place.gfn, rights });
                Ok(())
            }
            _ => self.want(now, place, access, Claim::Guest, out),
        }
    }

    /// A device wants to hold a page.
    pub(super) fn borrow(
        &mut self,
        now: Micros,
        place: Place,
        access: Access,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let gfn = place.gfn;
        let waiting = self.wanted.get(gfn).map_or(0, |wanted| wanted.borrows.read + wanted.borrows.write);
        if LENT_MAX - waiting <= self.pages.page(place).lent {
            return Err(Violation::TooManyBorrows { gfn, limit: LENT_MAX });
        }
        if self.pages.rights(place).allow(access) {
            lend(place, access, &mut self.pages, &mut self.counters, out);
            return Ok(());
        }
        self.want(now, place, access, Claim::Device, out)
    }

    /// Joins the request that is out for the page, or sends one.
    pub(super) fn want(
        &mut self,
        now: Micros,
        place: Place,
        access: Access,
        claim: Claim,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        if let Some(wanted) = self.wanted.get_mut(place.gfn) {
            wanted.join(access, claim);
            self.counters.joined += 1;
            return Ok(());
        }
        self.check_room(place.gfn)?;
        let mut wanted = Wanted::new(place, access);
        wanted.join(access, claim);
        self.ask(now, wanted, out);
        Ok(())
    }

    /// Sends a request.
    fn ask(&mut self, now: Micros, mut wanted: Wanted, out: &mut Outbox<'_>) {
        let Wanted { place, asked, .. } = wanted;
        wanted.term = self.homes.get(place.extent).term;
        let page = self.pages.page(place);
        if page.rights == Rights::None {
            let mut history = page.history;
            if self.leases.refetch(&mut history, page.since, now) {
                self.counters.lease_extensions += 1;
            }
            if history != page.history {
                *self.pages.history_mut(place) = history;
            }
        }
        let turn = self.leases.turn(now, self.wanted.len() > 0);
        self.wanted.put(wanted);
        let held = page.rights == Rights::Read;
        out.send(place.home, Message::Request { gfn: place.gfn, access: asked, held, turn });
    }

    /// Asks the page's new home for what the old one was asked for.
    pub(super) fn ask_again(&mut self, now: Micros, place: Place, out: &mut Outbox<'_>) {
        let turn = self.leases.turn(now, true);
        let held = self.pages.rights(place) == Rights::Read;
        let term = self.homes.get(place.extent).term;
        let Some(wanted) = self.wanted.get_mut(place.gfn) else { return };
        (wanted.place, wanted.term) = (place, term);
        let access = wanted.asked;
        out.send(place.home, Message::Request { gfn: place.gfn, access, held, turn });
    }

    /// The home gives us the whole extent of a page that we asked for.
    pub(super) fn extent_granted(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let gfn = place.gfn;
        let kind = "GrantExtent";
        let wanted = self.wanted.get(gfn).ok_or(Violation::Unasked { kind, gfn, from })?;
        if wanted.is_being_served() || !self.pages.is_bare(place) {
            let expected = "it only for an extent of which this node has nothing";
            return Err(Violation::Unexpected { kind, gfn, from, expected });
        }
        self.pages.own(place.extent, now);
        match place.home == self.me {
            true => self.counters.first_touches_local += 1,
            false => self.counters.first_touches_remote += 1,
        }
        out.act(Action::OwnExtent { extent: gfn.extent() });
        // Requests for other pages of the extent are overtaken: their answers are still to come, but who waits
        // for them has all it needs.
        for wanted in self.wanted.iter_mut().filter(|wanted| wanted.place.extent == place.extent) {
            wanted.then_write = false;
            wanted.lend(Rights::Write, &mut self.pages, &mut self.counters, out);
        }
        self.wanted.take(gfn);
        self.leases.fulfilled(now);
        Ok(())
    }

    /// The home says that a grant of the whole extent overtook our request.
    pub(super) fn already_ours(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let gfn = place.gfn;
        let kind = "AlreadyYours";
        let wanted = self.wanted.get(gfn).ok_or(Violation::Unasked { kind, gfn, from })?;
        let rights = self.pages.rights(place);
        if wanted.is_being_served() || !rights.allow(wanted.asked) {
            let expected = "it only where this node has the rights that it asked for";
            return Err(Violation::Rights { kind, gfn, from, seen: rights, expected });
        }
        self.counters.overtaken += 1;
        if let Some(allowed) = rights.access() {
            out.act(Action::Wake { gfn, rights: allowed });
        }
        self.fulfil(now, place, out);
        Ok(())
    }

    /// The grant, with or without the page.
    pub(super) fn granted(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        message: Message,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let Message::Grant { gfn, txn, rights, page, acks } = message else { return Ok(()) };
        self.check_grant(from, place, message)?;
        let Some(wanted) = self.wanted.get_mut(gfn) else { return Ok(()) };
        wanted.txn = Some(txn);
        wanted.acks_needed = Some(acks);
        let complete = wanted.acks.len() == usize::from(acks);
        // The bytes are current whether or not all acknowledgements are in; writing must wait for them.
        let rights_now = if complete { rights } else { Access::Read };
        if page {
            self.pages.set_rights(place, rights_now.into(), now);
            let contents = Contents::Received;
            out.act(Action::Install { gfn, rights: rights_now, contents, wake: complete });
        }
        match rights {
            Access::Read => self.counters.remote_reads += 1,
            Access::Write if page => self.counters.remote_writes += 1,
            Access::Write => self.counters.upgrades += 1,
        }
        if complete {
            self.complete(now, place, txn, out);
        }
        Ok(())
    }

    fn check_grant(&self, from: NodeId, place: Place, message: Message) -> Result<(), Violation> {
        let Message::Grant { gfn, txn, rights, page, acks } = message else { return Ok(()) };
        let kind = "Grant";
        let unexpected = |expected| Err(Violation::Unexpected { kind, gfn, from, expected });
        let wanted = self.wanted.get(gfn).ok_or(Violation::Unasked { kind, gfn, from })?;
        wanted.check_txn(kind, from, txn)?;
        if wanted.acks_needed.is_some() {
            return unexpected("one grant in a transaction");
        }
        if self.deferred.get(gfn).is_some() {
            return unexpected(AFTER_THE_ORDER);
        }
        if rights < wanted.asked || rights > wanted.asked && acks > 0 {
            return unexpected("the rights that were asked for, or more where nobody else has a copy");
        }
        let seen = self.pages.rights(place);
        match (page, rights) {
            (true, _) if seen != Rights::None => {
                let expected = "the page's bytes only for a node without the page";
                return Err(Violation::Rights { kind, gfn, from, seen, expected });
            }
            (false, Access::Read) => return unexpected("a read grant with the page's bytes"),
            (false, Access::Write) if seen != Rights::Read => {
                let expected = "the page's bytes for a node without a read copy";
                return Err(Violation::Rights { kind, gfn, from, seen, expected });
            }
            _ => {}
        }
        let most = match rights {
            Access::Read => 0,
            Access::Write => self.nodes - 1,
        };
        if acks > most || wanted.acks.len() > usize::from(acks) {
            return unexpected("as many acknowledgements as there are other copies");
        }
        if place.home == self.me {
            self.check_own_grant(from, message)?;
        }
        Ok(())
    }

    /// A grant for a page of this node's own directory must be the one that it ordered.
    fn check_own_grant(&self, from: NodeId, message: Message) -> Result<(), Violation> {
        let Message::Grant { gfn, txn, rights, acks, .. } = message else { return Ok(()) };
        let kind = "Grant";
        let ordered = self.directory.transaction(gfn).filter(|ordered| ordered.requester == self.me);
        let expected = ordered.map(|ordered| ordered.txn);
        if expected != Some(txn) {
            return Err(Violation::Transaction { kind, gfn, from, seen: txn, expected });
        }
        match ordered {
            Some(ordered)
                if (ordered.supplier, ordered.access) == (from, rights)
                    && ordered.invalidated.len() == usize::from(acks) =>
            {
                Ok(())
            }
            _ => {
                let expected = "it from the node that was told to supply the page, as it was told";
                Err(Violation::Unexpected { kind, gfn, from, expected })
            }
        }
    }

    /// One of the other copies is gone.
    pub(super) fn acknowledged(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        txn: Txn,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let (kind, gfn) = ("Invalidated", place.gfn);
        let unexpected = |expected| Err(Violation::Unexpected { kind, gfn, from, expected });
        let wanted = self.wanted.get_mut(gfn).ok_or(Violation::Unasked { kind, gfn, from })?;
        wanted.check_txn(kind, from, txn)?;
        if self.deferred.get(gfn).is_some() {
            return unexpected(AFTER_THE_ORDER);
        }
        if wanted.asked != Access::Write || wanted.acks.contains(from) {
            return unexpected("one acknowledgement of each other copy, for a write");
        }
        if place.home == self.me {
            let ordered = self.directory.transaction(gfn).filter(|ordered| ordered.requester == self.me);
            match ordered {
                Some(ordered) if ordered.txn == txn && ordered.invalidated.contains(from) => {}
                _ => return unexpected("it only from a node that was told to give its copy up"),
            }
        }
        wanted.txn = Some(txn);
        wanted.acks.insert(from);
        if wanted.acks_needed.map(usize::from) == Some(wanted.acks.len()) {
            self.complete(now, place, txn, out);
        }
        Ok(())
    }

    /// The grant and all acknowledgements of a transaction are in.
    fn complete(&mut self, now: Micros, place: Place, txn: Txn, out: &mut Outbox<'_>) {
        let gfn = place.gfn;
        let asked = self.wanted.get(gfn).map(|wanted| wanted.asked);
        if asked == Some(Access::Write) && self.pages.rights(place) == Rights::Read {
            self.pages.set_rights(place, Rights::Write, now);
            out.act(Action::Unprotect { gfn });
        }
        out.send(place.home, Message::Done { gfn, txn });
        self.fulfil(now, place, out);
    }

    /// The request for a page has been answered: lends the page, and asks for more if somebody needs more.
    fn fulfil(&mut self, now: Micros, place: Place, out: &mut Outbox<'_>) {
        let rights = self.pages.rights(place);
        self.leases.fulfilled(now);
        let Some(mut wanted) = self.wanted.take(place.gfn) else { return };
        wanted.lend(rights, &mut self.pages, &mut self.counters, out);
        if wanted.then_write && !rights.allow(Access::Write) {
            let again = Wanted { borrows: wanted.borrows, ..Wanted::new(place, Access::Write) };
            self.ask(now, again, out);
        }
    }
}
