//! What a machine has done, in numbers.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tessera_dsm::NodeId;

/// Blackouts longer than this count as this: 10 minutes.
const BLACKOUT_MAX_US: u64 = 600_000_000;

/// A vCPU, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// Its number.
    pub vcpu: u16,
    /// Its APIC id.
    pub apic_id: u32,
    /// Where it runs, as far as the node knows.
    pub node: NodeId,
    /// How many moves it has made, as far as the node knows.
    pub moves: u64,
    /// The blackout of its last move to this node, in microseconds.
    pub last_blackout_us: u32,
    /// The longest blackout of a move to this node, in microseconds.
    pub worst_blackout_us: u32,
}

/// Interrupts of one node.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterruptStats {
    /// Sent on to the node where the vCPU is.
    pub relayed: u64,
    /// Taken from peers.
    pub received: u64,
    /// Not taken by any local APIC.
    pub refused: u64,
}

/// Blackouts of moves that arrived at one node, in microseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blackouts {
    /// How many moves.
    pub moves: u64,
    /// The middle one.
    pub p50_us: u64,
    /// 99 of 100 were no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// One node's machine in numbers.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineStats {
    /// Moves that arrived here.
    pub arrivals: Blackouts,
    /// Moves from here that were ordered and did not happen.
    pub move_errors: u64,
    /// Interrupts.
    pub interrupts: InterruptStats,
    /// Device accesses that went to the home node.
    pub remote_device_accesses: u64,
    /// Bytes of vCPU contexts sent, encoded.
    pub context_bytes_sent: u64,
    /// Contexts sent.
    pub contexts_sent: u64,
    /// Messages about moves sent: those of the hand-over, and the news of a vCPU's new place.
    pub move_messages_sent: u64,
}

/// Collects blackouts.
#[derive(Debug)]
pub struct BlackoutLog {
    histogram: Option<Histogram<u64>>,
    pub(super) last_us: Vec<u32>,
    pub(super) worst_us: Vec<u32>,
}

impl BlackoutLog {
    /// For so many vCPUs.
    pub fn new(vcpus: usize) -> Self {
        BlackoutLog {
            histogram: Histogram::new_with_bounds(1, BLACKOUT_MAX_US, 3).ok(),
            last_us: vec![0; vcpus],
            worst_us: vec![0; vcpus],
        }
    }

    /// Notes one.
    pub fn record(&mut self, index: usize, us: u32) {
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(u64::from(us).max(1));
        }
        self.last_us[index] = us;
        self.worst_us[index] = self.worst_us[index].max(us);
    }

    /// The figures.
    pub fn figures(&self) -> Blackouts {
        self.histogram.as_ref().map_or_else(Blackouts::default, |histogram| Blackouts {
            moves: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        })
    }
}
