//! Eager release consistency for shared segments: a pure state machine per node.
//!
//! Plain guest memory is strictly coherent ([`crate::protocol`]). A *segment* is memory that programs asked for and for
//! which they promise to use locks. In it a node writes its copies without asking anybody; when a lock is released (or
//! the program says so) the **differences** go to the segment's owner, the owner merges them and has all other copies
//! thrown away, and the release ends when they are gone. Who acquires the lock afterwards fetches from the owner, and
//! sees every write before the release.
//!
//! The driver feeds [`Event`]s with the time and carries out the [`Action`]s **in order**. Links keep the order of what
//! one node sends to another; nothing else is assumed of them. Where to read what:
//!
//! | module | what |
//! |---|---|
//! | [`node`] | the way in; all segments of a node |
//! | `segment` | one segment at one node: what it holds, and who may say what |
//! | `local` | this node's guest: faults, releases, and the exchanges with the owner that they need |
//! | `serve` | the owner: fetches, differences, invalidations |
//! | `handover` | the ownership of a segment moves |
//! | `loss` | a node is gone |
//! | [`diff`] | differences as bytes |
//! | [`wire`] | messages as bytes |
//! | [`affinity`] | who uses which segment how much, and what follows from it when a vCPU moves |
//!
//! docs/release.md says what programs may rely on and why it holds.

#![forbid(unsafe_code)]

pub mod affinity;
mod counters;
pub mod diff;
mod handover;
mod ids;
mod local;
mod loss;
pub mod node;
mod releases;
mod segment;
mod serve;
#[cfg(test)]
mod tests;
mod violation;
pub mod wire;

pub use counters::Counters;
pub use ids::{PageIndex, SegmentId, Term, Ticket, VcpuIndex};
pub use node::{Node, NodeConfig};
pub use segment::{Held, SegmentSpec, DIRTY_PAGES_MAX, SEGMENTS_MAX, SEGMENT_PAGES_MAX};
pub use violation::Violation;

use crate::ids::{NodeId, NodeSet};
pub use crate::protocol::{Access, Micros};

