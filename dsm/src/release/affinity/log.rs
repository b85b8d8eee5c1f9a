//! Faults by vCPU and segment.

use std::collections::{BTreeMap, VecDeque};

use super::{Decay, Heat, Strength};
use crate::protocol::{Access, Micros};
use crate::release::{PageIndex, SegmentId, VcpuIndex};

/// Segments that are kept for each vCPU: those with most faults. (migShm knew one.)
pub const TOP_SEGMENTS: usize = 8;
/// Pages of a segment that are remembered for each vCPU: those touched last.
pub const RECENT_PAGES: usize = 256;

const SECOND_US: Micros = 1_000_000;

/// One vCPU's use of one segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Use {
    segment: SegmentId,
    heat: Heat,
    strength: Strength,
    /// Pages that faulted, the last one at the end; a page may be in more than once.
    recent: VecDeque<(PageIndex, Micros)>,
}

/// One vCPU's link to one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The segment.
    pub segment: SegmentId,
    /// The vCPU's heat there.
    pub heat: Heat,
    /// Its part in the vCPU's faults on all memory, of 1000.
    pub share: u16,
    /// Its class.
    pub strength: Strength,
}

/// What is known of one vCPU. It goes along when the vCPU moves.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct VcpuLog {
    decay: Decay,
    /// Up to when everything has faded, in whole seconds of this node's clock.
    faded_to: Micros,
    /// Faults on all memory.
    all: Heat,
    uses: Vec<Use>,
}

impl VcpuLog {
    /// Lets the past fade, second by second.
    fn fade(&mut self, now: Micros) {
        let seconds = now.saturating_sub(self.faded_to) / SECOND_US;
        if seconds == 0 {
            return;
        }
        self.faded_to += seconds * SECOND_US;
        self.all = self.all.faded(self.decay, seconds);
        for used in &mut self.uses {
            used.heat = used.heat.faded(self.decay, seconds);
        }
        self.class();
    }

    fn class(&mut self) {
        for used in &mut self.uses {
            used.strength = used.strength.after(used.heat, self.all);
        }
    }

    fn of(&mut self, segment: SegmentId) -> &mut Use {
        let known = self.uses.iter().position(|used| used.segment == segment);
        let place = known.unwrap_or_else(|| {
            if self.uses.len() == TOP_SEGMENTS {
                let coldest = (0..TOP_SEGMENTS).min_by_key(|&place| self.uses[place].heat);
                self.uses.swap_remove(coldest.unwrap_or(0));
            }
            let (heat, strength, recent) = (Heat::NONE, Strength::default(), VecDeque::new());
            self.uses.push(Use { segment, heat, strength, recent });
            self.uses.len() - 1
        });
        &mut self.uses[place]
    }

    fn note(&mut self, now: Micros, segment: SegmentId, page: PageIndex, access: Access) {
        self.all.add(access);
        let used = self.of(segment);
        used.heat.add(access);
        if used.recent.back().map(|(last, _)| *last) == Some(page) {
            used.recent.pop_back();
        } else if used.recent.len() == RECENT_PAGES {
            used.recent.pop_front();
        }
        used.recent.push_back((page, now));
        self.class();
    }
}

/// The vCPUs of one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct AccessLog {
    vcpus: BTreeMap<VcpuIndex, VcpuLog>,
}

impl AccessLog {
    /// A vCPU faulted in a segment.
    pub fn note(
        &mut self,
        now: Micros,
        vcpu: VcpuIndex,
        segment: SegmentId,
        page: PageIndex,
        access: Access,
    ) {
        self.of(now, vcpu).note(now, segment, page, access);
    }

    /// A vCPU faulted in other memory.
    pub fn note_elsewhere(&mut self, now: Micros, vcpu: VcpuIndex, access: Access) {
        let log = self.of(now, vcpu);
        log.all.add(access);
        log.class();
    }

    /// How fast a vCPU's past fades from now on.
    pub fn set_decay(&mut self, now: Micros, vcpu: VcpuIndex, decay: Decay) {
        self.of(now, vcpu).decay = decay;
    }

    /// A vCPU begins something new: its past says nothing any more. How fast it fades stays.
    pub fn clear(&mut self, now: Micros, vcpu: VcpuIndex) {
        let log = self.of(now, vcpu);
        (log.all, log.uses) = (Heat::NONE, vec![]);
    }

