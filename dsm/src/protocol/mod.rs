//! The ownership protocol: a pure state machine per node and slice of memory.
//!
//! Single writer or many readers, per page; every invalidation is acknowledged before write permission is
//! given (strict coherence; the guest is x86-TSO and its fences cannot be trapped).
//!
//! The driver ([`crate::pager`] in the product; the simulator and the model checker in tests) feeds
//! [`Event`]s with the time and carries out the [`Action`]s **in order**. A node never sends a message to
//! itself: what it has to tell itself it handles inside.
//!
//! How to follow one fault: [`node`] takes the event; `requester` asks the page's home; `directory`
//! (at the home) decides who must give what; `owner` (at the holders) gives it up, at the earliest when its
//! [`lease`] allows; `requester` puts it in and says `Done`. The links keep the order of what one node sends to
//! another; nothing else is assumed of them.

#![forbid(unsafe_code)]

mod counters;
mod directory;
mod drain;
mod extent;
mod habit;
mod handover;
mod homes;
pub mod lease;
mod merge;
pub mod node;
mod owner;
mod requester;
mod table;
#[cfg(test)]
mod tests;
mod violation;

pub use counters::{Counters, Holdings};
pub use habit::{HabitPolicy, MigratoryPolicy};
pub use homes::{Home, Membership, Term};
pub use lease::{LeasePolicy, Pace};
pub use merge::MergePolicy;
pub use node::{Node, NodeConfig};
pub use table::Rights;
pub use violation::Violation;

use crate::ids::{Extent, Gfn, NodeId, NodeSet, NODES_MAX};

/// A point in time or a span, in microseconds of the driver's monotonic clock.
pub type Micros = u64;

/// What a faulting vCPU wants to do with a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// Load or fetch.
    Read,
    /// Store or locked operation.
    Write,
}

/// Something that happened, for [`Node::handle`](node::Node::handle).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// The guest touched a page it may not (userfaultfd said so). The same fault may be reported again at any
    /// time, also after it has been served: then the answer is [`Action::Wake`].
    Fault {
        /// The page.
        gfn: Gfn,
        /// What was tried.
        access: Access,
    },
    /// A device or the VMM wants to hold the page for a while: as a fault, then not taken away before
    /// [`Event::Return`]. Answered by [`Action::Lend`], once for each `Borrow`.
    ///
    /// Who borrows several pages must do so in ascending order, and must not wait for more of a page that it
    /// holds already (write while it holds it for reading): two nodes could wait for each other for ever.
    Borrow {
        /// The page.
        gfn: Gfn,
        /// What will be done with it.
        access: Access,
    },
    /// One [`Event::Borrow`] of this page has ended.
    Return {
        /// The page.
        gfn: Gfn,
    },
    /// A peer's message. If it carried a page, the driver keeps the bytes until the actions are done.
    Message {
        /// The peer that sent it, as the link knows it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// [`Node::next_deadline`](node::Node::next_deadline) has come.
    Tick,
    /// This node, the home of the extent, is to make another node its home
    /// ([`Node::may_hand_over`](node::Node::may_hand_over)).
    HandOver {
        /// The extent.
        extent: Extent,
        /// Its home from now on.
        to: NodeId,
    },
    /// `node` is about to leave the guest, touches no page any more and has no request out: this node takes away from it
    /// every page whose home this node is. It is done when [`Node::is_clear_of`](node::Node::is_clear_of) says so.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// `node` belongs to the guest from now on. It must not begin before all others have been told.
    Admit {
        /// The node.
        node: NodeId,
    },
    /// `node` does not belong to the guest any more ([`Node::is_clear_of`](node::Node::is_clear_of) on every other node):
    /// what it says from now on is refused.
    Dismiss {
        /// The node.
        node: NodeId,
    },
}

