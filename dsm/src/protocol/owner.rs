//! The node as holder: what it is told to give up, and when it does.

use super::node::{Node, Outbox};
use super::table::{ForPage, Place, Rights};
use super::{Access, Action, Message, Micros, Turn, Txn, Violation};
use crate::ids::{Gfn, NodeId};

/// What the page's home told this node to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Order {
    /// Send the page, and for a write give it up.
    Recall { access: Access, acks: u8 },
    /// Give the read copy up.
    Invalidate,
}

/// An order that is not obeyed yet, because the page is on lease or lent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Deferred {
    pub place: Place,
    txn: Txn,
    requester: NodeId,
    /// The earliest turn that waits for this.
    turn: Turn,
    order: Order,
}

impl ForPage for Deferred {
    fn gfn(&self) -> Gfn {
        self.place.gfn
    }
}

#[cfg(test)]
impl Deferred {
    /// What this node will say when it has obeyed, if it is to say that a copy is gone.
    pub fn acknowledgement(&self) -> Option<Action> {
        let message = Message::Invalidated { gfn: self.place.gfn, txn: self.txn };
        (self.order == Order::Invalidate).then_some(Action::Send { to: self.requester, message })
    }
}

impl Node {
    /// The page's home wants it given up, or sent to another node.
    pub(super) fn recalled(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        message: Message,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let (txn, requester, turn, order) = match message {
            Message::Recall { txn, requester, turn, access, acks, .. } => {
                (txn, requester, turn, Order::Recall { access, acks })
            }
            Message::Invalidate { txn, requester, turn, .. } => (txn, requester, turn, Order::Invalidate),
            _ => return Ok(()),
        };
        let deferred = Deferred { place, txn, requester, turn, order };
        self.check_order(from, message.kind(), &deferred)?;
        self.leases.heard(turn);
        let page = self.pages.page(place);
        let keeps_all =
            matches!(order, Order::Recall { access: Access::Read, .. }) && page.rights == Rights::Read;
        let lent = page.lent > 0;
        let leased = self.lease_end(&deferred) > now;
        if keeps_all || !(lent || leased) {
            self.obey(now, &deferred, out);
        } else {
            self.counters.lend_deferrals += u64::from(lent);
            self.counters.lease_deferrals += u64::from(leased && !lent);
            self.deferred.put(deferred);
        }
        Ok(())
    }

    fn check_order(&self, from: NodeId, kind: &'static str, deferred: &Deferred) -> Result<(), Violation> {
        let Deferred { place, requester, order, .. } = *deferred;
        let gfn = place.gfn;
        let unexpected = |expected| Err(Violation::Unexpected { kind, gfn, from, expected });
        if requester == self.me || requester.0 >= self.nodes {
            return Err(Violation::Requester { kind, gfn, from, requester });
        }
        if self.deferred.get(gfn).is_some() {
            return unexpected("no second order before the first is obeyed");
        }
        if self.wanted.get(gfn).is_some_and(|wanted| wanted.is_being_served()) {
            return unexpected("none while this node's own request is being served");
        }
        let seen = self.pages.rights(place);
        let expected = match (order, seen) {
            (_, Rights::None) => "a page that it holds",
            (Order::Invalidate, Rights::Write) => "a page that others hold too",
            (Order::Recall { access: Access::Read, acks: 1.. }, _) => {
                return unexpected("no acknowledgements for a read");
            }
            (Order::Recall { acks: 1.., .. }, Rights::Write) => {
                "no acknowledgements where nobody else has a copy"
            }
            (Order::Recall { acks, .. }, _) if acks >= self.nodes => {
                return unexpected("no more acknowledgements than nodes");
            }
            _ => return Ok(()),
        };
        Err(Violation::Rights { kind, gfn, from, seen, expected })
    }

