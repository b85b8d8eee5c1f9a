//! What differs from vCPU to vCPU: the APIC id, and the leaves that say where it is and whom it shares with.

use kvm_bindings::{kvm_cpuid_entry2, CpuId, KVM_MAX_CPUID_ENTRIES};
use serde::{Deserialize, Serialize};
use tessera_dsm::ids::NodeId;

use super::{ensure, vendor, CpuidError, Vendor};

/// The highest APIC id: what extended destination ids of an IOAPIC can name (15 bits).
pub const APIC_ID_MAX: u32 = 0x7fff;

/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x80000001 ECX, AMD: those are cores, not threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x80000001 ECX, AMD: leaves 0x8000001D and 0x8000001E exist.
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Level types of leaf 0xB, ECX bits 15:8.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
/// Caches of this level and above are a package's.
const FIRST_SHARED_CACHE: u32 = 3;

/// APIC ids for `vcpus_per_node[n]` vCPUs on node n, ascending: `node << core_bits | core`, with as many bits for
/// the core as the largest node needs. The boot processor is the first.
///
/// # Errors
/// [`CpuidError::TooManyVcpus`] when an id would pass [`APIC_ID_MAX`] or there are more nodes than a
/// [`NodeId`] can name.
pub fn apic_ids(vcpus_per_node: &[u32]) -> Result<Vec<(u32, NodeId)>, CpuidError> {
    let core_bits = core_bits(vcpus_per_node.iter().copied().max().unwrap_or(0));
    let mut ids = Vec::new();
    for (node, &vcpus) in (0u64..).zip(vcpus_per_node) {
        let last = (node << core_bits) + u64::from(vcpus.saturating_sub(1));
        let (Ok(id), true) = (u8::try_from(node), last <= u64::from(APIC_ID_MAX)) else {
            return Err(CpuidError::TooManyVcpus(last));
        };
        ids.extend((0..vcpus).map(|core| ((node as u32) << core_bits | core, NodeId(id))));
    }
    Ok(ids)
}

/// Bits that number `cores` cores.
fn core_bits(cores: u32) -> u32 {
    u32::BITS - cores.saturating_sub(1).leading_zeros()
}

/// A vCPU's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VcpuTopology {
    /// Its x2APIC id.
    pub apic_id: u32,
    /// How many low bits of an APIC id number the cores of a node.
    pub core_bits: u32,
    /// Cores of the largest node. All packages claim as many: Linux expects them to be alike.
    pub cores: u32,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u32,
}

impl VcpuTopology {
    /// The place of the vCPU `apic_id` in a guest whose vCPUs are `all`, as [`apic_ids`] gave them.
    pub fn new(apic_id: u32, all: &[(u32, NodeId)], tsc_khz: u32) -> Self {
        let on = |node: NodeId| all.iter().filter(|(_, other)| *other == node).count() as u32;
        let cores = all.iter().map(|&(_, node)| on(node)).max().unwrap_or(1).max(1);
        VcpuTopology { apic_id, core_bits: core_bits(cores), cores, tsc_khz }
    }

    /// Ids that the cores of one package can have, less one: how CPUID counts sharers.
    fn package_mask(&self) -> u32 {
        (1 << self.core_bits) - 1
    }
}

/// The CPUID of one vCPU: `levelled` with its place filled in.
///
/// # Errors
/// [`CpuidError::TooManyLeaves`] when KVM takes fewer than there are.
pub fn for_vcpu(levelled: &[kvm_cpuid_entry2], vcpu: &VcpuTopology) -> Result<CpuId, CpuidError> {
    let mut leaves = levelled.to_vec();
    let vendor = vendor(&leaves);
    identify(&mut leaves, vcpu);
    let extended_topology = leaves.iter().any(|leaf| leaf.function == 0 && leaf.eax >= 0x1f);
    levels(&mut leaves, 0xb, vcpu);
    if extended_topology {
        levels(&mut leaves, 0x1f, vcpu);
    }
    match vendor {
        Vendor::Amd => place_amd(&mut leaves, vcpu),
        Vendor::Intel => place_intel(&mut leaves, vcpu),
    }
    share_caches(&mut leaves, vcpu);
    raise_basic_maximum(&mut leaves, vendor);
    leaves.sort_by_key(|leaf| (leaf.function, leaf.index));
    if leaves.len() > KVM_MAX_CPUID_ENTRIES {
        return Err(CpuidError::TooManyLeaves(leaves.len()));
    }
    CpuId::from_entries(&leaves).map_err(|_| CpuidError::TooManyLeaves(leaves.len()))
}