/// What the driver must do now, in the order given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Send `message` to `to`; if [`Message::carries_page`], with the bytes of the page it is about, read
    /// through the alias mapping when this action is carried out.
    Send {
        /// The peer.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Put a page where the guest had none, and wake who waits if `wake`.
    Install {
        /// The page.
        gfn: Gfn,
        /// What the guest may do with it from now on.
        rights: Access,
        /// Its bytes.
        contents: Contents,
        /// `false`: the waiting vCPUs need more than this (write permission is still to come).
        wake: bool,
    },
    /// Write-protect the guest's mapping of the page: from here on its bytes do not change. The guest may still
    /// read it, so a page that was never touched must come to read as zero.
    Protect {
        /// The page.
        gfn: Gfn,
    },
    /// Let the guest write a page that it could only read, and wake who waits.
    Unprotect {
        /// The page.
        gfn: Gfn,
    },
    /// Take the page from the guest and return its memory to the host.
    Discard {
        /// The page.
        gfn: Gfn,
    },
    /// The whole extent is this node's alone and nothing in it need be watched: stop tracking it (faults there
    /// are the host kernel's own business, untouched pages read as zero) and wake who waits. This node has no page of it,
    /// or all of them to write, which stay as they are.
    OwnExtent {
        /// The extent.
        extent: Extent,
    },
    /// Track an owned extent page by page again. All its pages stay readable and writable for the guest; pages
    /// that were never touched are absent and read as zero.
    SplitExtent {
        /// The extent.
        extent: Extent,
    },
    /// Wake vCPUs that wait for the page: they already have what they need. If the guest's mapping lacks the
    /// page (it lies in a split extent and was never touched), map what is there, zeros, with these rights.
    Wake {
        /// The page.
        gfn: Gfn,
        /// What the guest may do with it.
        rights: Access,
    },
    /// One [`Event::Borrow`] of the page is granted: it stays until [`Event::Return`].
    Lend {
        /// The page.
        gfn: Gfn,
        /// What it was borrowed for.
        access: Access,
    },
}

/// Where an installed page's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Contents {
    /// The page that came with the message being handled.
    Received,
    /// Nobody has written the page yet.
    Zero,
}

/// Numbers a directory's transactions: a reply that names another transaction than the one under way is
/// stale and is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Txn(pub u32);

/// A place in the order in which nodes began to collect pages, in the logical time of all nodes (Lamport's): of two
/// nodes that contend for a page, the one with the earlier turn goes first. It decides only how long a page is held,
/// never who may do what.
///
/// The lowest bits are the node's number, so that no two nodes' turns are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Turn(pub u32);

impl Turn {
    /// Whether this turn comes before `other`. Turns wrap round: two that lie 2^31 or more apart compare wrongly, which
    /// costs time and nothing else.
    pub fn is_before(self, other: Turn) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// The first turn of node `me` after `self`.
    pub fn next_of(self, me: NodeId) -> Turn {
        let width = NODES_MAX as u32;
        Turn((self.0 / width).wrapping_add(1).wrapping_mul(width) + u32::from(me.0) % width)
    }
}

