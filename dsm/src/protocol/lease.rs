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
//! - and it counts only against later [`Turn`]s. A node takes a turn when it begins to collect, and keeps it until it is
//!   calm, but not longer than `max_us` for each node (and once more for each lower node, so that not all change
//!   at once). Directories serve the earliest turn first, and tell holders when an earlier one than the first has come
//!   ([`Message::Hurry`](super::Message::Hurry)).
//!
//! The node with the earliest turn therefore gets every page after at most twice `base_us` and a few messages, and keeps
//! it up to `max_us`: it comes to its end, however many contend. Then it takes a later turn, and another is the earliest.

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

/// What a node is about, as far as it decides how long pages are held. Where several cores share a node's memory, each hears
/// the others' ([`Node::hear_elsewhere`](super::Node::hear_elsewhere)): one instruction may need pages of several.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Pace {
    /// Whether requests are out.
    pub waiting: bool,
    /// When the last one was fulfilled.
    pub fulfilled: Micros,
    /// The present or last turn.
    pub turn: Turn,
    /// When it was taken.
    pub since: Micros,
    /// The latest turn seen anywhere.
    pub latest: Turn,
}

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

/// The leases of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leases {
    policy: LeasePolicy,
    me: NodeId,
    nodes: u8,
    /// This node's present or last turn.
    mine: Turn,
    /// When it took it.
    since: Micros,
    /// The latest turn seen anywhere.
    latest: Turn,
    /// When the last request of this node was fulfilled.
    fulfilled: Micros,
    /// The node waits for pages that are another core's.
    waits_elsewhere: bool,
}

impl Leases {
    /// Leases of node `me` of `nodes`.
    pub fn new(policy: LeasePolicy, me: NodeId, nodes: u8) -> Self {
        Leases {
            policy,
            me,
            nodes,
            mine: Turn(0),
            since: 0,
            latest: Turn(0),
            fulfilled: 0,
            waits_elsewhere: false,
        }
    }

    /// What this core is about; `waiting` if requests are out.
    pub fn pace(&self, waiting: bool) -> Pace {
        let Leases { mine, since, latest, fulfilled, .. } = *self;
        Pace { waiting, fulfilled, turn: mine, since, latest }
    }

    /// What the node's other cores are about.
    pub fn hear_elsewhere(&mut self, pace: Pace) {
        if !self.grows() {
            return;
        }
        self.waits_elsewhere = pace.waiting;
        self.fulfilled = self.fulfilled.max(pace.fulfilled);
        self.heard(pace.latest);
        if self.mine.is_before(pace.turn) {
            (self.mine, self.since) = (pace.turn, pace.since);
        }
    }

    /// Whether the node waits for pages that are another core's.
    pub fn waits_elsewhere(&self) -> bool {
        self.waits_elsewhere
    }

    /// Another node's turn was seen.
    pub fn heard(&mut self, turn: Turn) {
        if self.grows() && self.latest.is_before(turn) {
            self.latest = turn;
        }
    }

    /// The turn for a request that is sent now; `collecting` if others are out.
    pub fn turn(&mut self, now: Micros, collecting: bool) -> Turn {
        let leases = u64::from(self.nodes) + u64::from(self.me.0);
        let over = now.saturating_sub(self.since) > self.policy.max_us.saturating_mul(leases);
        if self.grows() && (over || self.is_calm(now, collecting)) {
            self.mine = self.latest.next_of(self.me);
            self.latest = self.mine;
            self.since = now;
        }
        self.mine
    }

    /// A request of this node was fulfilled.
    pub fn fulfilled(&mut self, now: Micros) {
        self.fulfilled = now;
    }

