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
    let Some(home) = nodes.iter().position(|node| node.is_home(gfn)) else { return Judgement::Impossible };
    let node = &nodes[to];
    // What is under way for the page, as its home knows it.
    let under_way = nodes[home].directory.transaction(gfn);
    let by_the_home = home == LIAR.index();
    let possible = match *message {
        // Anybody may ask, once at a time.
        Message::Request { .. } => {
            let twice = under_way.is_some_and(|transaction| transaction.requester == LIAR);
            return if home == to && !twice { Judgement::Possible } else { Judgement::Impossible };
        }
        // Only who asked knows whether it has it all.
        Message::Done { txn, .. } => {
            home == to
                && under_way
                    .is_some_and(|transaction| transaction.requester == LIAR && transaction.txn == txn)
        }
        // Where the receiver keeps the directory it knows who was told what; elsewhere it has only the sender's word.
        Message::Grant { page: true, txn, rights, .. } => {
            let ordered = under_way.is_some_and(|transaction| {
                (transaction.requester, transaction.supplier, transaction.txn) == (me, LIAR, txn)
                    && Rights::from(transaction.access) == Rights::from(rights)
            });
            node.wanted.get(gfn).is_some() && node.rights(gfn) == Rights::None && (home != to || ordered)
        }
        Message::Invalidated { txn, .. } => {
            let ordered = under_way.is_some_and(|transaction| {
                (transaction.requester, transaction.txn) == (me, txn)
                    && transaction.invalidated.contains(LIAR)
            });
            node.wanted.get(gfn).is_some() && (home != to || ordered)
        }
        Message::GrantExtent { .. }
        | Message::Merge { .. }
        | Message::AlreadyYours { .. }
        | Message::Recall { .. }
        | Message::Invalidate { .. }
        | Message::Hurry { .. }
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