/// What nodes say to each other about one page (or the extent that it lies in).
///
/// `R` requester, `H` home (keeps the directory entry), `O` owner or the sharer chosen to supply the data,
/// `S` any other sharer. One transaction per page at a time: `H` starts none before `R` said
/// [`Message::Done`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// R to H: let me have this page.
    Request {
        /// The page.
        gfn: Gfn,
        /// What for.
        access: Access,
        /// R has a read copy (it asks for an upgrade). Only for the record: the directory knows.
        held: bool,
        /// R's turn.
        turn: Turn,
    },
    /// H to R: the whole extent is yours alone, nobody has written in it. Needs no [`Message::Done`]: whatever H
    /// says next about the extent reaches R after this.
    GrantExtent {
        /// The page that was asked for.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
    },
    /// H to O: you have every page of the extent, nobody asks for one: it is yours as a whole. Needs no
    /// [`Message::Done`], like [`Message::GrantExtent`].
    Merge {
        /// Some page of the extent.
        gfn: Gfn,
        /// A number of its own.
        txn: Txn,
    },
    /// H to R: you have what you asked for, because a grant of the whole extent overtook your request. Needs no
    /// [`Message::Done`].
    AlreadyYours {
        /// The page.
        gfn: Gfn,
    },
    /// H to O: give `requester` the page; for [`Access::Write`] give yours up.
    Recall {
        /// The page.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
        /// R.
        requester: NodeId,
        /// R's turn.
        turn: Turn,
        /// What R is to get; it may be more than it asked for.
        access: Access,
        /// How many [`Message::Invalidated`] R must wait for beside this grant.
        acks: u8,
    },
    /// H to S: give your copy up and tell `requester`.
    Invalidate {
        /// The page.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
        /// R.
        requester: NodeId,
        /// R's turn.
        turn: Turn,
    },
    /// H to O and S, when an earlier turn than R's has come to wait for this transaction: do not hold on longer than
    /// against that turn. A hint: it may come after the order has been obeyed.
    Hurry {
        /// The page.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
        /// The earliest turn that waits.
        turn: Turn,
    },
    /// O (with the page), or H (without, when R holds a copy), to R.
    Grant {
        /// The page.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
        /// What R may do once all acknowledgements are in; it may be more than R asked for.
        rights: Access,
        /// Whether the page's bytes come with it; else R's copy is current.
        page: bool,
        /// How many [`Message::Invalidated`] R must wait for.
        acks: u8,
    },
    /// S to R: my copy is gone.
    Invalidated {
        /// The page.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
    },
    /// R to H: I have what I asked for; the next may be served.
    Done {
        /// The page.
        gfn: Gfn,
        /// The transaction.
        txn: Txn,
    },
    /// The old home to the new one: what is known of the extent. [`Message::DirectoryEntry`]s follow, then [`Message::NewHome`].
    Directory {
        /// The extent's first page.
        gfn: Gfn,
        /// The new home's term.
        term: Term,
        /// Who has what.
        state: DirectoryState,
    },
    /// The old home to the new one: who has a page of a split extent, where that is not the usual node alone.
    DirectoryEntry {
        /// The page.
        gfn: Gfn,
        /// One node alone, or all that may read it.
        holders: NodeSet,
    },
    /// The old home to everybody: from now on ask `home`. It is behind everything that the old home has said about the extent.
    NewHome {
        /// The extent's first page.
        gfn: Gfn,
        /// The new home's term.
        term: Term,
        /// The new home.
        home: NodeId,
    },
    /// Everybody to the old home and to the new one, which serves nobody before all have said it: I ask the new home from now on.
    HomeKnown {
        /// The extent's first page.
        gfn: Gfn,
        /// The new home's term.
        term: Term,
    },
    /// The old home to R, whose request came too late: ask the new one, of which I have told you.
    Moved {
        /// The page.
        gfn: Gfn,
    },
}

/// What the directory says of an extent as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirectoryState {
    /// Nobody has touched it.
    Untouched,
    /// One node has all of it.
    Whole(NodeId),
    /// Page by page; of those that have no entry of their own this node is the only owner.
    Split(NodeId),
}

impl DirectoryState {
    /// The node that it names.
    pub fn node(self) -> Option<NodeId> {
        match self {
            DirectoryState::Untouched => None,
            DirectoryState::Whole(node) | DirectoryState::Split(node) => Some(node),
        }
    }
}

impl Message {
    /// The page that the message is about.
    pub fn gfn(&self) -> Gfn {
        match *self {
            Message::Request { gfn, .. }
            | Message::GrantExtent { gfn, .. }
            | Message::Merge { gfn, .. }
            | Message::AlreadyYours { gfn }
            | Message::Recall { gfn, .. }
            | Message::Invalidate { gfn, .. }
            | Message::Hurry { gfn, .. }
            | Message::Grant { gfn, .. }
            | Message::Invalidated { gfn, .. }
            | Message::Done { gfn, .. }
            | Message::Directory { gfn, .. }
            | Message::DirectoryEntry { gfn, .. }
            | Message::NewHome { gfn, .. }
            | Message::HomeKnown { gfn, .. }
            | Message::Moved { gfn } => gfn,
        }
    }

    /// The message's name, for reports.
    pub fn kind(&self) -> &'static str {
        match self {
            Message::Request { .. } => "Request",
            Message::GrantExtent { .. } => "GrantExtent",
            Message::Merge { .. } => "Merge",
            Message::AlreadyYours { .. } => "AlreadyYours",
            Message::Recall { .. } => "Recall",
            Message::Invalidate { .. } => "Invalidate",
            Message::Hurry { .. } => "Hurry",
            Message::Grant { .. } => "Grant",
            Message::Invalidated { .. } => "Invalidated",
            Message::Done { .. } => "Done",
            Message::Directory { .. } => "Directory",
            Message::DirectoryEntry { .. } => "DirectoryEntry",
            Message::NewHome { .. } => "NewHome",
            Message::HomeKnown { .. } => "HomeKnown",
            Message::Moved { .. } => "Moved",
        }
    }

    /// Whether the page's bytes travel with the message.
    pub fn carries_page(&self) -> bool {
        matches!(self, Message::Grant { page: true, .. })
    }
}
