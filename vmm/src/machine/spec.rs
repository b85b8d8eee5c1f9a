//! What a node's machine is made from.

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};
use tessera_dsm::{Layout, NodeId};

/// A vCPU and the node where it runs first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuSpec {
    /// Its APIC id.
    pub apic_id: u32,
    /// Where it starts, and whose NUMA node it belongs to.
    pub node: NodeId,
}

/// What a node's machine is made from. The same on all nodes but for `me` and the TSC offset.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MachineSpec {
    /// This node.
    pub me: NodeId,
    /// How many nodes the guest has.
    pub nodes: u8,
    /// Guest memory.
    pub layout: Layout,
    /// All vCPUs, by number; vCPU 0 starts the guest.
    pub vcpus: Vec<VcpuSpec>,
    /// The features that all hosts have; each vCPU's CPUID is made from it.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    /// Ticks of the guest's TSC in a millisecond.
    pub tsc_khz: u32,
    /// What this host adds to its TSC to give the guest's, in ticks.
    pub tsc_offset_ticks: i64,
}
