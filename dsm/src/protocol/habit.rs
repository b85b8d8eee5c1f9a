//! What a home learns of the way a page is used, from the requests alone, and what it makes of that.
//!
//! **Migratory** pages are read and then written by one node after the other, as what a lock protects. Each hand-over costs
//! two round trips: the page comes to be read, then the last owner's copy is taken. Where that has been seen, the page
//! goes to the next reader to be written at once, which saves the second.
//!
//! The home does not see whether the guess was right: who may write says nothing when it does. So one grant in
//! [`MigratoryPolicy::probe_every`] is for reading only. If the upgrade follows, the habit holds; if not, it is forgotten, and must
//! be seen twice as often as the last time before it is believed again.

use serde::{Deserialize, Serialize};

use super::extent::Entry;
use super::merge::MergePolicy;
use super::Access;
use crate::ids::NodeId;

/// What homes make of the way pages are used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HabitPolicy {
    /// Pages that are read and then written by one node after the other; `None`: each is asked for twice.
    pub migratory: Option<MigratoryPolicy>,
    /// Split extents that are one node's again; `None`: they stay split.
    pub merge: Option<MergePolicy>,
}

/// When a page counts as migratory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MigratoryPolicy {
    /// After so many hand-overs in a row, each a read and then an upgrade by the only reader; at least 1.
    pub after: u8,
    /// One in so many grants to a reader is for reading only, to see whether it still writes; at least 1.
    pub probe_every: u8,
}

impl Default for HabitPolicy {
    fn default() -> Self {
        let migratory = MigratoryPolicy { after: 2, probe_every: 8 };
        HabitPolicy { migratory: Some(migratory), merge: Some(MergePolicy::default()) }
    }
}

impl HabitPolicy {
    /// Nothing is learned: every request gets what it asks for.
    pub const OFF: HabitPolicy = HabitPolicy { migratory: None, merge: None };
}

/// Most doublings of the hand-overs that must be seen.
const REFUTED_MAX: u8 = 5;

/// What is known of one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Habit {
    /// Who wrote the page last, while others may read it.
    writer: u8,
    /// Hand-overs in a row.
    seen: u8,
    /// Readers since the last probe that got the page to write.
    guessed: u8,
    /// How often a probe found no upgrade.
    refuted: u8,
}

impl Habit {
    /// A request of `node` begins, as the page's entry stands: learns from it, and says what `node` is to get, never less than
    /// it asks for.
    pub fn meets(&mut self, policy: HabitPolicy, entry: Entry, node: NodeId, access: Access) -> Access {
        let Some(policy) = policy.migratory else { return access };
        match (entry, access) {
            (Entry::Exclusive(owner), Access::Read) => {
                self.writer = owner.0;
                if self.guesses(policy) {
                    return Access::Write;
                }
            }
            // A write without a read before it fits as well, and tells nothing.
            (Entry::Exclusive(_), Access::Write) => {}
            (Entry::Shared(set), Access::Write)
                if set.len() == 2
                    && set.contains(node)
                    && set.contains(NodeId(self.writer))
                    && node.0 != self.writer =>
            {
                self.seen = self.seen.saturating_add(1).min(self.needed(policy));
            }
            (Entry::Shared(_), _) => self.forget(policy),
        }
        access
    }

    /// Whether a reader gets the page to write, or is the next probe.
    fn guesses(&mut self, policy: MigratoryPolicy) -> bool {
        if !self.is_migratory(policy) {
            return false;
        }
        self.guessed = (self.guessed + 1) % policy.probe_every.max(1);
        self.guessed != 0
    }

    /// Whether the page is taken for one that migrates.
    fn is_migratory(self, policy: MigratoryPolicy) -> bool {
        self.seen >= self.needed(policy)
    }

    /// Hand-overs in a row that make it one.
    fn needed(self, policy: MigratoryPolicy) -> u8 {
        policy.after.max(1).saturating_mul(1 << self.refuted)
    }