    /// A vCPU's links, strongest first.
    pub fn links(&mut self, now: Micros, vcpu: VcpuIndex) -> Vec<Link> {
        let log = self.of(now, vcpu);
        let link = |used: &Use| Link {
            segment: used.segment,
            heat: used.heat,
            share: used.heat.per_mille_of(log.all),
            strength: used.strength,
        };
        let mut links: Vec<Link> = log.uses.iter().map(link).collect();
        links.sort_by_key(|link| (std::cmp::Reverse(link.heat), link.segment));
        links
    }

    /// The greatest heat in a segment of any vCPU here but `except`.
    pub fn busiest(&mut self, now: Micros, segment: SegmentId, except: &[VcpuIndex]) -> Heat {
        let others = self.vcpus.iter_mut().filter(|(vcpu, _)| !except.contains(vcpu));
        let heats = others.flat_map(|(_, log)| {
            log.fade(now);
            log.uses.iter().filter(|used| used.segment == segment).map(|used| used.heat)
        });
        heats.max().unwrap_or_default()
    }

    /// Pages of a segment that a vCPU touched less than `window_us` ago, the last one first, each once: what to push before
    /// the vCPU moves.
    pub fn recent(
        &self,
        now: Micros,
        vcpu: VcpuIndex,
        segment: SegmentId,
        window_us: Micros,
    ) -> Vec<PageIndex> {
        let used = self.vcpus.get(&vcpu).and_then(|log| log.uses.iter().find(|used| used.segment == segment));
        let touched = used.into_iter().flat_map(|used| used.recent.iter().rev());
        let mut pages: Vec<PageIndex> = vec![];
        for &(page, _) in touched.take_while(|(_, at)| now.saturating_sub(*at) < window_us) {
            if !pages.contains(&page) {
                pages.push(page);
            }
        }
        pages
    }

    /// Takes a vCPU out that leaves this node.
    pub fn take(&mut self, now: Micros, vcpu: VcpuIndex) -> VcpuLog {
        let mut log = self.vcpus.remove(&vcpu).unwrap_or_default();
        log.fade(now);
        log
    }

    /// Takes a vCPU in that has come to this node. Its pages are not recent here: this node's clock is another.
    pub fn put(&mut self, now: Micros, vcpu: VcpuIndex, mut log: VcpuLog) {
        log.faded_to = now;
        log.uses.iter_mut().for_each(|used| used.recent.clear());
        self.vcpus.insert(vcpu, log);
    }

