//! The faults that wait to be served, only to measure how long they take.

use super::stats::{LatencyRecorder, PagerStats};
use crate::ids::{Extent, Gfn};
use crate::protocol::{Access, Micros};
use crate::uffd::FaultKind;

/// Most faults that are measured at a time; a thread waits for one page at a time, so this many threads.
const MEASURED_MAX: usize = 1024;

/// One fault under way.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    gfn: Gfn,
    kind: FaultKind,
    /// When the pager had read it.
    since: Micros,
    /// The pager's step that began it: what is served in the same step needed nobody else.
    step: u64,
    /// The thread was woken although it needs more (it stores, and a copy to read has come): it will fault again,
    /// and that is the same fault to whoever waits for it.
    woken: bool,
}

/// The faults under way and the latencies of those that are over.
#[derive(Debug)]
pub(super) struct WaitingFaults {
    waiting: Vec<Waiting>,
    local: LatencyRecorder,
    read: LatencyRecorder,
    write: LatencyRecorder,
    upgrade: LatencyRecorder,
    unmeasured: u64,
    /// What a page of another node takes to come, in sixteenths of microseconds, smoothed over some sixteen faults.
    usual_16: u64,
}

/// What has become possible for those who wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Served {
    /// Loads from the page.
    Reads(Gfn),
    /// Everything on the page.
    Page(Gfn),
    /// Everything in the extent.
    Extent(Extent),
}

impl Default for WaitingFaults {
    fn default() -> Self {
        WaitingFaults {
            waiting: Vec::with_capacity(MEASURED_MAX),
            local: LatencyRecorder::default(),
            read: LatencyRecorder::default(),
            write: LatencyRecorder::default(),
            upgrade: LatencyRecorder::default(),
            unmeasured: 0,
            usual_16: 0,
        }
    }
}

impl WaitingFaults {
    /// A fault was read in step `step`.
    pub(super) fn begin(&mut self, gfn: Gfn, kind: FaultKind, now: Micros, step: u64) {
        let again = |fault: &&mut Waiting| fault.woken && fault.gfn == gfn && kind != FaultKind::MissingRead;
        if let Some(fault) = self.waiting.iter_mut().find(again) {
            fault.woken = false;
        } else if self.waiting.len() < MEASURED_MAX {
            self.waiting.push(Waiting { gfn, kind, since: now, step, woken: false });
        } else {
            self.unmeasured += 1;
        }
    }

    /// Threads were let go on in step `step`.
    pub(super) fn served(&mut self, served: Served, now: Micros, step: u64) {
        let mut i = 0;
        while i < self.waiting.len() {
            let fault = &mut self.waiting[i];
            let (concerns, enough) = match served {
                Served::Page(gfn) => (fault.gfn == gfn, true),
                Served::Extent(extent) => (fault.gfn.extent() == extent, true),
                Served::Reads(gfn) => (fault.gfn == gfn, fault.kind == FaultKind::MissingRead),
            };
            if concerns && enough {
                let fault = self.waiting.swap_remove(i);
                self.record(fault, now, step);
                continue;
            }
            fault.woken |= concerns;
            i += 1;
        }
    }

    /// What waits for the page; a store, where stores and loads do.
    pub(super) fn kind_of(&self, gfn: Gfn) -> Option<FaultKind> {
        let kinds = self.waiting.iter().filter(|fault| fault.gfn == gfn).map(|fault| fault.kind);
        kinds.reduce(|kind, other| if kind == FaultKind::MissingRead { other } else { kind })
    }

    fn record(&mut self, fault: Waiting, now: Micros, step: u64) {
        let recorder = match fault.kind {
            _ if fault.step == step => &mut self.local,
            FaultKind::MissingRead => &mut self.read,
            FaultKind::MissingWrite => &mut self.write,
            FaultKind::WriteProtected => &mut self.upgrade,
        };
        let took = now.saturating_sub(fault.since);
        recorder.record(took);
        if fault.step != step {
            self.usual_16 = (self.usual_16 + took).saturating_sub(self.usual_16 / 16);
        }
    }

    /// What a page of another node takes to come.
    pub(super) fn usual_us(&self) -> Micros {
        self.usual_16 / 16
    }

    /// Puts the figures into `stats`.
    pub(super) fn fill(&self, stats: &mut PagerStats) {
        stats.faults_local = self.local.stats();
        stats.faults_read = self.read.stats();
        stats.faults_write = self.write.stats();
        stats.faults_upgrade = self.upgrade.stats();
        stats.faults_unmeasured = self.unmeasured;
    }
}

/// What the protocol is told about a fault.
pub(super) fn access_of(kind: FaultKind) -> Access {
    match kind {
        FaultKind::MissingRead => Access::Read,
        FaultKind::MissingWrite | FaultKind::WriteProtected => Access::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(faults: &WaitingFaults) -> PagerStats {
        let mut stats = PagerStats::default();
        faults.fill(&mut stats);
        stats
    }

    #[test]
    fn a_fault_is_measured_once_and_by_its_kind() {
        let mut faults = WaitingFaults::default();
        faults.begin(Gfn(1), FaultKind::MissingRead, 100, 1);
        faults.begin(Gfn(1), FaultKind::MissingWrite, 110, 2);
        faults.begin(Gfn(2), FaultKind::WriteProtected, 120, 3);
        assert_eq!(faults.kind_of(Gfn(1)), Some(FaultKind::MissingWrite));
        assert_eq!(faults.kind_of(Gfn(3)), None);
        faults.served(Served::Page(Gfn(2)), 121, 3);
        faults.served(Served::Reads(Gfn(1)), 150, 4);
        // The writer was woken with the reader, faults again, and is the same fault.
        faults.begin(Gfn(1), FaultKind::WriteProtected, 155, 5);
        faults.served(Served::Page(Gfn(1)), 200, 6);
        faults.served(Served::Page(Gfn(1)), 300, 7);
        let stats = stats(&faults);
        assert_eq!((stats.faults_local.count, stats.faults_local.max_us), (1, 1));
        assert_eq!((stats.faults_read.count, stats.faults_read.max_us), (1, 50));
        assert_eq!((stats.faults_write.count, stats.faults_write.max_us), (1, 90));
        assert_eq!(stats.faults_upgrade.count, 0);
    }

    #[test]
    fn an_extent_serves_all_who_wait_in_it() {
        let mut faults = WaitingFaults::default();
        faults.begin(Gfn(512), FaultKind::MissingRead, 0, 1);
        faults.begin(Gfn(1023), FaultKind::MissingWrite, 0, 2);
        faults.begin(Gfn(1024), FaultKind::MissingRead, 0, 3);
        faults.served(Served::Extent(Extent(1)), 9, 4);
        let stats = stats(&faults);
        assert_eq!((stats.faults_read.count, stats.faults_write.count, faults.waiting.len()), (1, 1, 1));
    }

    #[test]
    fn no_more_faults_are_kept_than_there_is_room_for() {
        let mut faults = WaitingFaults::default();
        for gfn in 0..2 * MEASURED_MAX as u64 {
            faults.begin(Gfn(gfn), FaultKind::MissingRead, 0, gfn);
        }
        assert_eq!(faults.waiting.len(), MEASURED_MAX);
        assert_eq!(stats(&faults).faults_unmeasured, MEASURED_MAX as u64);
    }
}