    /// The page is used in another way.
    fn forget(&mut self, policy: MigratoryPolicy) {
        if self.is_migratory(policy) {
            self.refuted = (self.refuted + 1).min(REFUTED_MAX);
        }
        (self.seen, self.guessed) = (0, 0);
    }
}

#[cfg(test)]
impl Habit {
    /// Forgets how often it was wrong, which only makes guesses rarer.
    pub fn forgive(&mut self) {
        self.refuted = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeSet;

    use Access::{Read, Write};

    const POLICY: HabitPolicy =
        HabitPolicy { migratory: Some(MigratoryPolicy { after: 2, probe_every: 4 }), merge: None };

    /// A page, its entry kept as the directory would.
    struct Page {
        habit: Habit,
        entry: Entry,
    }

    impl Page {
        fn new() -> Self {
            Page { habit: Habit::default(), entry: Entry::Exclusive(NodeId(0)) }
        }

        /// A node asks; gives what it gets, or nothing if it has that.
        fn asks(&mut self, node: u8, access: Access) -> Option<Access> {
            let node = NodeId(node);
            let mut holders = match self.entry {
                Entry::Exclusive(owner) if owner == node => return None,
                Entry::Exclusive(owner) => NodeSet::only(owner),
                Entry::Shared(set) => set,
            };
            let gets = self.habit.meets(POLICY, self.entry, node, access);
            holders.insert(node);
            self.entry = if gets == Write { Entry::Exclusive(node) } else { Entry::Shared(holders) };
            Some(gets)
        }

        /// A node reads and then writes; gives how many requests that took.
        fn hand_over(&mut self, to: u8) -> usize {
            [self.asks(to, Read), self.asks(to, Write)].iter().flatten().count()
        }
    }

    #[test]
    fn a_page_that_migrates_is_handed_over_with_one_request_but_for_probes() {
        let mut page = Page::new();
        let requests: Vec<usize> = (1..=12).map(|turn| page.hand_over(turn % 3)).collect();
        assert_eq!(requests, [2, 2, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1], "every fourth is a probe");
    }

    #[test]
    fn a_page_that_is_read_by_many_between_writes_is_never_taken_for_one() {
        let mut page = Page::new();
        for turn in 0..100 {
            assert!(page.asks(turn % 4, Write).is_some() || turn % 4 == 0);
            for reader in 1..4 {
                assert_eq!(page.asks((turn + reader) % 4, Read), Some(Read));
            }
        }
        assert_eq!(page.habit.seen, 0);
    }

    #[test]
    fn what_one_node_writes_and_another_reads_is_never_taken_for_one() {
        let mut page = Page::new();
        for _ in 0..100 {
            assert_eq!(page.asks(1, Read), Some(Read));
            assert_eq!(page.asks(0, Write), Some(Write));
        }
    }

    #[test]
    fn a_probe_that_finds_no_upgrade_ends_it_and_the_next_time_takes_twice_as_long() {
        let mut page = Page::new();
        let mut needed = vec![];
        for round in 0..4 {
            let mut hand_overs = 0;
            while page.hand_over(hand_overs % 2 + 1) == 2 {
                hand_overs += 1;
            }
            needed.push(hand_overs);
            // From now on it is only read: guesses go wrong until the next probe, at most.
            let wrong = (0..20).filter(|turn| page.asks(turn % 3, Read) == Some(Write)).count();
            assert!(wrong < 4, "round {round}: {wrong} wrong guesses");
            assert_eq!(page.asks(0, Write).unwrap_or(Write), Write);
        }
        assert_eq!(needed, [2, 4, 8, 16]);
    }

    #[test]
    fn nothing_is_guessed_where_that_is_switched_off() {
        let mut habit = Habit::default();
        for turn in 0..20u8 {
            let (owner, node) = (NodeId(turn % 2), NodeId((turn + 1) % 2));
            assert_eq!(habit.meets(HabitPolicy::OFF, Entry::Exclusive(owner), node, Read), Read);
            let mut both = NodeSet::only(owner);
            both.insert(node);
            assert_eq!(habit.meets(HabitPolicy::OFF, Entry::Shared(both), node, Write), Write);
        }
        assert_eq!(habit, Habit::default());
    }
}
