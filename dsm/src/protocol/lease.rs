//! How long a granted page is kept before a recall is obeyed, so that instructions come to their end.
//!
//! One instruction may need ten pages at once. If each page could be taken the moment it came, nodes would
//! steal each other's sets for ever. So:
//!
//! - every grant holds for `base_us`: the vCPU that was woken runs its instruction;
//! - a page that was lost while the node still waited for others (a *torn* collection), and that the node must
//!   fetch again, holds twice as long the next time, and so on up to `max_us`. A loss in calm, or a long time without
//!   it, shrinks it again;
//! - that longer time ends early when the node is *calm*: it waits for no page, and none came during the last
//!   `base_us`. A contended lock moves on at once; only a collection holds on;
//! - and it counts only against requesters whose [`Turn`] is later. A node takes a turn when it begins to collect, and
//!   keeps it until it is calm, but not longer than four `max_us`. The node whose turn is the earliest gets every page
//!   after at most `base_us`, and keeps it up to `max_us`: it comes to its end, however many contend; then it takes a
//!   later turn. Of equal turns the lower node's is the earlier.

use serde::{Deserialize, Serialize};

use super::{Micros, Turn};
use crate::ids::NodeId;

/// How long granted pages are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LeasePolicy {
    /// Every grant's lease, in microseconds; 0 means none at all. It should exceed the time from waking a vCPU to the
    /// end of its instruction.
    pub base_us: Micros,
    /// The longest that a lease grows to while nodes contend, in microseconds. It should exceed ten times the latency
    /// of a remote fault.
    pub max_us: Micros,
}

impl Default for LeasePolicy {
    /// 50 us and 10 ms.
    fn default() -> Self {
        LeasePolicy { base_us: 50, max_us: 10_000 }
    }
}

/// A turn lasts at most so many times [`LeasePolicy::max_us`].
const TURN_LEASES: u64 = 4;
/// A page that is fetched again after so many times [`LeasePolicy::max_us`] has no past.
const MEMORY_LEASES: u64 = 8;
/// Most doublings of a lease.
const LEVEL_MAX: u8 = 31;

/// What the lease needs to know of a page's past.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct History {
    /// How often the lease is doubled.
    level: u8,
    /// The page was last lost in the middle of a collection.
    torn: bool,
}

/// Who wants a page, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Claimant {
    /// The node.
    pub node: NodeId,
    /// Its turn.
    pub turn: Turn,
}

impl Claimant {
    fn is_before(self, other: Claimant) -> bool {
        self.turn.is_before(other.turn) || (self.turn == other.turn && self.node < other.node)
    }
}

/// The leases of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leases {
    policy: LeasePolicy,
    /// This node, and its present or last turn.
    mine: Claimant,
    /// When this node took its turn.
    since: Micros,
    /// The latest turn seen anywhere.
    latest: Turn,
    /// When the last request of this node was fulfilled.
    fulfilled: Micros,
}

impl Leases {
    /// Leases of node `me`.
    pub fn new(policy: LeasePolicy, me: NodeId) -> Self {
        let mine = Claimant { node: me, turn: Turn(0) };
        Leases { policy, mine, since: 0, latest: Turn(0), fulfilled: 0 }
    }

    /// Another node's turn was seen.
    pub fn heard(&mut self, turn: Turn) {
        if self.policy.base_us > 0 && self.latest.is_before(turn) {
            self.latest = turn;
        }
    }

    /// The turn for a request that is sent now; `collecting` if others are out.
    pub fn turn(&mut self, now: Micros, collecting: bool) -> Turn {
        let old = now.saturating_sub(self.since) > self.policy.max_us.saturating_mul(TURN_LEASES);
        if self.policy.base_us > 0 && (old || self.is_calm(now, collecting)) {
            self.latest = Turn(self.latest.0.wrapping_add(1));
            self.mine.turn = self.latest;
            self.since = now;
        }
        self.mine.turn
    }

    /// A request of this node was fulfilled.
    pub fn fulfilled(&mut self, now: Micros) {
        self.fulfilled = now;
    }

    /// A page is gone; `collecting` if the node waits for other pages.
    pub fn lost(&self, history: &mut History, now: Micros, collecting: bool) {
        history.torn = !self.is_calm(now, collecting);
    }

    /// The node must fetch the page, which it lost at `lost`. Returns whether its lease grew.
    pub fn refetch(&self, history: &mut History, lost: Micros, now: Micros) -> bool {
        let torn = std::mem::take(&mut history.torn);
        if now.saturating_sub(lost) > self.policy.max_us.saturating_mul(MEMORY_LEASES) {
            history.level = 0;
        } else if !torn {
            history.level = history.level.saturating_sub(1);
        } else if history.level < LEVEL_MAX && self.span(history.level) < self.policy.max_us {
            history.level += 1;
            return true;
        }
        false
    }

    /// From when on `requester` may have a page that was granted at `granted`; `collecting` if this node waits for other
    /// pages.
    pub fn expires(
        &self,
        history: History,
        granted: Micros,
        collecting: bool,
        requester: Claimant,
    ) -> Micros {
        let base = granted.saturating_add(self.policy.base_us);
        if history.level == 0 || requester.is_before(self.mine) {
            return base;
        }
        let longest = granted.saturating_add(self.span(history.level));
        match collecting {
            true => longest,
            false => longest.min(base.max(self.calm_from())),
        }
    }

    fn is_calm(&self, now: Micros, collecting: bool) -> bool {
        !collecting && now >= self.calm_from()
    }

    fn calm_from(&self) -> Micros {
        self.fulfilled.saturating_add(self.policy.base_us)
    }

    fn span(&self, level: u8) -> Micros {
        let doubled = self.policy.base_us.saturating_mul(1 << level.min(LEVEL_MAX));
        doubled.min(self.policy.max_us).max(self.policy.base_us)
    }
}