    fn of(&mut self, now: Micros, vcpu: VcpuIndex) -> &mut VcpuLog {
        // At most one entry for each of 65536 vCPUs, which the driver reports and no guest or peer makes up.
        let log = self.vcpus.entry(vcpu).or_insert_with(|| VcpuLog { faded_to: now, ..VcpuLog::default() });
        log.fade(now);
        log
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VCPU: VcpuIndex = VcpuIndex(3);

    fn touch(log: &mut AccessLog, now: Micros, segment: u32, times: u64) {
        for page in 0..times {
            log.note(now, VCPU, SegmentId(segment), PageIndex(page as u32), Access::Read);
        }
    }

    fn strength(log: &mut AccessLog, now: Micros, segment: u32) -> Strength {
        let links = log.links(now, VCPU);
        links.iter().find(|link| link.segment.0 == segment).map_or(Strength::Weak, |link| link.strength)
    }

    #[test]
    fn a_segment_counts_against_all_that_the_vcpu_touches() {
        let mut log = AccessLog::default();
        touch(&mut log, 0, 1, 60);
        assert_eq!(strength(&mut log, 0, 1), Strength::Strong);
        for _ in 0..100 {
            log.note_elsewhere(0, VCPU, Access::Write);
        }
        let link = log.links(0, VCPU)[0];
        assert_eq!((link.share, link.strength), (60_000 / 260, Strength::Weak));
    }

    #[test]
    fn the_past_fades_at_the_vcpus_own_pace_and_can_be_cleared() {
        let mut log = AccessLog::default();
        touch(&mut log, 0, 1, 1000);
        assert_eq!(log.links(28 * SECOND_US, VCPU)[0].heat.faults(), 492);
        log.set_decay(28 * SECOND_US, VCPU, Decay::Never);
        assert_eq!(log.links(99 * SECOND_US, VCPU)[0].heat.faults(), 492);
        log.set_decay(99 * SECOND_US, VCPU, Decay::Fast);
        assert_eq!(log.links(109 * SECOND_US, VCPU)[0].heat.faults(), 228);
        log.clear(109 * SECOND_US, VCPU);
        assert_eq!(log.links(109 * SECOND_US, VCPU), []);
    }

    #[test]
    fn parts_of_seconds_are_not_lost() {
        let (mut often, mut once) = (AccessLog::default(), AccessLog::default());
        touch(&mut often, 0, 1, 1000);
        touch(&mut once, 0, 1, 1000);
        for step in 0..100 {
            often.links(step * 300_000, VCPU);
        }
        assert_eq!(often.links(30 * SECOND_US, VCPU), once.links(30 * SECOND_US, VCPU));
    }

    #[test]
    fn the_coldest_of_nine_segments_is_forgotten() {
        let mut log = AccessLog::default();
        for segment in 0..8 {
            touch(&mut log, 0, segment, 100 - u64::from(segment));
        }
        touch(&mut log, 0, 8, 1);
        let mut known: Vec<u32> = log.links(0, VCPU).iter().map(|link| link.segment.0).collect();
        known.sort_unstable();
        assert_eq!(known, [0, 1, 2, 3, 4, 5, 6, 8]);
    }

    #[test]
    fn recent_pages_come_last_first_each_once_and_not_too_old() {
        let mut log = AccessLog::default();
        let segment = SegmentId(1);
        for (at, page) in [(0, 9), (5, 1), (6, 2), (6, 2), (7, 1), (8, 4)] {
            log.note(at * SECOND_US, VCPU, segment, PageIndex(page), Access::Read);
        }
        let recent = |log: &AccessLog, now: u64| log.recent(now * SECOND_US, VCPU, segment, 10 * SECOND_US);
        assert_eq!(recent(&log, 9), [4, 1, 2, 9].map(PageIndex));
        assert_eq!(recent(&log, 10), [4, 1, 2].map(PageIndex));
        assert_eq!(recent(&log, 30), []);
        for page in 0..2 * RECENT_PAGES as u32 {
            log.note(40 * SECOND_US, VCPU, segment, PageIndex(page), Access::Read);
        }
        assert_eq!(recent(&log, 41).len(), RECENT_PAGES, "memory is bounded");
    }

    #[test]
    fn the_log_goes_along_with_a_vcpu() {
        let (mut here, mut there) = (AccessLog::default(), AccessLog::default());
        touch(&mut here, 0, 1, 100);
        let moved = here.take(SECOND_US, VCPU);
        assert_eq!(here.links(SECOND_US, VCPU), []);
        // The clocks of two nodes have nothing to do with each other.
        there.put(1_000 * SECOND_US, VCPU, moved);
        assert_eq!(there.links(1_000 * SECOND_US, VCPU)[0].heat.faults(), 97);
        assert_eq!(there.links(1_001 * SECOND_US, VCPU)[0].heat.faults(), 95);
    }

    #[test]
    fn the_busiest_other_is_found() {
        let mut log = AccessLog::default();
        let segment = SegmentId(1);
        for (vcpu, times) in [(0, 10), (1, 30), (2, 20)] {
            for _ in 0..times {
                log.note(0, VcpuIndex(vcpu), segment, PageIndex(0), Access::Read);
            }
        }
        let busiest = |log: &mut AccessLog, except: &[u16]| {
            let except: Vec<VcpuIndex> = except.iter().copied().map(VcpuIndex).collect();
            log.busiest(0, segment, &except).faults()
        };
        assert_eq!(busiest(&mut log, &[0]), 30);
        assert_eq!(busiest(&mut log, &[1]), 20);
        assert_eq!(busiest(&mut log, &[0, 1, 2]), 0);
    }

    proptest! {
        /// vCPUs with a known link and a tenth of noise around it are classed right once there is evidence, and never
        /// change their class afterwards.
        #[test]
        fn known_links_are_classed_right_and_noise_changes_nothing(
            strong: bool,
            noise in proptest::collection::vec(-100i64..=100, 120),
        ) {
            let share = if strong { 600 } else { 150 };
            let expected = if strong { Strength::Strong } else { Strength::Weak };
            let mut log = AccessLog::default();
            for (second, noise) in noise.into_iter().enumerate() {
                let now = second as Micros * SECOND_US;
                let here = (share * (1000 + noise) / 1000) as u64 / 10;
                touch(&mut log, now, 1, here);
                (0..100 - here).for_each(|_| log.note_elsewhere(now, VCPU, Access::Read));
                prop_assert_eq!(strength(&mut log, now, 1), expected, "second {}", second);
            }
        }
    }
}
