//! A node is gone: its copies with it; and with an owner, the segment.

use super::segment::{Out, Role, Segment};
use super::{Action, Message, Outcome};
use crate::ids::NodeId;

/// What the loss of a node means for a segment.
enum Verdict {
    /// The owner has gone on, or will.
    GoesOn,
    /// The segment is lost. This node says so: others may wait for its word, because the last owner told them, and not
    /// this node, that it was to be the next one.
    Broken,
    /// The next owner was lost before it was one.
    Resume,
}

impl Segment {
    /// A peer is lost ([`Out::alive`] is without it already).
    pub fn lost(&mut self, node: NodeId, out: &mut Out<'_>) {
        match self.judge(node, out) {
            Verdict::GoesOn => self.do_without(node, out),
            Verdict::Resume => {
                self.do_without(node, out);
                if let Some(freeze) = self.freeze {
                    self.resume(freeze.term, out);
                }
            }
            Verdict::Broken => {
                out.tell_all(Message::Broken { segment: self.id() });
                self.break_up(out);
            }
        }
        self.settle(out);
    }

    fn judge(&self, node: NodeId, out: &Out<'_>) -> Verdict {
        let next = self.freeze.map(|freeze| freeze.to);
        match &self.role {
            Role::Broken => Verdict::GoesOn,
            Role::Owner(_) if next == Some(node) => Verdict::Resume,
            Role::Owner(_) => Verdict::GoesOn,
            Role::Departed if next == Some(node) => Verdict::Broken,
            Role::Arriving(..) if self.owner == node => Verdict::Broken,
            Role::User if next == Some(out.me) && self.owner == node => Verdict::Broken,
            Role::Departed | Role::Arriving(..) => Verdict::GoesOn,
            Role::User => match next {
                // One of the two will say how it ended.
                Some(next) if out.alive.contains(next) || out.alive.contains(self.owner) => Verdict::GoesOn,
                None if self.owner != node => Verdict::GoesOn,
                _ => Verdict::Broken,
            },
        }
    }

    fn do_without(&mut self, node: NodeId, out: &mut Out<'_>) {
        match &mut self.role {
            Role::Owner(served) => {
                if let Some(leaving) = &mut served.leaving {
                    leaving.asking.remove(node);
                }
                let over = served.forget(node);
                over.into_iter().for_each(|(page, by)| self.answer(by, page, out));
            }
            Role::Arriving(served, _) => {
                served.forget(node);
            }
            Role::User | Role::Departed | Role::Broken => {}
        }
    }

    /// The segment is lost: whoever waits for it is told.
    pub fn break_up(&mut self, out: &mut Out<'_>) {
        let segment = self.id();
        self.role = Role::Broken;
        self.freeze = None;
        self.needs.clear();
        self.crowded = false;
        out.counters.broken += 1;
        out.act(Action::Broken { segment });
        while let Some(ticket) = self.releases.pop() {
            if let Some(ticket) = ticket {
                out.act(Action::Released { segment, ticket, outcome: Outcome::Broken });
            }
        }
    }
}
