//! What the guest's CPUs say of themselves.
//!
//! A guest may run on any of its hosts, so it is shown what all of them have: [`levelled`] takes what
//! KVM_GET_SUPPORTED_CPUID said on each and gives their intersection, less what a guest here must not have
//! (`policy.rs` says what and why). [`for_vcpu`] adds what differs from vCPU to vCPU: its APIC id and its place.
//!
//! Topology: a node is a package; a vCPU is a core without siblings; the cores of a node share the last level
//! cache. An APIC id is `node << core_bits | core` ([`apic_ids`]), so that every shift which CPUID gives tells
//! nodes apart.
//!
//! Sources: SDM volume 2, CPUID; APM volume 3, appendix E; Linux, `Documentation/virt/kvm/x86/cpuid.rst`.

mod async_faults;
mod level;
mod policy;
#[cfg(test)]
mod tests;
mod topology;

use kvm_bindings::{kvm_cpuid_entry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
use thiserror::Error;

pub use async_faults::{offer_async_faults, AsyncFaults, NoAsyncFaults, ASYNC_FAULTS};
pub use level::levelled;
pub use policy::KVM_FEATURES_ALLOWED;
pub use topology::{apic_ids, for_vcpu, VcpuTopology, APIC_ID_MAX};

/// Why there is no CPUID for a guest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CpuidError {
    /// There is no host to ask.
    #[error("no host has said what its CPUs can do")]
    NoHost,
    /// Hosts differ where a guest cannot be shown something in between.
    #[error(
        "the hosts' CPUs are of different kinds: CPUID leaf {function:#x} index {index} {register} is {values:#x?} \
         on the hosts in order ({what}): run this guest on hosts with CPUs of one vendor and family"
    )]
    Disagree {
        /// The leaf.
        function: u32,
        /// Its index.
        index: u32,
        /// Which of the four registers.
        register: &'static str,
        /// What the register says.
        what: &'static str,
        /// Its value on each host, in their order; only the bits that must be equal.
        values: Vec<u32>,
    },
    /// The topology has too many vCPUs, or too many in one node.
    #[error("the vCPUs need APIC ids up to {0}, and {APIC_ID_MAX} is the highest: give the guest fewer vCPUs or nodes")]
    TooManyVcpus(u64),
    /// More leaves than KVM takes.
    #[error("{0} CPUID leaves are more than KVM_SET_CPUID2 takes")]
    TooManyLeaves(usize),
}

/// The vendors whose leaves differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vendor {
    /// AMD, and Hygon, which is like it.
    Amd,
    /// Intel and everyone else.
    Intel,
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    leaves.iter().find(|leaf| leaf.function == function && leaf.index == index)
}

fn vendor(leaves: &[kvm_cpuid_entry2]) -> Vendor {
    let name = find(leaves, 0, 0).map(|leaf| [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat());
    match name.as_deref() {
        Some(b"AuthenticAMD" | b"HygonGenuine") => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

/// Finds a leaf or adds it, all zeros.
fn ensure(leaves: &mut Vec<kvm_cpuid_entry2>, function: u32, index: u32) -> &mut kvm_cpuid_entry2 {
    let place = leaves.iter().position(|leaf| leaf.function == function && leaf.index == index);
    let place = place.unwrap_or_else(|| {
        let flags = if is_indexed(function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
        leaves.push(kvm_cpuid_entry2 { function, index, flags, ..Default::default() });
        leaves.len() - 1
    });
    &mut leaves[place]
}

/// Whether ECX chooses among several leaves of one number.
fn is_indexed(function: u32) -> bool {
    matches!(function, 0x4 | 0x7 | 0xb | 0xd | 0x1f | 0x8000_001d)
}
