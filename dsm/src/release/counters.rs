//! What a node has counted.

use serde::{Deserialize, Serialize};

/// Events since the node began, over all its segments. All counts are of this node alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Pages asked for at the owner.
    pub fetches: u64,
    /// Pages that no vCPU here had touched yet when they were asked for.
    pub prefetched: u64,
    /// Copies sent by this node as owner.
    pub copies_sent: u64,
    /// Faults that joined an exchange under way.
    pub joined: u64,
    /// Faults on pages that the guest already had the rights for.
    pub spurious: u64,
    /// Twins made: first writes to a page since it came or was last released.
    pub twins: u64,
    /// Pages whose changes were set aside because the copy was invalidated before they were released.
    pub set_aside: u64,
    /// Releases asked for.
    pub releases: u64,
    /// Of these, those that found nothing to send or to wait for.
    pub releases_empty: u64,
    /// Times that all changes were released early because the node had as many twins as it may.
    pub relieved: u64,
    /// Differences sent to an owner.
    pub diffs_sent: u64,
    /// Differences merged by this node as owner: others' and its own.
    pub diffs_applied: u64,
    /// Copies that this node as owner had thrown away.
    pub invalidations_sent: u64,
    /// Copies that this node threw away on the owner's order.
    pub invalidations_obeyed: u64,
    /// Segments whose ownership this node gave to another.
    pub handed_over: u64,
    /// Orders to transfer a segment that did not apply.
    pub transfers_refused: u64,
    /// Transfers that ended because the node that was to become owner was lost.
    pub transfers_abandoned: u64,
    /// Segments that broke.
    pub broken: u64,
}