    /// A page is gone; `collecting` if the node waits for other pages.
    pub fn lost(&self, history: &mut History, now: Micros, collecting: bool) {
        history.torn = self.grows() && !self.is_calm(now, collecting);
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

    /// From when on a page that was granted at `granted` is given up for `turn`; `collecting` if this node waits for
    /// other pages.
    pub fn expires(&self, history: History, granted: Micros, collecting: bool, turn: Turn) -> Micros {
        let base = granted.saturating_add(self.policy.base_us);
        // One's own turn may be waiting behind the order: then it is no use to hold on either.
        if !self.mine.is_before(turn) {
            return base;
        }
        let longest = granted.saturating_add(self.span(history.level));
        match collecting || self.waits_elsewhere {
            true => longest,
            false => longest.min(base.max(self.calm_from())),
        }
    }

    /// Whether leases ever differ: without that there is nothing to remember and no turn to take.
    fn grows(&self) -> bool {
        self.policy.max_us > self.policy.base_us
    }

    fn is_calm(&self, now: Micros, collecting: bool) -> bool {
        !collecting && !self.waits_elsewhere && now >= self.calm_from()
    }

    fn calm_from(&self) -> Micros {
        self.fulfilled.saturating_add(self.policy.base_us)
    }

    fn span(&self, level: u8) -> Micros {
        let doubled = self.policy.base_us.saturating_mul(1 << level.min(LEVEL_MAX));
        doubled.min(self.policy.max_us).max(self.policy.base_us)
    }
}

#[cfg(test)]
impl Leases {
    /// Keeps the present turn for as long as there is no end.
    pub fn keep_turn(&mut self) {
        self.since = Micros::MAX;
        self.fulfilled = Micros::MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: LeasePolicy = LeasePolicy { base_us: 50, max_us: 10_000 };
    const ME: NodeId = NodeId(1);

    fn leases() -> Leases {
        Leases::new(POLICY, ME, 4)
    }

    /// A page's history after it was torn so many times.
    fn torn(leases: &Leases, times: u32) -> History {
        let mut history = History::default();
        for _ in 0..times {
            leases.lost(&mut history, 1_000, true);
            leases.refetch(&mut history, 1_000, 1_100);
        }
        history
    }

    /// How long a page is kept from the node with the latest turn.
    fn kept(leases: &Leases, history: History) -> Micros {
        leases.expires(history, 0, true, leases.mine.next_of(NodeId(2)))
    }

    #[test]
    fn a_lease_doubles_with_each_tear_up_to_the_longest() {
        let leases = leases();
        let lengths: Vec<Micros> = (0..10).map(|times| kept(&leases, torn(&leases, times))).collect();
        assert_eq!(lengths, [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
    }

    #[test]
    fn a_loss_in_calm_halves_it_and_a_long_calm_forgets_it() {
        let leases = leases();
        let mut history = torn(&leases, 4);
        leases.lost(&mut history, 1_000, false);
        assert!(!leases.refetch(&mut history, 1_000, 1_100));
        assert_eq!(kept(&leases, history), 400);
        leases.lost(&mut history, 1_000, true);
        assert!(!leases.refetch(&mut history, 1_000, 81_001));
        assert_eq!(kept(&leases, history), 50);
    }

    #[test]
    fn just_after_the_last_page_came_the_collection_is_not_over() {
        let mut leases = leases();
        leases.fulfilled(1_000);
        let (mut early, mut late) = (History::default(), History::default());
        leases.lost(&mut early, 1_049, false);
        leases.lost(&mut late, 1_050, false);
        assert_eq!((early.torn, late.torn), (true, false));
    }

    #[test]
    fn calm_ends_a_long_lease_but_never_the_first_50_us() {
        let mut leases = leases();
        let later = Turn(1 << 20);
        let history = torn(&leases, 8);
        leases.fulfilled(3_000);
        assert_eq!(leases.expires(history, 0, true, later), 10_000);
        assert_eq!(leases.expires(history, 0, false, later), 3_050);
        assert_eq!(leases.expires(history, 3_020, false, later), 3_070);
    }

    #[test]
    fn nobody_holds_on_against_an_earlier_turn_nor_against_its_own() {
        let mut leases = leases();
        let first = leases.turn(1_000, false);
        leases.heard(first.next_of(NodeId(0)));
        let mine = leases.turn(2_000, false);
        let history = torn(&leases, 8);
        assert_eq!(leases.expires(history, 0, true, first), 50);
        assert_eq!(leases.expires(history, 0, true, mine), 50);
        assert_eq!(leases.expires(history, 0, true, mine.next_of(NodeId(0))), 10_000);
    }

    #[test]
    fn what_is_waited_for_elsewhere_is_part_of_the_collection() {
        let (mut leases, later) = (leases(), Turn(1 << 20));
        let pace = Pace { waiting: true, fulfilled: 3_000, ..leases.pace(false) };
        leases.hear_elsewhere(pace);
        let history = torn(&leases, 8);
        assert_eq!(leases.expires(history, 0, false, later), 10_000);
        let mut lost = History::default();
        leases.lost(&mut lost, 9_000, false);
        assert!(lost.torn);
        leases.hear_elsewhere(Pace { waiting: false, ..pace });
        assert_eq!(leases.expires(history, 0, false, later), 3_050, "the last page came there");
    }

    #[test]
    fn all_cores_of_a_node_collect_in_one_turn() {
        let (mut one, mut other) = (leases(), leases());
        one.heard(Turn(1 << 20));
        let turn = one.turn(1_000, false);
        other.hear_elsewhere(one.pace(true));
        assert_eq!(other.turn(1_020, false), turn);
        // An older turn of this one's is not taken back.
        other.hear_elsewhere(Pace { turn: Turn(1), ..one.pace(true) });
        assert_eq!(other.turn(1_030, false), turn);
        other.hear_elsewhere(one.pace(false));
        let next = other.turn(2_000, false);
        assert!(turn.is_before(next), "calm everywhere: the next turn");
        one.hear_elsewhere(other.pace(true));
        assert_eq!(one.turn(2_010, false), next);
    }

    #[test]
    fn a_turn_lasts_while_the_node_collects_but_not_for_ever() {
        let mut leases = leases();
        let first = leases.turn(1_000, false);
        leases.heard(Turn(1 << 20));
        assert_eq!(leases.turn(2_000, true), first, "other requests are out");
        leases.fulfilled(2_990);
        assert_eq!(leases.turn(3_000, false), first, "the last page has just come");
        let second = leases.turn(3_040, false);
        assert!(Turn(1 << 20).is_before(second), "calm: the next turn is behind all that were heard");
        assert_eq!(leases.turn(3_040 + 50_000, true), second);
        assert!(
            second.is_before(leases.turn(3_041 + 50_000, true)),
            "one max_us for each of 4 nodes, and one more"
        );
    }

    #[test]
    fn turns_of_different_nodes_differ_and_wrap_round() {
        let turn = Turn(u32::MAX - 3);
        let next = turn.next_of(NodeId(3));
        assert!(turn.is_before(next) && !next.is_before(turn) && !turn.is_before(turn));
        assert_ne!(turn.next_of(NodeId(2)), next);
        assert_eq!(next, Turn(3));
    }

    #[test]
    fn without_leases_that_grow_nothing_is_remembered() {
        let mut leases = Leases::new(LeasePolicy { base_us: 50, max_us: 50 }, ME, 4);
        leases.heard(Turn(77));
        assert_eq!(leases.turn(1_000, false), Turn(0));
        assert_eq!(torn(&leases, 5), History::default());
    }
}
