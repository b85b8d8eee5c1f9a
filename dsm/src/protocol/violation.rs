//! What a peer, or the driver, did against the protocol.

use thiserror::Error;

use super::table::Rights;
use super::{Term, Txn};
use crate::ids::{Gfn, NodeId};

/// An event that the protocol does not allow. The node's state is as before the event; the guest cannot go
/// on, because two nodes no longer agree who owns what.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// The event is about a frame that is no RAM of this guest.
    #[error("{gfn} is not in the guest's memory")]
    NotRam {
        /// The frame.
        gfn: Gfn,
    },
    /// The sender is this node itself, or no node of the guest.
    #[error("a {kind} for {gfn} came from {from}, expected one of the {nodes} nodes other than this")]
    Sender {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// How many nodes the guest has.
        nodes: u8,
    },
    /// Something that only a page's home answers was sent to another node.
    #[error("{from} sent a {kind} for {gfn} here, expected it to go to the page's home, {home}")]
    NotHome {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// The page's home.
        home: NodeId,
    },
    /// Something that only a page's home may say came from another node.
    #[error("a {kind} for {gfn} came from {from}, expected it from the page's home, {home}")]
    NotFromHome {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// The page's home.
        home: NodeId,
    },
    /// A recall or invalidation names a requester that cannot be one.
    #[error("{from} sent a {kind} for {gfn} on behalf of {requester}, expected a node other than this")]
    Requester {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// Who was named.
        requester: NodeId,
    },
    /// An answer came to a question that was not asked.
    #[error("{from} sent a {kind} for {gfn}, expected none: no request for the page is out")]
    Unasked {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
    },
    /// A node asked twice for one page.
    #[error("{from} asked for {gfn}, expected no second request before the first is done")]
    AskedTwice {
        /// The page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
    },
    /// A node has too many requests out.
    #[error("{from} asked for {gfn}, expected at most {limit} requests at a time")]
    Flood {
        /// The page.
        gfn: Gfn,
        /// The sender; this node itself if the driver reported too many faults.
        from: NodeId,
        /// How many may be out.
        limit: usize,
    },
    /// The message belongs to another transaction than the one under way.
    #[error("{from} sent a {kind} for {gfn} in transaction {seen:?}, expected {expected:?}")]
    Transaction {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// The transaction that it names.
        seen: Txn,
        /// The one under way, if any.
        expected: Option<Txn>,
    },
    /// This node's rights on the page do not fit the message.
    #[error("{from} sent a {kind} for {gfn}, of which this node has {seen:?}; expected {expected}")]
    Rights {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// What this node may do with the page.
        seen: Rights,
        /// What the message needs.
        expected: &'static str,
    },
    /// The message says something that cannot be, as things stand.
    #[error("{from} sent a {kind} for {gfn}; expected {expected}")]
    Unexpected {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// What would have been right.
        expected: &'static str,
    },
    /// A message about an extent's home is not of the term that comes next.
    #[error("{from} sent a {kind} for {gfn} of {seen:?}, expected the one after {known:?}")]
    WrongTerm {
        /// What was sent.
        kind: &'static str,
        /// About which page.
        gfn: Gfn,
        /// The sender.
        from: NodeId,
        /// The term that it names.
        seen: Term,
        /// The present home's.
        known: Term,
    },
    /// The extent cannot get another home now, or not this one
    /// ([`Node::may_hand_over`](super::Node::may_hand_over)).
    #[error("{gfn} and its extent cannot be handed over to {to} now")]
    NotHandedOver {
        /// The extent's first page.
        gfn: Gfn,
        /// Who was to be the home.
        to: NodeId,
    },
    /// This node cannot be admitted, drained or dismissed.
    #[error("{node} is this node or none of the guest's, or still has a part in something")]
    Member {
        /// The node.
        node: NodeId,
    },
    /// The driver returned a page that was not lent.
    #[error("{gfn} was returned, but it is not lent")]
    NotLent {
        /// The page.
        gfn: Gfn,
    },
    /// The driver borrows one page more often than can be counted.
    #[error("{gfn} is lent {limit} times already")]
    TooManyBorrows {
        /// The page.
        gfn: Gfn,
        /// The most that can be counted.
        limit: u16,
    },
    /// A message of this node to itself was refused: a bug in the protocol core, not a peer's doing. The only
    /// violation after which the state may have changed.
    #[error("the protocol core contradicts itself: {0}")]
    Internal(Box<Violation>),
}

impl Violation {
    /// [`Violation::Unexpected`].
    pub(super) fn unexpected(kind: &'static str, gfn: Gfn, from: NodeId, expected: &'static str) -> Self {
        Violation::Unexpected { kind, gfn, from, expected }
    }
}
