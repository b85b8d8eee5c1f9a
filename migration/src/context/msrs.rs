//! Which model-specific registers travel with a vCPU.

use kvm_bindings::{kvm_msr_entry, Msrs};
use kvm_ioctls::{Kvm, VcpuFd};

use super::apic::set_msr;
use super::{async_faults, call, ContextError};

/// Most registers in a context.
pub const MSRS_MAX: usize = 512;

/// The time stamp counter itself: follows from the TSC offset.
const TSC: u32 = 0x10;
/// The deadline of the APIC timer: handled on its own, see [`super::release_timer`].
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;

/// Registers that KVM does not list although the guest can set them: memory types (SDM 3A 12.11).
const MTRRS: [u32; 12] = [0x2ff, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// The registers that a host can read, found once per node.
#[derive(Clone, Debug)]
pub struct MsrSet {
    indices: Vec<u32>,
    async_faults: bool,
}

impl MsrSet {
    /// Finds the registers that `vcpu` really lets us read among those that KVM lists.
    ///
    /// # Errors
    /// When KVM gives no list.
    pub fn probe(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Self, ContextError> {
        let listed = call("KVM_GET_MSR_INDEX_LIST", kvm.get_msr_index_list())?;
        let mut indices: Vec<u32> = Vec::new();
        for &index in listed.as_slice().iter().chain(&MTRRS) {
            if travels(index)
                && !indices.contains(&index)
                && read(vcpu, &[index]).is_ok_and(|got| got.len() == 1)
            {
                indices.push(index);
            }
        }
        indices.truncate(MSRS_MAX);
        Ok(MsrSet { indices, async_faults: async_faults::offered(vcpu) })
    }

    /// Whether this KVM has the registers for asynchronous page faults, which have their own way.
    pub(super) fn has_async_faults(&self) -> bool {
        self.async_faults
    }

    /// Reads them all.
    ///
    /// # Errors
    /// When one cannot be read that could before.
    pub fn read(&self, vcpu: &VcpuFd) -> Result<Vec<(u32, u64)>, ContextError> {
        let got = read(vcpu, &self.indices)?;
        match self.indices.get(got.len()) {
            None => Ok(got),
            Some(&index) => Err(ContextError::Msr { index, value: 0 }),
        }
    }
}

/// Writes `values`; a register that this host lacks is passed over while it holds nothing.
///
/// # Errors
/// When a register with a value cannot be set.
pub(crate) fn write(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), ContextError> {
    let mut rest = values;
    // KVM stops at the first register that it refuses and says how many it took.
    while !rest.is_empty() {
        let entries: Vec<_> =
            rest.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
        let Ok(list) = Msrs::from_entries(&entries) else {
            return Err(ContextError::TooMany { what: "MSRs", got: entries.len(), max: MSRS_MAX });
        };
        let taken = call("KVM_SET_MSRS", vcpu.set_msrs(&list))?;
        match rest.get(taken) {
            None => return Ok(()),
            Some(&(_, 0)) => rest = &rest[taken + 1..],
            Some(&(index, value)) => match set_msr(vcpu, index, value) {
                Ok(()) => rest = &rest[taken + 1..],
                Err(_) if same(vcpu, index, value) => rest = &rest[taken + 1..],
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

/// Whether the register already holds `value`: some can be read and not written.
fn same(vcpu: &VcpuFd, index: u32, value: u64) -> bool {
    read(vcpu, &[index]).is_ok_and(|got| got == [(index, value)])
}

/// Reads registers; stops at the first that KVM refuses.
pub(crate) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, ContextError> {
    let entries: Vec<_> =
        indices.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
    let Ok(mut list) = Msrs::from_entries(&entries) else {
        return Err(ContextError::TooMany { what: "MSRs", got: entries.len(), max: MSRS_MAX });
    };
    let got = call("KVM_GET_MSRS", vcpu.get_msrs(&mut list))?;
    Ok(list.as_slice().iter().take(got).map(|entry| (entry.index, entry.data)).collect())
}

/// Whether a register belongs to the vCPU and not to its place: not time, not the APIC (which has its own
/// way), not what KVM itself offers to guests (masked in CPUID, but for asynchronous page faults, which have their own
/// way), not feature and machine-check registers that
/// only say what the CPU can do.
fn travels(index: u32) -> bool {
    const FEATURES_ONLY: [u32; 6] = [0x8b, 0x10a, 0x345, 0xce, 0xc001_1029, 0xc001_0015];
    let vmx_capabilities = 0x480..=0x491;
    let perf_counters_intel = 0xc1..=0xc8;
    let apic = 0x800..=0x8ff;
    let hyperv = 0x4000_0000..=0x4000_01ff;
    let kvm = 0x4b56_4d00..=0x4b56_4dff;
    let kvm_legacy = [0x11, 0x12];
    !(index == TSC
        || index == TSC_DEADLINE
        || FEATURES_ONLY.contains(&index)
        || kvm_legacy.contains(&index)
        || vmx_capabilities.contains(&index)
        || perf_counters_intel.contains(&index)
        || apic.contains(&index)
        || hyperv.contains(&index)
        || kvm.contains(&index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_apic_stay_behind() {
        for index in [TSC, TSC_DEADLINE, 0x80b, 0x830, 0x4b56_4d01, 0x12] {
            assert!(!travels(index), "{index:#x}");
        }
        for index in [0x174, 0xc000_0081, 0xc000_0102, 0x277, 0x3b, 0x1a0] {
            assert!(travels(index), "{index:#x}");
        }
    }
}