    /// Does what an order says.
    fn obey(&mut self, now: Micros, deferred: &Deferred, out: &mut Outbox<'_>) {
        let Deferred { place, txn, requester, order, .. } = *deferred;
        let gfn = place.gfn;
        if self.pages.is_whole(place) {
            self.pages.split(place.extent);
            self.counters.splits += 1;
            out.act(Action::SplitExtent { extent: gfn.extent() });
        }
        match order {
            Order::Recall { access, acks } => {
                self.counters.recalls += 1;
                if self.pages.rights(place) == Rights::Write {
                    out.act(Action::Protect { gfn });
                    if access == Access::Read {
                        self.pages.downgrade(place);
                    }
                }
                out.send(requester, Message::Grant { gfn, txn, rights: access, page: true, acks });
                if access == Access::Write {
                    self.give_up(now, place, out);
                }
            }
            Order::Invalidate => {
                self.counters.invalidations += 1;
                // First out of the guest's reach, then said: the requester writes when it hears of it.
                self.give_up(now, place, out);
                out.send(requester, Message::Invalidated { gfn, txn });
            }
        }
    }

    fn give_up(&mut self, now: Micros, place: Place, out: &mut Outbox<'_>) {
        let collecting = self.is_collecting(place);
        self.pages.set_rights(place, Rights::None, now);
        self.leases.lost(self.pages.history_mut(place), now, collecting);
        out.act(Action::Discard { gfn: place.gfn });
    }

    /// The home says that a split extent is this node's as a whole again.
    pub(super) fn merged(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let gfn = place.gfn;
        let ordered = self.deferred.iter().any(|deferred| deferred.place.extent == place.extent);
        if ordered || !self.pages.is_all_writable(place) {
            let expected =
                "it only for a split extent of which this node has every page, and shall give none";
            return Err(Violation::Unexpected { kind: "Merge", gfn, from, expected });
        }
        self.pages.merge(place.extent, now);
        self.counters.merges += 1;
        out.act(Action::OwnExtent { extent: gfn.extent() });
        Ok(())
    }

    /// Whether this node waits for pages other than this.
    fn is_collecting(&self, place: Place) -> bool {
        self.wanted.len() > usize::from(self.wanted.get(place.gfn).is_some())
    }

    /// An earlier turn has come to wait for an order that may still be deferred.
    pub(super) fn hurried(&mut self, now: Micros, place: Place, txn: Txn, turn: Turn, out: &mut Outbox<'_>) {
        self.leases.heard(turn);
        let deferred = self.deferred.get_mut(place.gfn).filter(|deferred| deferred.txn == txn);
        if let Some(deferred) = deferred {
            if turn.is_before(deferred.turn) {
                deferred.turn = turn;
            }
            self.obey_due(now, out);
        }
    }

    /// When the order may be obeyed; `None` while the page is lent.
    pub(super) fn obeys_at(&self, deferred: &Deferred) -> Option<Micros> {
        (self.pages.page(deferred.place).lent == 0).then(|| self.lease_end(deferred))
    }

    fn lease_end(&self, deferred: &Deferred) -> Micros {
        let page = self.pages.page(deferred.place);
        let collecting = self.is_collecting(deferred.place);
        self.leases.expires(page.history, page.since, collecting, deferred.turn)
    }

    /// Obeys every order whose time has come.
    pub(super) fn obey_due(&mut self, now: Micros, out: &mut Outbox<'_>) {
        loop {
            let due = |deferred: &&Deferred| self.obeys_at(deferred).is_some_and(|at| at <= now);
            let Some(gfn) = self.deferred.iter().find(due).map(ForPage::gfn) else { return };
            if let Some(deferred) = self.deferred.take(gfn) {
                self.obey(now, &deferred, out);
            }
        }
    }

    /// A device gives a page back.
    pub(super) fn give_back(
        &mut self,
        now: Micros,
        place: Place,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let gfn = place.gfn;
        if self.pages.page(place).lent == 0 {
            return Err(Violation::NotLent { gfn });
        }
        *self.pages.lent_mut(place) -= 1;
        let due = |deferred: &&Deferred| self.obeys_at(deferred).is_some_and(|at| at <= now);
        if self.deferred.get(gfn).filter(due).is_some() {
            if let Some(deferred) = self.deferred.take(gfn) {
                self.obey(now, &deferred, out);
            }
        }
        Ok(())
    }
}