/// Something that happened, for [`Node::handle`](node::Node::handle).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A segment exists from now on; all of it reads as zero. The driver opens it on **all** nodes before the guest may
    /// touch it on any.
    Open(SegmentSpec),
    /// A segment is no more. The driver closes it after every use of it on every node has ended: no change unreleased, no
    /// release under way, no move of its ownership.
    Close {
        /// The segment.
        segment: SegmentId,
    },
    /// The guest touched a page that it may not. The same fault may be reported again at any time, also after it has been
    /// served: then the answer is [`Action::Wake`].
    Fault {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
        /// What was tried.
        access: Access,
        /// By which vCPU.
        vcpu: VcpuIndex,
    },
    /// A program on this node is about to let others see what it wrote: it unlocks, signals, flushes; or one of its vCPUs
    /// is about to leave this node. Answered by one [`Action::Released`], before which the program must not go on.
    Release {
        /// The segment.
        segment: SegmentId,
        /// Comes back in the answer.
        ticket: Ticket,
    },
    /// A vCPU that comes to this node will want a page: fetch it. Nothing happens if it is here or asked for.
    Prefetch {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Make `to` the segment's owner. Nothing happens if this node is not the owner, `to` is no living peer, or the
    /// ownership is on the move already.
    Transfer {
        /// The segment.
        segment: SegmentId,
        /// The next owner.
        to: NodeId,
    },
    /// A peer's message. If it carried bytes, the driver keeps them until the actions are done.
    Message {
        /// The peer that sent it, as the link knows it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A peer is gone for ever, and everything that it sent and that will ever arrive has been taken in.
    Lost {
        /// The peer.
        node: NodeId,
    },
}

/// What the driver must do now, in the order given.
///
/// Beside the page itself the driver keeps for a page either nothing, or a *twin* (the page as it was before the first
/// write), or changes *set aside* (the difference to the twin of a page that was taken away).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Send `message` to `to`, with the bytes that [`Message::payload`] says.
    Send {
        /// The peer.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Put a page where the guest had none, and wake who waits. For [`Access::Write`] keep the same bytes as its twin.
    Install {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
        /// What the guest may do with it from now on.
        rights: Access,
        /// Its bytes.
        contents: Contents,
    },
    /// Put the page that came where the guest had none, keep the same bytes as its twin, make the changes that were set
    /// aside in it again, let the guest write it and wake who waits.
    Merge {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Keep a twin of a page that the guest may read, then let the guest write it and wake who waits.
    AllowWrites {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Write-protect the guest's mapping of the page: from here on its bytes do not change by the guest.
    Protect {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Keep the difference of the (protected) page to its twin instead of the twin.
    SetAside {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Forget the twin, or the changes set aside: they are sent, or are part of the owner's page.
    Settle {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Take the page from the guest and return its memory to the host. What was set aside stays.
    Discard {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Make the changes that came with the message, which the driver has checked ([`diff::Difference::parse`]), in the
    /// page **and** in its twin if there is one. All of them, or none if the difference is malformed: then the peer is to
    /// blame and the guest stops.
    Apply {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// Wake vCPUs that wait for the page: they already have what they need.
    Wake {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
        /// What the guest may do with it.
        rights: Access,
    },
    /// A release is over.
    Released {
        /// The segment.
        segment: SegmentId,
        /// Which one.
        ticket: Ticket,
        /// How it ended.
        outcome: Outcome,
    },
    /// The segment has an owner again, after a move of its ownership: a new one, or the old one if the move failed.
    Owned {
        /// The segment.
        segment: SegmentId,
        /// The owner.
        owner: NodeId,
    },
    /// The segment's owner is lost, and with it what was released to it. Whoever touches the segment cannot go on. Said once
    /// when it happens, and again for every later fault.
    Broken {
        /// The segment.
        segment: SegmentId,
    },
}

/// Where an installed page's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Contents {
    /// The page that came with the message being handled.
    Received,
    /// Nobody has released a write to the page yet.
    Zero,
}

/// How a release ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Whoever reads from now on reads what was written before the release.
    Visible,
    /// The segment broke before that.
    Broken,
}

/// The bytes that travel with a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Payload {
    /// None.
    None,
    /// The page as it was last released: its twin if it has one, else the page itself; zeros if it is not there.
    Page,
    /// What was set aside, or else the difference of the page to its twin.
    Difference,
}

/// What nodes say to each other about one segment.
///
/// `N` any node, `O` the segment's owner, `B` the node that is to become the owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// N to O: let me have this page.
    Fetch {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// O to N: here it is, as last released.
    Page {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// N to O: my changes of the page, which I release.
    Diff {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
        /// Whether there are any. The core always says so; the driver, which compares, corrects it when the page turns
        /// out to be equal to its twin ([`Message::unchanged`]).
        changed: bool,
    },
    /// O to N: your changes are in the page, and no other node has a copy without them.
    Applied {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// O to N: throw your copy away and say so.
    Invalidate {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// N to O: it is gone; my own unreleased changes of it I have set aside.
    Invalidated {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// O to all: the ownership is about to move to `to`. Ask me nothing new; when all your questions are answered, say so.
    Freeze {
        /// The segment.
        segment: SegmentId,
        /// The move.
        term: Term,
        /// B.
        to: NodeId,
    },
    /// N to O: all my questions are answered.
    Frozen {
        /// The segment.
        segment: SegmentId,
        /// The move.
        term: Term,
    },
    /// O to B: this page, as last released, is yours to keep.
    Hand {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
        /// Who has copies, beside B.
        copies: NodeSet,
        /// Whether the bytes come with it; else B's own copy is current.
        bytes: bool,
    },
    /// B to O: I have it.
    Taken {
        /// The segment.
        segment: SegmentId,
        /// The page.
        page: PageIndex,
    },
    /// O to B: that was all (other pages read as zero and nobody has them). You are the owner.
    HandedOver {
        /// The segment.
        segment: SegmentId,
        /// The move.
        term: Term,
    },
    /// B to all, or O to all if B was lost before [`Message::HandedOver`]: I am the owner, go on.
    Thaw {
        /// The segment.
        segment: SegmentId,
        /// The move.
        term: Term,
    },
    /// To all: the segment was lost in the middle of a move of its ownership.
    Broken {
        /// The segment.
        segment: SegmentId,
    },
}

impl Message {
    /// The segment that the message is about.
    pub fn segment(&self) -> SegmentId {
        match *self {
            Message::Fetch { segment, .. }
            | Message::Page { segment, .. }
            | Message::Diff { segment, .. }
            | Message::Applied { segment, .. }
            | Message::Invalidate { segment, .. }
            | Message::Invalidated { segment, .. }
            | Message::Freeze { segment, .. }
            | Message::Frozen { segment, .. }
            | Message::Hand { segment, .. }
            | Message::Taken { segment, .. }
            | Message::HandedOver { segment, .. }
            | Message::Thaw { segment, .. }
            | Message::Broken { segment } => segment,
        }
    }

    /// The page that the message is about, if it is about one.
    pub fn page(&self) -> Option<PageIndex> {
        match *self {
            Message::Fetch { page, .. }
            | Message::Page { page, .. }
            | Message::Diff { page, .. }
            | Message::Applied { page, .. }
            | Message::Invalidate { page, .. }
            | Message::Invalidated { page, .. }
            | Message::Hand { page, .. }
            | Message::Taken { page, .. } => Some(page),
            Message::Freeze { .. }
            | Message::Frozen { .. }
            | Message::HandedOver { .. }
            | Message::Thaw { .. }
            | Message::Broken { .. } => None,
        }
    }

    /// The message's name, for reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Fetch { .. } => "Fetch",
            Message::Page { .. } => "Page",
            Message::Diff { .. } => "Diff",
            Message::Applied { .. } => "Applied",
            Message::Invalidate { .. } => "Invalidate",
            Message::Invalidated { .. } => "Invalidated",
            Message::Freeze { .. } => "Freeze",
            Message::Frozen { .. } => "Frozen",
            Message::Hand { .. } => "Hand",
            Message::Taken { .. } => "Taken",
            Message::HandedOver { .. } => "HandedOver",
            Message::Thaw { .. } => "Thaw",
            Message::Broken { .. } => "Broken",
        }
    }

    /// What travels with the message.
    pub fn payload(&self) -> Payload {
        match self {
            Message::Page { .. } | Message::Hand { bytes: true, .. } => Payload::Page,
            Message::Diff { changed: true, .. } => Payload::Difference,
            _ => Payload::None,
        }
    }

    /// The same message about a page in which nothing has changed: a [`Message::Diff`] then carries no bytes and costs
    /// nobody a copy. Other messages stay as they are.
    #[must_use]
    pub fn unchanged(self) -> Message {
        match self {
            Message::Diff { segment, page, .. } => Message::Diff { segment, page, changed: false },
            other => other,
        }
    }
}
