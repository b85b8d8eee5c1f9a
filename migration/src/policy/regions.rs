//! Who touches which memory: faults by region of 2 MiB, with decay.
//!
//! Accesses to pages that are here do not fault and are not counted. To learn of them too, pages can be hidden from the
//! guest now and then, so that it faults on them: [`Sampling`] says how often.

use std::collections::BTreeMap;

use tessera_dsm::protocol::{Access, Micros};
use tessera_dsm::release::affinity::{Decay, Heat};
use tessera_dsm::Extent;

/// Most regions that are kept: 8 GiB of memory that is touched at a time. When there are more, the coldest go.
pub const REGIONS_MAX: usize = 4096;

const SECOND_US: Micros = 1_000_000;

/// The faults of one vCPU, or of one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegionFaults {
    decay: Decay,
    /// Up to when everything has faded.
    faded_to: Micros,
    regions: BTreeMap<Extent, Heat>,
}

impl RegionFaults {
    /// No faults yet, at time `now`.
    pub fn new(now: Micros) -> Self {
        RegionFaults { faded_to: now, ..RegionFaults::default() }
    }

    /// A fault: a read counts 1, a write or an upgrade to writing 2.
    pub fn note(&mut self, now: Micros, region: Extent, access: Access) {
        self.fade(now);
        if self.regions.len() >= REGIONS_MAX && !self.regions.contains_key(&region) {
            self.forget_coldest();
        }
        self.regions.entry(region).or_default().add(access);
    }

    /// How much a region is touched.
    pub fn heat(&mut self, now: Micros, region: Extent) -> Heat {
        self.fade(now);
        self.regions.get(&region).copied().unwrap_or_default()
    }

    /// How much all memory is touched.
    pub fn total(&mut self, now: Micros) -> Heat {
        self.fade(now);
        self.regions.values().fold(Heat::NONE, |sum, heat| sum.plus(*heat))
    }

    /// The regions that are touched most, at most `count`, hottest first.
    pub fn hottest(&mut self, now: Micros, count: usize) -> Vec<(Extent, Heat)> {
        self.fade(now);
        let mut regions: Vec<(Extent, Heat)> =
            self.regions.iter().map(|(region, heat)| (*region, *heat)).collect();
        regions.sort_by_key(|(region, heat)| (std::cmp::Reverse(*heat), *region));
        regions.truncate(count);
        regions
    }

    /// A hint: how fast the past fades from now on.
    pub fn set_decay(&mut self, now: Micros, decay: Decay) {
        self.fade(now);
        self.decay = decay;
    }

    /// A hint, or a reset of the vCPU: its past says nothing any more.
    pub fn clear(&mut self) {
        self.regions.clear();
    }

    fn fade(&mut self, now: Micros) {
        let seconds = now.saturating_sub(self.faded_to) / SECOND_US;
        if seconds == 0 {
            return;
        }
        self.faded_to += seconds * SECOND_US;
        let decay = self.decay;
        self.regions.retain(|_, heat| {
            *heat = heat.faded(decay, seconds);
            heat.faults() > 0
        });
    }

    /// Forgets the colder quarter at once, so that this is not done for each new region.
    fn forget_coldest(&mut self) {
        let mut heats: Vec<Heat> = self.regions.values().copied().collect();
        let (_, &mut border, _) = heats.select_nth_unstable(REGIONS_MAX / 4);
        let mut excess = REGIONS_MAX / 4;
        self.regions.retain(|_, heat| {
            let goes = *heat <= border && excess > 0;
            excess -= usize::from(goes);
            !goes
        });
    }
}

/// How often pages that are here are hidden, to learn who touches them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sampling {
    period_s: u16,
}

impl Sampling {
    /// Shortest time between two samples.
    pub const PERIOD_MIN_S: u16 = 1;
    /// Longest time between two samples.
    pub const PERIOD_MAX_S: u16 = 60;
    /// Most pages that are hidden for one sample: 256 MiB.
    pub const PAGES: u64 = 65_536;
    /// If so many of 1000 sampled faults were on pages that are here, memory is where it belongs.
    const LOCAL_PER_MILLE: u64 = 700;

