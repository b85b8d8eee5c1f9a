//! What the pagers of one node know of each other. They never wait for each other.
//!
//! Each has its own part of memory, its own links and its own core, and two things go beyond a part:
//! - how long pages are held: one instruction may need pages of several parts, so each core hears what the others
//!   are about ([`Pace`]);
//! - the end: when one pager fails all stop serving, and the last to leave tells of the failure, with what all of them know
//!   of the lost peer.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Bell, PagerFailure};
use crate::ids::{NodeId, Shard};
use crate::protocol::{Pace, Turn};

/// What one pager is about; in a cache line of its own, since only that pager writes it.
///
/// Its fields are written and read one by one, without order: it decides how long pages are held, and nothing else.
#[repr(align(64))]
#[derive(Default)]
struct Slot {
    waiting: AtomicBool,
    turn: AtomicU32,
    latest: AtomicU32,
    since: AtomicU64,
    fulfilled: AtomicU64,
}

impl Slot {
    fn store(&self, pace: Pace) {
        let Pace { waiting, fulfilled, turn, since, latest } = pace;
        self.waiting.store(waiting, Ordering::Relaxed);
        self.turn.store(turn.0, Ordering::Relaxed);
        self.latest.store(latest.0, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
        self.fulfilled.store(fulfilled, Ordering::Relaxed);
    }

    fn load(&self) -> Pace {
        Pace {
            waiting: self.waiting.load(Ordering::Relaxed),
            fulfilled: self.fulfilled.load(Ordering::Relaxed),
            turn: Turn(self.turn.load(Ordering::Relaxed)),
            since: self.since.load(Ordering::Relaxed),
            latest: Turn(self.latest.load(Ordering::Relaxed)),
        }
    }
}

/// Both paces as that of one.
fn merged(one: Pace, other: Pace) -> Pace {
    let later = if one.turn.is_before(other.turn) { other } else { one };
    Pace {
        waiting: one.waiting || other.waiting,
        fulfilled: one.fulfilled.max(other.fulfilled),
        turn: later.turn,
        since: later.since,
        latest: if one.latest.is_before(other.latest) { other.latest } else { one.latest },
    }
}

/// How the node's part in the guest ends.
struct End {
    /// The first thing that went wrong.
    failure: Option<PagerFailure>,
    /// Pagers that still serve.
    serving: usize,
}

/// What the pagers of a node share.
pub(super) struct Siblings {
    /// By shard.
    slots: Box<[Slot]>,
    bells: Vec<Arc<Bell>>,
    failed: AtomicBool,
    end: Mutex<End>,
}

impl Siblings {
    /// Of the pagers with these bells.
    pub fn new(bells: Vec<Arc<Bell>>) -> Arc<Self> {
        Arc::new(Siblings {
            slots: bells.iter().map(|_| Slot::default()).collect(),
            failed: AtomicBool::new(false),
            end: Mutex::new(End { failure: None, serving: bells.len() }),
            bells,
        })
    }

    /// Tells the others what the pager of shard `me` is about.
    pub fn tell(&self, me: Shard, pace: Pace) {
        if self.slots.len() > 1 {
            self.slots[me.index()].store(pace);
        }
    }

    /// What all but the pager of shard `me` are about; `None` if there are no others.
    pub fn hear(&self, me: Shard) -> Option<Pace> {
        let others = self.slots.iter().enumerate().filter(|(shard, _)| *shard != me.index());
        others.map(|(_, slot)| slot.load()).reduce(merged)
    }

    /// A pager cannot go on: all are to stop serving. Only the first failure counts.
    pub fn fail(&self, failure: PagerFailure) {
        self.lock().failure.get_or_insert(failure);
        self.failed.store(true, Ordering::SeqCst);
        self.bells.iter().for_each(|bell| bell.ring());
    }

    /// Whether some pager cannot go on. Looked at when the bell has rung.
    pub fn have_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// A pager serves no more. `pages_only_at` says how many pages only a lost peer has, as far as this pager knows. The last
    /// one is given the failure, if there was one, to tell of it.
    pub fn leave(&self, pages_only_at: impl FnOnce(NodeId) -> u64) -> Option<PagerFailure> {
        let peer = self.lock().failure.as_ref().and_then(|failure| failure.peer);
        // It looks at all pages: not under the lock.
        let pages = peer.map(pages_only_at);
        let mut end = self.lock();
        if let (Some(failure), Some(pages)) = (&mut end.failure, pages) {
            *failure.pages_only_there.get_or_insert(0) += pages;
        }
        end.serving -= 1;
        if end.serving == 0 {
            end.failure.take()
        } else {
            None
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn siblings(count: usize) -> Arc<Siblings> {
        Siblings::new((0..count).map(|_| Arc::new(Bell::new().expect("eventfd"))).collect())
    }

    fn pace(waiting: bool, fulfilled: u64, turn: u32, since: u64, latest: u32) -> Pace {
        Pace { waiting, fulfilled, turn: Turn(turn), since, latest: Turn(latest) }
    }

    #[test]
    fn each_hears_all_others_as_one() {
        let siblings = siblings(3);
        siblings.tell(Shard(0), pace(false, 70, 5, 60, 9));
        siblings.tell(Shard(1), pace(true, 40, 7, 50, 7));
        siblings.tell(Shard(2), pace(false, 90, 1, 10, 100));
        assert_eq!(siblings.hear(Shard(2)), Some(pace(true, 70, 7, 50, 9)));
        assert_eq!(siblings.hear(Shard(1)), Some(pace(false, 90, 5, 60, 100)), "not itself");
    }

    #[test]
    fn a_pager_alone_hears_nothing() {
        let siblings = siblings(1);
        siblings.tell(Shard(0), pace(true, 1, 1, 1, 1));
        assert_eq!(siblings.hear(Shard(0)), None);
    }

    #[test]
    fn the_last_to_leave_tells_of_the_first_failure_with_the_pages_of_all() {
        let siblings = siblings(3);
        assert!(!siblings.have_failed());
        siblings.fail(PagerFailure::of(NodeId(1), "lost".into()));
        siblings.fail(PagerFailure::of(NodeId(2), "lost too".into()));
        assert!(siblings.have_failed());
        let only_at = |peer: NodeId| if peer == NodeId(1) { 10 } else { 1000 };
        assert_eq!(siblings.leave(only_at), None);
        assert_eq!(siblings.leave(only_at), None);
        let failure = siblings.leave(only_at).expect("the last one");
        assert_eq!((failure.peer, failure.pages_only_there), (Some(NodeId(1)), Some(30)));
    }

    #[test]
    fn an_orderly_end_tells_of_nothing() {
        let siblings = siblings(2);
        assert_eq!(siblings.leave(|_| 1), None);
        assert_eq!(siblings.leave(|_| 1), None);
        siblings.bells.iter().for_each(|bell| bell.silence());
    }
}
