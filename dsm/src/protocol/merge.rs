//! When a split extent becomes whole again.
//!
//! An extent splits at the first conflict and costs a fault for every page from then on. When all its pages have come
//! back to one node and nobody else has asked for a while, the home makes it whole again and tells the owner
//! ([`Message::Merge`](super::Message::Merge)); pages that were never touched count as the owner's, as since the split.
//!
//! The home need not ask: with no transaction under way, its directory says what the owner has, and whatever it
//! orders of the owner later travels the same link behind the message. A request that comes meanwhile splits the extent anew.
//!
//! An extent that splits again and again waits twice as long each time. The home looks at no extent but those that
//! have become one node's, and at few of them each time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::extent::Extents;
use super::table::Place;
use super::Micros;
use crate::ids::NodeId;

/// When an extent is made whole again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct MergePolicy {
    /// How long nobody must have asked for any page of it, in microseconds; the first time. It should exceed by far what a
    /// split costs.
    pub quiet_us: Micros,
}

impl Default for MergePolicy {
    /// 100 ms.
    fn default() -> Self {
        MergePolicy { quiet_us: 100_000 }
    }
}

/// Most extents looked at in one tick.
const LOOKS_MAX: usize = 8;
/// Most doublings of the quiet time.
const DOUBLINGS_MAX: u8 = 6;

/// An extent to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Look {
    at: Micros,
    /// Some page of it.
    place: Place,
}

/// The extents that may soon be whole again.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Merging {
    policy: Option<MergePolicy>,
    /// Each extent at most once, the earliest first.
    looks: VecDeque<Look>,
    /// No look before this.
    resume: Micros,
    /// How often each extent was merged, up to [`DOUBLINGS_MAX`].
    merged: Vec<u8>,
}

impl Merging {
    /// Nothing to look at, of so many extents.
    pub fn new(policy: Option<MergePolicy>, extents: usize) -> Self {
        let merged = vec![0; if policy.is_some() { extents } else { 0 }];
        Merging { policy, looks: VecDeque::new(), resume: 0, merged }
    }

    /// All pages of the extent are one node's now.
    pub fn note(&mut self, place: Place, now: Micros, extents: &mut Extents) {
        let (Some(policy), Some(split)) = (self.policy, extents.pages_mut(place.extent)) else { return };
        if !std::mem::replace(&mut split.noted, true) {
            self.looks.push_back(Look { at: now.saturating_add(policy.quiet_us.max(1)), place });
        }
    }

    /// The extent has another home.
    pub fn forget(&mut self, extent: usize) {
        self.looks.retain(|look| look.place.extent != extent);
    }

    /// When the next look is due.
    pub fn next_deadline(&self) -> Option<Micros> {
        self.looks.front().map(|look| look.at.max(self.resume))
    }

    /// An extent whose time has come, and its owner: the caller makes it whole. `looked` counts the looks of this tick.
    pub fn next_due(
        &mut self,
        now: Micros,
        looked: &mut usize,
        extents: &mut Extents,
    ) -> Option<(Place, NodeId)> {
        let policy = self.policy?;
        while self.next_deadline().is_some_and(|at| at <= now) {
            if *looked == LOOKS_MAX {
                self.resume = now.saturating_add(1);
                return None;
            }
            *looked += 1;
            let place = self.looks.pop_front()?.place;
            let Some(split) = extents.pages_mut(place.extent) else { continue };
            split.noted = false;
            let Some((owner, since)) = split.sole_owner() else { continue };
            let merged = &mut self.merged[place.extent];
            if now.saturating_sub(since) >= policy.quiet_us.saturating_mul(1 << *merged) {
                *merged = (*merged + 1).min(DOUBLINGS_MAX);
                return Some((place, owner));
            }
            self.note(place, now, extents);
        }
        None
    }
}

#[cfg(test)]
impl Merging {
    /// Nothing is looked at any more.
    pub fn forget_looks(&mut self) {
        self.looks.clear();
    }

    /// Forgets past times and how often extents were merged, which only makes merges rarer.
    pub fn forget_times(&mut self) {
        let quiet = self.policy.map_or(0, |policy| policy.quiet_us);
        self.looks.iter_mut().for_each(|look| look.at = quiet);
        self.resume = 0;
        self.merged.fill(0);
    }
}