/// Leaf 1: the 8-bit APIC id and the number of ids in the package.
fn identify(leaves: &mut Vec<kvm_cpuid_entry2>, vcpu: &VcpuTopology) {
    let leaf = ensure(leaves, 0x1, 0);
    let ids = (vcpu.package_mask() + 1).min(0xff);
    leaf.ebx = leaf.ebx & 0xff00 | ids << 16 | (vcpu.apic_id & 0xff) << 24;
    leaf.edx = leaf.edx & !HTT | if vcpu.cores > 1 { HTT } else { 0 };
}

/// Leaves 0xB and 0x1F: threads (one to a core), cores, end.
fn levels(leaves: &mut Vec<kvm_cpuid_entry2>, function: u32, vcpu: &VcpuTopology) {
    let levels = [(0, 1, LEVEL_THREAD), (vcpu.core_bits, vcpu.cores, LEVEL_CORE), (0, 0, 0)];
    for (index, (shift, processors, level)) in (0u32..).zip(levels) {
        let leaf = ensure(leaves, function, index);
        leaf.eax = shift;
        leaf.ebx = processors;
        leaf.ecx = level << 8 | index;
        leaf.edx = vcpu.apic_id;
    }
}

/// Leaves 0x80000001, 0x80000008 and 0x8000001E.
fn place_amd(leaves: &mut Vec<kvm_cpuid_entry2>, vcpu: &VcpuTopology) {
    let features = ensure(leaves, 0x8000_0001, 0);
    features.ecx = features.ecx & !CMP_LEGACY | if vcpu.cores > 1 { CMP_LEGACY } else { 0 };
    let topology_extensions = features.ecx & TOPOLOGY_EXTENSIONS != 0;
    if let Some(sizes) = leaves.iter_mut().find(|leaf| leaf.function == 0x8000_0008) {
        sizes.ecx = (vcpu.cores - 1).min(0xff) | vcpu.core_bits << 12;
    }
    leaves.retain(|leaf| topology_extensions || !matches!(leaf.function, 0x8000_001d | 0x8000_001e));
    if topology_extensions {
        let place = ensure(leaves, 0x8000_001e, 0);
        place.eax = vcpu.apic_id;
        // One thread to a core, one (AMD) node to a package.
        place.ebx = vcpu.apic_id & vcpu.package_mask() & 0xff;
        place.ecx = vcpu.apic_id >> vcpu.core_bits & 0xff;
        place.edx = 0;
    }
}

/// Leaves 0x80000008 (no core count there), 0x15 and 0x16: Linux takes the TSC's frequency from them on Intel.
fn place_intel(leaves: &mut Vec<kvm_cpuid_entry2>, vcpu: &VcpuTopology) {
    if let Some(sizes) = leaves.iter_mut().find(|leaf| leaf.function == 0x8000_0008) {
        sizes.ecx = 0;
    }
    let hertz = u64::from(vcpu.tsc_khz) * 1000;
    // Crystal times ratio is the TSC; Linux multiplies crystal kHz by the numerator in 32 bits, so the ratio is
    // as small as the crystal's 32 bits of hertz allow.
    let ratio = hertz.div_ceil(u64::from(u32::MAX)).max(1);
    let leaf = ensure(leaves, 0x15, 0);
    leaf.eax = 1;
    leaf.ebx = ratio as u32;
    leaf.ecx = (hertz / ratio) as u32;
    leaf.edx = 0;
    let leaf = ensure(leaves, 0x16, 0);
    let megahertz = vcpu.tsc_khz / 1000;
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (megahertz, megahertz, 100, 0);
}

/// Leaves 4 and 0x8000001D: who shares each cache. Private ones are a core's, shared ones a package's.
fn share_caches(leaves: &mut [kvm_cpuid_entry2], vcpu: &VcpuTopology) {
    let caches = leaves.iter_mut().filter(|leaf| matches!(leaf.function, 0x4 | 0x8000_001d));
    for cache in caches.filter(|leaf| leaf.eax & 0x1f != 0) {
        let level = cache.eax >> 5 & 7;
        let sharers = if level >= FIRST_SHARED_CACHE { vcpu.package_mask().min(0xfff) } else { 0 };
        cache.eax = cache.eax & 0x3fff | sharers << 14;
        if cache.function == 0x4 {
            cache.eax |= vcpu.package_mask().min(0x3f) << 26;
        }
    }
}

/// Leaf 0: far enough for the leaves that were made here.
fn raise_basic_maximum(leaves: &mut Vec<kvm_cpuid_entry2>, vendor: Vendor) {
    let needed = match vendor {
        Vendor::Amd => 0xb,
        Vendor::Intel => 0x16,
    };
    let leaf = ensure(leaves, 0x0, 0);
    leaf.eax = leaf.eax.max(needed);
}
