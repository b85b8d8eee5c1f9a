//! What a node has counted.

use serde::{Deserialize, Serialize};

/// Events since the node began. All counts are of this node alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Whole extents granted to this node by itself: first touches of extents whose home it is.
    pub first_touches_local: u64,
    /// Whole extents granted to this node by another home.
    pub first_touches_remote: u64,
    /// Pages that came to be read.
    pub remote_reads: u64,
    /// Pages that came to be written.
    pub remote_writes: u64,
    /// Read copies that became writable without a transfer.
    pub upgrades: u64,
    /// Faults and borrows that joined a request already out.
    pub joined: u64,
    /// Faults on pages that the node already held with the rights needed.
    pub spurious: u64,
    /// Requests that a grant of the whole extent overtook.
    pub overtaken: u64,
    /// Recalls obeyed: pages sent to another node.
    pub recalls: u64,
    /// Invalidations obeyed: read copies given up.
    pub invalidations: u64,
    /// Recalls and invalidations put off because the page's lease still ran.
    pub lease_deferrals: u64,
    /// Recalls and invalidations put off because the page was lent.
    pub lend_deferrals: u64,
    /// Pages whose lease grew because they had been lost in the middle of a collection.
    pub lease_extensions: u64,
    /// Extents of this node's that were split.
    pub splits: u64,
    /// Extents of this node's that became whole again.
    pub merges: u64,
    /// Extents whose home this node became.
    pub homes_taken: u64,
    /// Pages lent to devices.
    pub lends: u64,
    /// Transactions that this node's directory began.
    pub transactions: u64,
    /// Of these, reads that were given the page to write: it migrates ([`HabitPolicy`](super::HabitPolicy)).
    pub reads_given_to_write: u64,
    /// Requests that waited at this node's directory for an earlier transaction.
    pub queued: u64,
}

/// What a node holds right now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Holdings {
    /// Extents owned as a whole.
    pub whole_extents: u64,
    /// Single pages in split extents that the node may write.
    pub writable_pages: u64,
    /// Single pages in split extents that the node may only read.
    pub readable_pages: u64,
}
