//! How busy a host is.
//!
//! openMosix and Kerrighed kept two figures and so avoided that hosts pass work to and fro: what a host thinks of itself
//! (*mean*) rises slowly and falls at once, so that a short burst makes it send nothing away; what it tells others (*upper*)
//! rises at once and falls slowly, so that nobody sends it work on the strength of a short lull.

use serde::{Deserialize, Serialize};

/// The speed of the reference processor.
pub const REFERENCE_SPEED: u32 = 10_000;

/// A load, in thousandths: 1000 is as much as one CPU of reference speed can do, for each CPU of the host. So 1000 on a host
/// of any size is a host in full use, 2000 twice as much as it can do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Load(pub u32);

impl Load {
    /// The load of a host with `cpus` processors of relative `speed` (10000 = reference) on which
    /// `runnable` threads ran or waited on average, in thousandths. Without processors, or with no speed, it is without
    /// bounds: nothing can be done there.
    pub fn of_host(runnable: u32, cpus: u32, speed: u32) -> Load {
        let capacity = u64::from(cpus) * u64::from(speed);
        let load = (u64::from(runnable) * u64::from(REFERENCE_SPEED)).checked_div(capacity);
        Load(load.map_or(u32::MAX, |load| u32::try_from(load).unwrap_or(u32::MAX)))
    }
}

/// A host's load over time. Give it a sample each second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Smoothed {
    mean: Load,
    upper: Load,
}

impl Smoothed {
    /// The load in the last second.
    pub fn sample(&mut self, now: Load) {
        // Rounded towards the sample, or a value one off would stay for ever.
        let rising = (5 * u64::from(self.mean.0) + 3 * u64::from(now.0)).div_ceil(8) as u32;
        let falling = ((7 * u64::from(self.upper.0) + u64::from(now.0)) / 8) as u32;
        self.mean = if now > self.mean { Load(rising) } else { now };
        self.upper = if now >= self.upper { now } else { Load(falling) };
    }

    /// For the host's own decisions: rises slowly, falls at once.
    pub fn mean(&self) -> Load {
        self.mean
    }

    /// For others' decisions about this host: rises at once, falls slowly.
    pub fn upper(&self) -> Load {
        self.upper
    }
}

/// How long what is known of a host counts, in microseconds. Then the host is suspected to be lost, and nothing is sent
/// there. What is known carries its age, not a time: clocks of hosts need not agree.
pub const KNOWLEDGE_US: u64 = 10_000_000;

/// Whether what is known of a host still counts.
pub fn is_current(age_us: u64) -> bool {
    age_us <= KNOWLEDGE_US
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(samples: impl IntoIterator<Item = u32>) -> (u32, u32) {
        let mut smoothed = Smoothed::default();
        samples.into_iter().for_each(|load| smoothed.sample(Load(load)));
        (smoothed.mean().0, smoothed.upper().0)
    }

    #[test]
    fn a_burst_shows_to_others_at_once_and_to_itself_slowly() {
        assert_eq!(after([800]), (300, 800));
        assert_eq!(after([800, 800]), (488, 800));
        assert_eq!(after([800; 12]).1, 800);
        assert!(after([800; 12]).0 > 790);
    }

    #[test]
    fn a_lull_shows_to_itself_at_once_and_to_others_slowly() {
        let busy = [800; 40];
        assert_eq!(after(busy.into_iter().chain([0])), (0, 700));
        assert_eq!(after(busy.into_iter().chain([0, 0])), (0, 612));
    }

    #[test]
    fn processors_and_their_speed_count() {
        assert_eq!(Load::of_host(4_000, 4, REFERENCE_SPEED), Load(1_000));
        assert_eq!(Load::of_host(4_000, 4, 2 * REFERENCE_SPEED), Load(500));
        assert_eq!(Load::of_host(4_000, 2, REFERENCE_SPEED / 2), Load(4_000));
        assert_eq!(Load::of_host(1, 0, REFERENCE_SPEED), Load(u32::MAX));
        assert_eq!(Load::of_host(u32::MAX, 1, 1), Load(u32::MAX));
    }

    #[test]
    fn old_knowledge_does_not_count() {
        assert!(is_current(0) && is_current(KNOWLEDGE_US));
        assert!(!is_current(KNOWLEDGE_US + 1));
    }

    proptest! {
        #[test]
        fn both_figures_reach_a_load_that_lasts_and_keep_it_between_them(
            before in proptest::collection::vec(any::<u32>(), 0..20),
            lasting: u32,
        ) {
            let mut smoothed = Smoothed::default();
            for &load in &before {
                smoothed.sample(Load(load));
                prop_assert!(smoothed.mean().0 <= load && load <= smoothed.upper().0);
            }
            (0..400).for_each(|_| smoothed.sample(Load(lasting)));
            prop_assert_eq!((smoothed.mean(), smoothed.upper()), (Load(lasting), Load(lasting)));
        }
    }
}