    /// Often at first.
    pub const fn new() -> Self {
        Sampling { period_s: Sampling::PERIOD_MIN_S }
    }

    /// Seconds until the next sample.
    pub const fn period_s(self) -> u16 {
        self.period_s
    }

    /// After a sample with so many faults on pages that were here, and so many others: twice as long if nearly all were
    /// here, half as long if not. A sample without faults says nothing.
    #[must_use]
    pub fn after(self, local: u64, remote: u64) -> Sampling {
        let all = u128::from(local) + u128::from(remote);
        let period_s = match u128::from(local) * 1000 >= all * u128::from(Sampling::LOCAL_PER_MILLE) {
            _ if all == 0 => self.period_s,
            true => (self.period_s * 2).min(Sampling::PERIOD_MAX_S),
            false => (self.period_s / 2).max(Sampling::PERIOD_MIN_S),
        };
        Sampling { period_s }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_two_regions_are_estimated_within_five_points_in_ten_seconds() {
        let mut faults = RegionFaults::new(0);
        // Four of five accesses are to region 1, in a fixed but uneven order.
        for number in 0..1000u64 {
            let region = Extent(u64::from(number * 7 % 10 < 8));
            faults.note(number * 10_000, region, Access::Read);
        }
        let now = 10 * SECOND_US;
        let total = faults.total(now);
        let share = faults.heat(now, Extent(1)).per_mille_of(total);
        assert!((750..=850).contains(&share), "{share}");
    }

    #[test]
    fn the_past_fades_unless_told_otherwise_and_what_has_faded_is_forgotten() {
        let mut faults = RegionFaults::new(0);
        (0..1000).for_each(|_| faults.note(0, Extent(3), Access::Write));
        assert_eq!(faults.heat(SECOND_US, Extent(3)).faults(), 1950);
        faults.set_decay(SECOND_US, Decay::Never);
        assert_eq!(faults.heat(1000 * SECOND_US, Extent(3)).faults(), 1950);
        faults.set_decay(1000 * SECOND_US, Decay::Fast);
        assert_eq!(faults.heat(1001 * SECOND_US, Extent(3)).faults(), 1805);
        assert_eq!(faults.total(1200 * SECOND_US), Heat::NONE);
        assert_eq!(faults.regions.len(), 0);
    }

    #[test]
    fn the_hottest_come_first_and_a_hint_clears_all() {
        let mut faults = RegionFaults::new(0);
        for (region, times) in [(1, 5), (2, 9), (3, 7)] {
            (0..times).for_each(|_| faults.note(0, Extent(region), Access::Read));
        }
        let hottest: Vec<u64> = faults.hottest(0, 2).iter().map(|(region, _)| region.0).collect();
        assert_eq!(hottest, [2, 3]);
        faults.clear();
        assert_eq!(faults.hottest(0, 2), []);
    }

    #[test]
    fn a_guest_that_touches_all_of_its_memory_costs_a_bounded_table_that_keeps_the_hot_regions() {
        let mut faults = RegionFaults::new(0);
        for region in 0..10 * REGIONS_MAX as u64 {
            faults.note(0, Extent(region), Access::Read);
            faults.note(0, Extent(7), Access::Write);
            assert!(faults.regions.len() <= REGIONS_MAX);
        }
        assert_eq!(faults.hottest(0, 1)[0].0, Extent(7));
        assert!(faults.regions.len() > REGIONS_MAX / 2);
    }

    #[test]
    fn memory_that_is_where_it_belongs_is_sampled_less_and_less() {
        let mut sampling = Sampling::new();
        let mut periods = vec![];
        for (local, remote) in
            [(70, 30), (700, 300), (9, 1), (0, 0), (69, 31), (1, 0), (1, 0), (1, 0), (1, 0), (0, 5)]
        {
            sampling = sampling.after(local, remote);
            periods.push(sampling.period_s());
        }
        assert_eq!(periods, [2, 4, 8, 8, 4, 8, 16, 32, 60, 30]);
        (0..10).for_each(|_| sampling = sampling.after(0, u64::MAX));
        assert_eq!(sampling.period_s(), Sampling::PERIOD_MIN_S);
    }
}
