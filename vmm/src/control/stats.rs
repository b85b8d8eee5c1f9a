//! The figures of one node, as `tessera stats` and the report show them.

use serde::{Deserialize, Serialize};
use tessera_dsm::pager::HotPage;
use tessera_dsm::NodeId;

/// A distribution in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Spread {
    /// How many were counted.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// 99 of 100 were not above this.
    pub p99_us: u64,
    /// The greatest.
    pub max_us: u64,
}

/// Guest memory on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Pages whose directory is here.
    pub home_pages: u64,
    /// Pages that this node owns.
    pub owned_pages: u64,
    /// Pages of which this node has a copy that it may only read.
    pub copied_pages: u64,
    /// Memory that is really in use for guest pages here.
    pub resident_bytes: u64,
}

/// Page faults of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FaultStats {
    /// The kind: `read`, `write`, `upgrade` ...
    pub kind: String,
    /// From the fault to the page.
    pub latency: Spread,
}

/// How long a vCPU has stood still on a node, waiting for pages in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StallStats {
    /// The vCPU, wherever it is now.
    pub vcpu: u32,
    /// How often it waited.
    pub faults: u64,
    /// For how long together, in microseconds.
    pub stalled_us: u64,
}

/// Pages that came while the guest did something else: asynchronous page faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AsyncFaultStats {
    /// How many.
    pub faults: u64,
    /// How long they travelled together, in microseconds.
    pub travelled_us: u64,
}

/// Pages that came to a node for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArrivalStats {
    /// The reason: `read`, `write`, `upgrade`; `ahead`: nobody waited for them; `first_touch`: whole extents of 512
    /// pages that nobody had used.
    pub kind: String,
    /// Pages whose bytes came.
    pub pages: u64,
    /// Pages of zeros, for which none came.
    pub zero_pages: u64,
    /// Bytes of guest memory that came.
    pub bytes: u64,
}

/// What went over the data connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrafficStats {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// How often a connection to another node broke and went on over a new one, data and control together.
    pub links_resumed: u64,
}

/// A device on the guest's PCI bus.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceStats {
    /// Its name: kind and number.
    pub name: String,
    /// Its place on the bus: the guest sees it at 00:SLOT.0.
    pub slot: u8,
    /// The node where it works.
    pub node: NodeId,
    /// That node's host.
    pub host: String,
    /// What is behind it there: a file, a socket, a tap device.
    pub behind: String,
    /// Pages of guest memory that it borrowed, each time that it did.
    pub pages_borrowed: u64,
    /// Those of them that had to come from other nodes, or of which other nodes had copies that it could not leave them.
    pub pages_fetched: u64,
    /// Accesses to its registers by vCPUs of other nodes.
    pub remote_accesses: u64,
}

/// A vCPU as a node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuStats {
    /// Its number.
    pub vcpu: u32,
    /// Its APIC id.
    pub apic_id: u32,
    /// Where it is resident.
    pub node: NodeId,
    /// How many moves it has made, as far as the node that says this knows.
    pub moves: u64,
    /// The blackout of its last move to where it is, in microseconds.
    pub last_blackout_us: u64,
    /// The longest blackout of a move to where it is, in microseconds.
    pub worst_blackout_us: u64,
}

/// vCPU moves of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MoveStats {
    /// vCPUs that came here.
    pub arrived: u64,
    /// vCPUs that left.
    pub left: u64,
    /// Blackouts of those that came, from the last instruction there to the first one here: the median, in
    /// microseconds.
    pub blackout_p50_us: u64,
    /// 99 of 100 were not above this.
    pub blackout_p99_us: u64,
    /// The longest.
    pub blackout_max_us: u64,
    /// Moves from here that failed; the vCPU stayed.
    pub failed: u64,
    /// Bytes of state that were sent.
    pub bytes_sent: u64,
    /// Messages about moves that were sent, whichever way the vCPU went.
    pub messages_sent: u64,
}

/// How well a node's clock is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClockStats {
    /// The guest's TSC here and on node 0 differ by no more than this, in nanoseconds.
    pub skew_bound_ns: u64,
    /// Fastest round trip to node 0 that was seen, in nanoseconds; 0 on the same machine.
    pub round_trip_ns: u64,
    /// Comparisons since the start.
    pub comparisons: u64,
}

/// What one node has done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStats {
    /// Which.
    pub node: NodeId,
    /// Its daemon's address.
    pub host: String,
    /// Memory.
    pub memory: MemoryStats,
    /// Faults, by kind.
    pub faults: Vec<FaultStats>,
    /// How long each vCPU has stood still here, those that never did left out.
    pub stalls: Vec<StallStats>,
    /// Pages that came while the guest did something else.
    pub async_faults: AsyncFaultStats,
    /// Pages that came, by what they came for.
    pub arrivals: Vec<ArrivalStats>,
    /// The vCPUs that are resident here.
    pub vcpus: Vec<VcpuStats>,
    /// Moves.
    pub moves: MoveStats,
    /// Interrupts that were sent on to the node where their vCPU is.
    pub interrupts_relayed: u64,
    /// Device accesses that were sent to node 0.
    pub accesses_forwarded: u64,
    /// Data connections.
    pub traffic: TrafficStats,
    /// The clock.
    pub clock: ClockStats,
    /// The pages that fault most.
    pub hottest: Vec<HotPage>,
}

impl NodeStats {
    /// The figures of a node that has done nothing.
    pub fn empty(node: NodeId, host: String) -> Self {
        NodeStats {
            node,
            host,
            memory: MemoryStats::default(),
            faults: vec![],
            stalls: vec![],
            async_faults: AsyncFaultStats::default(),
            arrivals: vec![],
            vcpus: vec![],
            moves: MoveStats::default(),
            interrupts_relayed: 0,
            accesses_forwarded: 0,
            traffic: TrafficStats::default(),
            clock: ClockStats::default(),
            hottest: vec![],
        }
    }
}
