//! What a pager has measured.

use super::arrivals::Arrivals;
use super::hot::{HotPage, HOTTEST_MAX};
use super::stalls::{self, Stall};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::link::LinkCounts;
use crate::protocol::{Counters, Holdings};
use crate::uffd::UffdCounts;

/// The longest latency told apart from longer ones, in microseconds: one minute.
const LATENCY_MAX_US: u64 = 60_000_000;

/// How long faults of one kind took, from the moment that the pager had read the fault until it had let the waiting
/// thread go on, in microseconds.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct LatencyStats {
    /// Faults measured.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half took no longer than this.
    pub p50_us: u64,
    /// 99 of 100 took no longer than this.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// `(latency, how often)`, ascending: what the figures above are made of, so that stats can be merged.
    pub buckets: Vec<(u64, u64)>,
}

impl LatencyStats {
    fn of(histogram: &Histogram<u64>) -> Self {
        LatencyStats {
            count: histogram.len(),
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
            buckets: histogram
                .iter_recorded()
                .map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration()))
                .collect(),
        }
    }

    /// Adds another node's faults to these.
    pub fn merge(&mut self, other: &LatencyStats) {
        let mut both = LatencyRecorder::default();
        for &(latency_us, count) in self.buckets.iter().chain(&other.buckets) {
            both.0.saturating_record_n(latency_us, count);
        }
        let max_us = self.max_us.max(other.max_us);
        *self = LatencyStats { max_us, ..both.stats() };
    }
}

/// Records latencies without allocating.
#[derive(Debug)]
pub(super) struct LatencyRecorder(Histogram<u64>);

impl Default for LatencyRecorder {
    fn default() -> Self {
        // Three digits: a latency of 1 ms is told from one of 1.001 ms. Fails only for bounds that make no sense.
        match Histogram::new_with_bounds(1, LATENCY_MAX_US, 3) {
            Ok(histogram) => LatencyRecorder(histogram),
            Err(error) => unreachable!("the bounds are constants: {error}"),
        }
    }
}

impl LatencyRecorder {
    pub(super) fn record(&mut self, latency_us: u64) {
        self.0.saturating_record(latency_us);
    }

    pub(super) fn stats(&self) -> LatencyStats {
        LatencyStats::of(&self.0)
    }
}

/// What a pager has counted and measured since it started. The field names are stable: they are what the CLI prints
/// as JSON.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct PagerStats {
    /// How many nodes these figures are of: 1, or more after [`PagerStats::merge`].
    pub nodes: u32,
    /// Faults that this node answered without asking anybody.
    pub faults_local: LatencyStats,
    /// Loads from absent pages that came from another node, or with its leave.
    pub faults_read: LatencyStats,
    /// Stores to absent pages that came from another node, or with its leave.
    pub faults_write: LatencyStats,
    /// Stores to pages of which there was a read copy here.
    pub faults_upgrade: LatencyStats,
    /// Faults whose latency was not measured because too many were under way.
    pub faults_unmeasured: u64,
    /// How long threads of this process have waited for pages, by thread number (gettid); of merged figures, those of one
    /// node after the other.
    pub stalls: Vec<(u32, Stall)>,
    /// Faults of KVM's own threads, which fetch pages while the guest does something else.
    pub kernel_stalls: Stall,
    /// What went over the connections to all peers.
    pub links: LinkCounts,
    /// How often each ioctl was used.
    pub uffd: UffdCounts,
    /// Pages taken from the guest and given back to the host.
    pub discards: u64,
    /// Pages among them that could have been page tables, whose translations the host had to drop.
    pub forgotten_tables: u64,
    /// Host memory that guest memory takes on this node now, in bytes.
    pub resident_bytes: u64,
    /// What the protocol counted.
    pub protocol: Counters,
    /// What the node holds now.
    pub holdings: Holdings,
    /// Pages that came one by one, by what they came for.
    pub arrivals: Arrivals,
    /// Pages asked for because they lie behind one that was waited for.
    pub asked_ahead: u64,
    /// The pages that fault most, the hottest first; of merged figures, those of one node after the other.
    pub hottest: Vec<HotPage>,
}

impl PagerStats {
    /// The figures of two pagers of the same node as those of one.
    pub(super) fn joined(self, other: PagerStats) -> PagerStats {
        let (nodes, resident_bytes) = (self.nodes, self.resident_bytes);
        let mut both = PagerStats { stalls: stalls::joined(self.stalls.clone(), &other.stalls), ..self };
        both.merge(&PagerStats { stalls: Vec::new(), ..other });
        both.hottest.sort_by_key(|page| std::cmp::Reverse(page.reads.saturating_add(page.writes)));
        both.hottest.truncate(HOTTEST_MAX);
        PagerStats { nodes, resident_bytes, ..both }
    }

