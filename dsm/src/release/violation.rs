//! What a peer, or the driver, did against the protocol.

use thiserror::Error;

use super::{Held, PageIndex, SegmentId, Term};
use crate::ids::NodeId;

/// An event that the protocol does not allow. The node's state is as before the event. If a peer is to blame the guest
/// cannot go on, because two nodes no longer agree who has what.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// The event is about a segment that is not open here.
    #[error("{segment} is not open")]
    NoSegment {
        /// The segment.
        segment: SegmentId,
    },
    /// The event is about a page beyond the segment's end.
    #[error("{segment} has {pages} pages, there is no {page}")]
    NoPage {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
        /// How many there are.
        pages: u32,
    },
    /// The segment is open already.
    #[error("{segment} is open already")]
    OpenTwice {
        /// The segment.
        segment: SegmentId,
    },
    /// A segment with such properties cannot be.
    #[error("{segment} cannot be opened: {expected} is needed, not {seen}")]
    Spec {
        /// The segment.
        segment: SegmentId,
        /// What must hold.
        expected: &'static str,
        /// What was given instead.
        seen: u64,
    },
    /// There are too many segments.
    #[error("{segment} cannot be opened: there are {limit} segments already")]
    TooManySegments {
        /// The segment.
        segment: SegmentId,
        /// The most there may be.
        limit: usize,
    },
    /// The segment is in use and cannot be closed.
    #[error("{segment} cannot be closed: {why}")]
    InUse {
        /// The segment.
        segment: SegmentId,
        /// What is not over yet.
        why: &'static str,
    },
    /// There are too many releases under way here.
    #[error("{segment} has {limit} releases under way already")]
    TooManyReleases {
        /// The segment.
        segment: SegmentId,
        /// The most there may be.
        limit: usize,
    },
    /// The node is no peer of this one, or was lost.
    #[error("{node} is none of the {nodes} nodes, this node itself, or lost")]
    NoPeer {
        /// The node.
        node: NodeId,
        /// How many nodes the guest has.
        nodes: u8,
    },
    /// Something that only an owner answers was sent to another node.
    #[error("{from} sent a {kind} for {segment} here, expected it to go to its owner, {owner}")]
    NotOwner {
        /// What was sent.
        kind: &'static str,
        /// About which segment.
        segment: SegmentId,
        /// The sender.
        from: NodeId,
        /// Who this node takes for the owner.
        owner: NodeId,
    },
    /// Something that only the owner may say came from another node.
    #[error("a {kind} for {segment} came from {from}, expected it from its owner, {owner}")]
    NotFromOwner {
        /// What was sent.
        kind: &'static str,
        /// About which segment.
        segment: SegmentId,
        /// The sender.
        from: NodeId,
        /// Who this node takes for the owner.
        owner: NodeId,
    },
    /// An answer came to a question that was not asked.
    #[error("{from} sent a {kind} for {page} of {segment}, expected none: it was not asked for")]
    Unasked {
        /// What was sent.
        kind: &'static str,
        /// About which segment.
        segment: SegmentId,
        /// About which page.
        page: PageIndex,
        /// The sender.
        from: NodeId,
    },
    /// What this node holds of the page does not fit the message.
    #[error(
        "{from} sent a {kind} for {page} of {segment}, of which this node has {seen:?}; expected {expected}"
    )]
    Holds {
        /// What was sent.
        kind: &'static str,
        /// About which segment.
        segment: SegmentId,
        /// About which page.
        page: PageIndex,
        /// The sender.
        from: NodeId,
        /// What this node has of the page.
        seen: Held,
        /// What the message needs.
        expected: &'static str,
    },
    /// The message is about another move of the ownership than the one under way.
    #[error("{from} sent a {kind} for {segment} in term {seen:?}, expected {expected:?}")]
    WrongTerm {
        /// What was sent.
        kind: &'static str,
        /// About which segment.
        segment: SegmentId,
        /// The sender.
        from: NodeId,
        /// The term that it names.
        seen: Term,
        /// The one that would have been right, if any.
        expected: Option<Term>,
    },
    /// The message says something that cannot be, as things stand.
    #[error("{from} sent a {kind} for {segment}; expected {expected}")]
    Unexpected {
        /// What was sent.
        kind: &'static str,
        /// About which segment.
        segment: SegmentId,
        /// The sender.
        from: NodeId,
        /// What would have been right.
        expected: &'static str,
    },
}
