//! How long a granted page is kept before a recall is obeyed.
//!
//! One instruction may need ten pages at once. If each page could be taken the moment it came, two nodes would
//! steal each other's sets for ever. So:
//!
//! - every grant holds for `base_us`: the vCPU that was woken runs its instruction;
//! - a page that was lost while the node still waited for others (a *torn* collection), and that the node must
//!   fetch again, holds twice as long the next time, up to `max_us`; it grows no longer than needed, because
//!   a loss in calm, or a long time without it, shrinks it again;
//! - of that longer time only `base_us` are kept once the node is *calm*: it waits for no page, and none came
//!   during the last `base_us`. A contended lock thus moves on at once, and only collections hold on;
//! - where two nodes hold on against each other, the one with the lower number lets go first: longer leases grow
//!   by up to their half again with the node's number.

use serde::{Deserialize, Serialize};

use super::Micros;
use crate::ids::NodeId;

/// How long granted pages are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LeasePolicy {
    /// Every grant's lease, in microseconds; 0 means none. It should exceed the time from waking a vCPU to the end of
    /// its instruction.
    pub base_us: Micros,
    /// The longest that a lease grows to while nodes compete (half as much again for the node with the highest
    /// number). It should exceed ten times the latency of a remote fault.
    pub max_us: Micros,
}

impl Default for LeasePolicy {
    /// 50 us and 10 ms.
    fn default() -> Self {
        LeasePolicy { base_us: 50, max_us: 10_000 }
    }
}

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

/// The leases of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leases {
    policy: LeasePolicy,
    me: NodeId,
    nodes: u8,
    /// When the last request of this node was fulfilled.
    fulfilled: Micros,
}

impl Leases {
    /// Leases of node `me` of `nodes`.
    pub fn new(policy: LeasePolicy, me: NodeId, nodes: u8) -> Self {
        Leases { policy, me, nodes, fulfilled: 0 }
    }

    /// A request of this node was fulfilled.
    pub fn fulfilled(&mut self, now: Micros) {
        self.fulfilled = now;
    }

    /// The page is gone; `collecting` if the node waits for other pages.
    pub fn lost(history: &mut History, collecting: bool) {
        history.torn = collecting;
    }

    /// The node must fetch the page, which it lost at `lost`. Returns whether its lease grew.
    pub fn refetch(&self, history: &mut History, lost: Micros, now: Micros) -> bool {
        let window = self.policy.max_us.saturating_mul(8);
        let torn = std::mem::take(&mut history.torn);
        if now.saturating_sub(lost) > window {
            history.level = 0;
        } else if !torn {
            history.level = history.level.saturating_sub(1);
        } else if history.level < LEVEL_MAX && self.span(history.level) < self.policy.max_us {
            history.level += 1;
            return true;
        }
        false
    }

    /// From when on a page granted at `granted` may be taken; `collecting` if the node waits for other pages.
    pub fn expires(&self, history: History, granted: Micros, collecting: bool) -> Micros {
        let base = granted.saturating_add(self.policy.base_us);
        if history.level == 0 {
            return base;
        }
        let span = self.span(history.level);
        let tie_break = span / 2 * u64::from(self.me.0) / u64::from(self.nodes.max(1));
        let longest = granted.saturating_add(span).saturating_add(tie_break);
        let calm = self.fulfilled.saturating_add(self.policy.base_us);
        match collecting {
            true => longest,
            false => longest.min(base.max(calm)),
        }
    }

    fn span(&self, level: u8) -> Micros {
        let doubled = self.policy.base_us.saturating_mul(1 << level.min(LEVEL_MAX));
        doubled.min(self.policy.max_us).max(self.policy.base_us)
    }
}