    /// Adds another node's figures to these.
    pub fn merge(&mut self, other: &PagerStats) {
        self.nodes += other.nodes;
        self.faults_local.merge(&other.faults_local);
        self.faults_read.merge(&other.faults_read);
        self.faults_write.merge(&other.faults_write);
        self.faults_upgrade.merge(&other.faults_upgrade);
        self.faults_unmeasured += other.faults_unmeasured;
        self.stalls.extend_from_slice(&other.stalls);
        self.kernel_stalls.merge(&other.kernel_stalls);
        self.links.merge(&other.links);
        self.uffd.merge(&other.uffd);
        self.discards += other.discards;
        self.arrivals.merge(&other.arrivals);
        self.asked_ahead += other.asked_ahead;
        self.hottest.extend_from_slice(&other.hottest);
        self.forgotten_tables += other.forgotten_tables;
        self.resident_bytes += other.resident_bytes;
        merge_counters(&mut self.protocol, &other.protocol);
        self.holdings.whole_extents += other.holdings.whole_extents;
        self.holdings.writable_pages += other.holdings.writable_pages;
        self.holdings.readable_pages += other.holdings.readable_pages;
    }
}

/// Adds `other` to `sum`, field by field; a new field in [`Counters`] must be named here to compile.
fn merge_counters(sum: &mut Counters, other: &Counters) {
    let Counters {
        first_touches_local,
        first_touches_remote,
        remote_reads,
        remote_writes,
        upgrades,
        joined,
        spurious,
        overtaken,
        recalls,
        invalidations,
        lease_deferrals,
        lend_deferrals,
        lease_extensions,
        reads_given_to_write,
        splits,
        merges,
        homes_taken,
        lends,
        transactions,
        queued,
    } = sum;
    *first_touches_local += other.first_touches_local;
    *first_touches_remote += other.first_touches_remote;
    *remote_reads += other.remote_reads;
    *remote_writes += other.remote_writes;
    *upgrades += other.upgrades;
    *joined += other.joined;
    *spurious += other.spurious;
    *overtaken += other.overtaken;
    *recalls += other.recalls;
    *invalidations += other.invalidations;
    *lease_deferrals += other.lease_deferrals;
    *lend_deferrals += other.lend_deferrals;
    *lease_extensions += other.lease_extensions;
    *reads_given_to_write += other.reads_given_to_write;
    *splits += other.splits;
    *merges += other.merges;
    *homes_taken += other.homes_taken;
    *lends += other.lends;
    *transactions += other.transactions;
    *queued += other.queued;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Gfn;

    fn recorded(latencies: impl IntoIterator<Item = u64>) -> LatencyStats {
        let mut recorder = LatencyRecorder::default();
        latencies.into_iter().for_each(|latency_us| recorder.record(latency_us));
        recorder.stats()
    }

    #[test]
    fn merged_latencies_are_those_of_all_faults_together() {
        let mut merged = recorded(1..=500);
        merged.merge(&recorded(501..=1000));
        assert_eq!(merged, recorded(1..=1000));
        assert_eq!((merged.count, merged.p50_us, merged.max_us), (1000, 500, 1000));
    }

    #[test]
    fn merging_with_nothing_changes_nothing() {
        let some = recorded([3, 70, 70, 900_000_000]);
        let mut merged = some.clone();
        merged.merge(&LatencyStats::default());
        assert_eq!(merged, some);
        let mut merged = LatencyStats::default();
        merged.merge(&some);
        assert_eq!(merged, some);
    }

    #[test]
    fn pagers_of_one_node_are_one_node_and_a_thread_that_waited_for_both_is_one_thread() {
        let stall = |faults| Stall { faults, waited_us: 10 * faults };
        let hot = |gfn, reads| HotPage { gfn: Gfn(gfn), reads, writes: 1 };
        let stats = |stalls, hottest| PagerStats {
            nodes: 1,
            discards: 3,
            resident_bytes: 4096,
            faults_read: recorded([5]),
            stalls,
            hottest,
            ..PagerStats::default()
        };
        let one = stats(vec![(7, stall(1)), (8, stall(2))], (0..15).map(|page| hot(page, 100)).collect());
        let other = stats(vec![(9, stall(3)), (7, stall(4))], (15..30).map(|page| hot(page, 200)).collect());
        let both = one.joined(other);
        assert_eq!((both.nodes, both.discards, both.resident_bytes, both.faults_read.count), (1, 6, 4096, 2));
        assert_eq!(both.stalls, [(7, stall(5)), (8, stall(2)), (9, stall(3))]);
        assert_eq!((both.hottest.len(), both.hottest[0], both.hottest[19]), (20, hot(15, 200), hot(4, 100)));
    }

    #[test]
    fn merged_stats_count_both_nodes() {
        let one = PagerStats { nodes: 1, discards: 3, resident_bytes: 4096, ..PagerStats::default() };
        let mut merged = one.clone();
        merged.merge(&one);
        assert_eq!((merged.nodes, merged.discards, merged.resident_bytes), (2, 6, 8192));
    }
}
