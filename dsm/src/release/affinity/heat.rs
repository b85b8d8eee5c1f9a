//! Faults counted with decay: what happened long ago counts less.

use serde::{Deserialize, Serialize};

use crate::protocol::Access;

/// How fast a vCPU's past is forgotten. openMosix kept 975 or 926 of 1000 each interval, so that half of the past is
/// gone after 27 or 9 of them; here an interval is a second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Decay {
    /// The past does not fade. For a program that knows it will do the same all the time.
    Never,
    /// Half is forgotten in 27 seconds.
    #[default]
    Slow,
    /// Half is forgotten in 9 seconds. For a program that works in short phases.
    Fast,
}

impl Decay {
    /// Of 1000, how many are left after one second.
    pub const fn kept_per_mille(self) -> u64 {
        match self {
            Decay::Never => 1000,
            Decay::Slow => 975,
            Decay::Fast => 926,
        }
    }
}

/// A fault that reads counts once, one that writes twice: it costs others their copies.
pub const fn weight(access: Access) -> u64 {
    match access {
        Access::Read => 1,
        Access::Write => 2,
    }
}

/// Weighted faults, fading. Kept in 1/65536, so that few faults fade as evenly as many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Heat(u64);

impl Heat {
    /// No fault.
    pub const NONE: Heat = Heat(0);
    const ONE: u64 = 1 << 16;

    /// So many weighted faults at once.
    pub const fn of(faults: u64) -> Heat {
        Heat(faults.saturating_mul(Heat::ONE))
    }

    /// One more fault.
    pub fn add(&mut self, access: Access) {
        *self = self.plus(Heat::of(weight(access)));
    }

    /// The heat of two together.
    #[must_use]
    pub const fn plus(self, other: Heat) -> Heat {
        Heat(self.0.saturating_add(other.0))
    }

    /// What is left after so many seconds.
    #[must_use]
    pub fn faded(self, decay: Decay, seconds: u64) -> Heat {
        let kept = u128::from(decay.kept_per_mille());
        if kept == 1000 {
            return self;
        }
        let mut left = self.0;
        for _ in 0..seconds {
            if left == 0 {
                break;
            }
            // Rounding down: at least one part in 65536 goes each time, so this ends.
            left = (u128::from(left) * kept / 1000) as u64;
        }
        Heat(left)
    }

    /// Weighted faults, rounded down.
    pub const fn faults(self) -> u64 {
        self.0 / Heat::ONE
    }

    /// This heat's part in `total`, of 1000, at most that; 0 of nothing.
    pub fn per_mille_of(self, total: Heat) -> u16 {
        match total.0 {
            0 => 0,
            total => (u128::from(self.0) * 1000 / u128::from(total)).min(1000) as u16,
        }
    }

    /// Whether this is at least four thirds of `other`: more than the measurement's noise.
    pub fn dominates(self, other: Heat) -> bool {
        self.0 > 0 && u128::from(self.0) * 3 >= u128::from(other.0) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_forgotten_in_27_or_9_seconds_or_never() {
        let heat = Heat::of(1_000_000);
        let left = |decay, seconds| heat.faded(decay, seconds).faults();
        assert!(left(Decay::Slow, 27) > 500_000 && left(Decay::Slow, 28) < 500_000);
        assert!(left(Decay::Fast, 9) > 500_000 && left(Decay::Fast, 10) < 500_000);
        assert_eq!(left(Decay::Never, u64::MAX), 1_000_000);
        assert_eq!(left(Decay::Slow, 1), 975_000);
        assert_eq!(left(Decay::Fast, 1), 926_000);
    }

    #[test]
    fn fading_ends_at_nothing_and_does_not_depend_on_how_often_it_is_asked_for() {
        assert_eq!(Heat(u64::MAX).faded(Decay::Slow, u64::MAX), Heat::NONE);
        let mut often = Heat::of(12_345);
        for _ in 0..40 {
            often = often.faded(Decay::Fast, 1);
        }
        assert_eq!(often, Heat::of(12_345).faded(Decay::Fast, 40));
    }

    #[test]
    fn few_faults_fade_as_evenly_as_many() {
        let (few, many) = (Heat::of(4).faded(Decay::Slow, 60), Heat::of(4_000_000).faded(Decay::Slow, 60));
        let ratio = many.0 as f64 / few.0 as f64 / 1e6;
        assert!((0.99..1.01).contains(&ratio), "{ratio}");
    }

    #[test]
    fn writes_count_twice_and_sums_do_not_wrap() {
        let mut heat = Heat::NONE;
        heat.add(Access::Read);
        heat.add(Access::Write);
        assert_eq!(heat.faults(), 3);
        let mut most = Heat(u64::MAX - 1);
        most.add(Access::Write);
        assert_eq!(most, Heat(u64::MAX));
        assert_eq!(most.per_mille_of(most), 1000);
        assert_eq!(Heat::of(1).per_mille_of(Heat::of(4)), 250);
        assert_eq!(Heat::of(1).per_mille_of(Heat::NONE), 0);
    }

    #[test]
    fn dominance_needs_a_third_more() {
        assert!(Heat::of(4).dominates(Heat::of(3)));
        assert!(!Heat::of(399).dominates(Heat::of(300)));
        assert!(Heat::of(1).dominates(Heat::NONE));
        assert!(!Heat::NONE.dominates(Heat::NONE), "who does nothing dominates nobody");
    }
}
