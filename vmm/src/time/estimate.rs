//! How far another host's TSC is from ours, from a ping-pong of stamps.
//!
//! One round: we stamp `sent`, the other host stamps `there` when the ping arrives and answers, we stamp
//! `back`. The other stamp was taken somewhere between ours; the middle is the best guess, and half the round
//! trip is a bound on its error that holds however unequal the two ways are. The fastest round therefore
//! gives the tightest bound.
//!
//! Nothing is assumed about the network. What the bound does not hold for is hosts whose frequencies differ:
//! it then holds for the moment of the round, and the rounds that go on while the guest runs measure the
//! drift.

use serde::{Deserialize, Serialize};

/// One round of stamps: `sent` and `back` are of our TSC, `there` of the other host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// When the ping left.
    pub sent: u64,
    /// When it arrived there.
    pub there: u64,
    /// When the answer was here.
    pub back: u64,
}

/// How far the other TSC is ahead of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TscOffset {
    /// Theirs less ours, in cycles.
    pub ahead: i64,
    /// The truth is no further than this from `ahead`, in cycles.
    pub error_bound: u64,
}

impl TscOffset {
    /// Of two nodes on one machine: they share the counter.
    pub const SAME_MACHINE: TscOffset = TscOffset { ahead: 0, error_bound: 0 };
}

/// Collects rounds and keeps the best.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimator {
    best: Option<(u64, TscOffset)>,
    rounds: u64,
}

impl Estimator {
    /// Takes a round into account. One whose stamps are not in order is ignored: our TSC stepped back, or the
    /// stamps are made up.
    pub fn add(&mut self, round: Round) {
        let Some(round_trip) = round.back.checked_sub(round.sent) else { return };
        self.rounds += 1;
        if self.best.is_some_and(|(best, _)| best <= round_trip) {
            return;
        }
        let middle = round.sent + round_trip / 2;
        // Wrapping: the counters are 64-bit, and their difference is right modulo 2^64 wherever they started.
        let ahead = round.there.wrapping_sub(middle) as i64;
        self.best = Some((round_trip, TscOffset { ahead, error_bound: round_trip.div_ceil(2) }));
    }

    /// The estimate of the fastest round, if there was one.
    pub fn offset(&self) -> Option<TscOffset> {
        self.best.map(|(_, offset)| offset)
    }

    /// The fastest round trip, in cycles.
    pub fn round_trip(&self) -> Option<u64> {
        self.best.map(|(round_trip, _)| round_trip)
    }

    /// Rounds taken into account.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }
}

/// How far apart the guest's TSC may be on two nodes, in cycles, when it was set up with `used` and a later
/// comparison says `now`: what is known to have gone wrong since, and what is not known.
pub fn skew_bound(used: TscOffset, now: TscOffset) -> u64 {
    now.ahead.wrapping_sub(used.ahead).unsigned_abs().saturating_add(now.error_bound)
}

/// What to add to this host's TSC to get the guest's. `zero` is node 0's TSC at guest TSC 0, `node0` how far
/// node 0's TSC is ahead of this host's. Wrapping, as KVM's TSC offset is.
pub fn guest_offset(node0: TscOffset, zero: u64) -> i64 {
    node0.ahead.wrapping_sub(zero as i64)
}

/// Cycles as nanoseconds at `khz`, rounded up; saturates. Zero kHz counts as one.
pub fn cycles_to_ns(cycles: u64, khz: u32) -> u64 {
    let ns = (u128::from(cycles) * 1_000_000).div_ceil(u128::from(khz.max(1)));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fastest_round_wins() {
        let mut estimator = Estimator::default();
        assert_eq!(estimator.offset(), None);
        estimator.add(Round { sent: 1000, there: 51_500, back: 2000 });
        assert_eq!(estimator.offset(), Some(TscOffset { ahead: 50_000, error_bound: 500 }));
        estimator.add(Round { sent: 3000, there: 53_010, back: 3100 });
        assert_eq!(estimator.offset(), Some(TscOffset { ahead: 49_960, error_bound: 50 }));
        estimator.add(Round { sent: 4000, there: 99_000, back: 9000 });
        assert_eq!(estimator.offset(), Some(TscOffset { ahead: 49_960, error_bound: 50 }));
        assert_eq!((estimator.round_trip(), estimator.rounds()), (Some(100), 3));
    }

    #[test]
    fn stamps_out_of_order_are_ignored() {
        let mut estimator = Estimator::default();
        estimator.add(Round { sent: 10, there: 5, back: 9 });
        assert_eq!((estimator.offset(), estimator.rounds()), (None, 0));
    }

    #[test]
    fn the_guests_clock_starts_at_zero_and_is_the_same_on_both_hosts() {
        let zero = 1_000_000u64;
        let node0 = guest_offset(TscOffset::SAME_MACHINE, zero);
        assert_eq!((zero as i64).wrapping_add(node0), 0);
        // Node 1's counter is at 300 when node 0's is at 1_000_500.
        let node1 = guest_offset(TscOffset { ahead: 1_000_200, error_bound: 0 }, zero);
        assert_eq!(300i64.wrapping_add(node1), 1_000_500i64.wrapping_add(node0));
    }

    #[test]
    fn skew_counts_both_drift_and_doubt() {
        let used = TscOffset { ahead: 100, error_bound: 10 };
        assert_eq!(skew_bound(used, TscOffset { ahead: 100, error_bound: 10 }), 10);
        assert_eq!(skew_bound(used, TscOffset { ahead: 90, error_bound: 3 }), 13);
        assert_eq!(
            skew_bound(TscOffset { ahead: i64::MIN, ..used }, TscOffset { ahead: 0, ..used }),
            (1 << 63) + 10
        );
    }

    #[test]
    fn nanoseconds_are_rounded_up() {
        assert_eq!(cycles_to_ns(1, 3_000_000), 1);
        assert_eq!(cycles_to_ns(3_000_000_000, 3_000_000), 1_000_000_000);
        assert_eq!(cycles_to_ns(u64::MAX, 0), u64::MAX);
    }

    proptest! {
        /// However unequal the two ways are, the true offset lies within the bound.
        #[test]
        fn the_truth_is_within_the_bound(
            start in 0u64..1 << 62,
            ahead in -(1i64 << 60)..1 << 60,
            ways in proptest::collection::vec((0u64..1 << 30, 0u64..1 << 30), 1..50),
        ) {
            let mut estimator = Estimator::default();
            let mut now = start;
            for (out, home) in ways {
                let there = (now + out).wrapping_add_signed(ahead);
                estimator.add(Round { sent: now, there, back: now + out + home });
                now += out + home + 1;
            }
            let offset = estimator.offset().expect("rounds were added");
            prop_assert!(offset.ahead.abs_diff(ahead) <= offset.error_bound);
        }

        #[test]
        fn no_stamp_panics(sent: u64, there: u64, back: u64, zero: u64) {
            let mut estimator = Estimator::default();
            estimator.add(Round { sent, there, back });
            if let Some(offset) = estimator.offset() {
                let _in_cycles = (guest_offset(offset, zero), skew_bound(TscOffset::default(), offset));
            }
        }
    }
}
