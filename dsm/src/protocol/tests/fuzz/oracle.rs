//! What of the liar's words can be true: said from outside, by the state of all honest nodes, without the checks that are
//! under test.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::world::LIAR;
use crate::ids::NodeId;
use crate::protocol::{Message, Node, Rights};

/// What may become of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It must be refused.
    Impossible,
    /// It may be taken, and nothing of the honest rests on it.
    Possible,
    /// It may be taken, and if it is a lie nobody can know: the page's coherence rests on it from here on.
    OnItsWord,
}

/// Judges a message of the liar's to node `to`.
pub fn judge(nodes: &[Node], to: usize, message: &Message) -> Judgement {
    let (gfn, me) = (message.gfn(), NodeId(to as u8));
    let node = &nodes[to];
    // While the home changes, not all know the same.
    let Some(known) = node.home_of(gfn) else { return Judgement::Impossible };
    let is_home = known.node == me;
    // What is under way for the page, where the receiver keeps the directory.
    let under_way = node.directory.transaction(gfn).filter(|_| is_home);
    let by_the_home = known.node == LIAR;
    let (untold, arriving) = node.awaits_home_known(gfn, LIAR);
    let possible = match *message {
        // Anybody may ask, once at a time: the home, the old one until the asker has said that it knows the next, and the next one
        // from then on.
        Message::Request { .. } => {
            let twice = under_way.is_some_and(|transaction| transaction.requester == LIAR);
            let asked = is_home || untold.is_some() || arriving.is_some_and(|(_, knows)| knows);
            return if asked && !twice { Judgement::Possible } else { Judgement::Impossible };
        }
        // Who says it too early to the next home harms itself alone. Whom the change does not concern cannot know that.
        Message::HomeKnown { term, .. } => {
            if untold == Some(term) || arriving == Some((term, false)) {
                return Judgement::Possible;
            }
            !is_home && arriving.is_none() && term == known.term.next()
        }
        // Only the home says so that was asked, and not before it has said that there is another.
        Message::Moved { .. } => node.wanted.get(gfn).is_some_and(|wanted| {
            let asked = wanted.asked_of();
            asked.node == LIAR && asked.term < known.term
        }),
        // Only who asked knows whether it has it all.
        Message::Done { txn, .. } => {
            under_way.is_some_and(|transaction| transaction.requester == LIAR && transaction.txn == txn)
        }
        // Where the receiver keeps the directory it knows who was told what; elsewhere it has only the sender's word.
        Message::Grant { page: true, txn, rights, .. } => {
            let ordered = under_way.is_some_and(|transaction| {
                (transaction.requester, transaction.supplier, transaction.txn) == (me, LIAR, txn)
                    && Rights::from(transaction.access) == Rights::from(rights)
            });
            node.wanted.get(gfn).is_some() && node.rights(gfn) == Rights::None && (!is_home || ordered)
        }
        Message::Invalidated { txn, .. } => {
            let ordered = under_way.is_some_and(|transaction| {
                (transaction.requester, transaction.txn) == (me, txn)
                    && transaction.invalidated.contains(LIAR)
            });
            node.wanted.get(gfn).is_some() && (!is_home || ordered)
        }
        Message::GrantExtent { .. }
        | Message::Merge { .. }
        | Message::AlreadyYours { .. }
        | Message::Recall { .. }
        | Message::Invalidate { .. }
        | Message::Hurry { .. }
        | Message::Directory { .. }
        | Message::DirectoryEntry { .. }
        | Message::NewHome { .. }
        | Message::Grant { page: false, .. } => by_the_home,
    };
    match possible {
        true => Judgement::OnItsWord,
        false => Judgement::Impossible,
    }
}

/// A number that stands for a value.
pub fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
