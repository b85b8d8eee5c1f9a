//! What a guest here does not get although its hosts have it, and what it gets in any case.

use kvm_bindings::kvm_cpuid_entry2;

/// KVM's paravirtual features (leaf 0x40000001 EAX) that a guest may have:
///
/// - bit 1, no delays on port I/O: only tells Linux to leave them out;
/// - bit 15, extended destination ids: our IOAPIC has them, and APIC ids above 255 need them.
///
/// Asynchronous page faults on request (`async_faults.rs`). All others either write guest memory all the time (kvmclock,
/// steal time, PV EOI) or act among the local APICs of one host (PV IPI, unhalt, TLB flush, yield), or
/// belong to another way of moving guests (migration control).
pub const KVM_FEATURES_ALLOWED: u32 = 1 << 1 | 1 << 15;

/// Components of the extended state (XCR0) that a guest may have: x87, SSE, AVX, AVX-512, PKRU. Not MPX, which
/// is gone, nor AMX, whose tiles need a permission of the process and move 8 KiB more with each vCPU.
pub(super) const XCR0_ALLOWED: u64 = 0b10_1110_0111;

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Bits that are taken away: leaf, index, register, bits.
const TAKEN: &[(u32, u32, usize, u32)] = &[
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, SDBG, xTPR, PDCM, DCA: debug store and power management are the
    // host's, there are no nested guests, and an MWAIT would not be seen by a proxy. OSXSAVE is KVM's to set.
    (0x1, 0, ECX, bits(&[2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 18, 27])),
    // DS, ACPI (clock modulation), TM, PBE.
    (0x1, 0, EDX, bits(&[21, 22, 29, 31])),
    // TSC_ADJUST: offsets are the nodes' to set. SGX, resource monitoring and allocation, MPX, processor trace.
    (0x7, 0, EBX, bits(&[1, 2, 12, 14, 15, 25])),
    // WAITPKG (waits that no proxy ends), shadow stacks (state that is not moved), TME, 5-level paging (one more
    // table page for each walk to fetch from another host), key locker, bus lock detection, ENQCMD, SGX_LC, PKS.
    (0x7, 0, ECX, bits(&[5, 7, 13, 16, 23, 24, 29, 30, 31])),
    // SGX keys, user interrupts, hybrid, PCONFIG, architectural LBR, IBT, AMX (3), ARCH_CAPABILITIES and
    // CORE_CAPABILITIES: MSRs that differ from host to host. Without the former a guest assumes the worst.
    (0x7, 0, EDX, bits(&[1, 5, 15, 18, 19, 20, 22, 24, 25, 29, 30])),
    // Performance monitoring, FRED and its helper, NMI source, AMX, history reset.
    (0x7, 1, EAX, bits(&[8, 17, 18, 20, 21, 22])),
    // AMX, user timer, CET, AVX10, APX.
    (0x7, 1, EDX, bits(&[8, 13, 18, 19, 21])),
    // XFD belongs to AMX.
    (0xd, 1, EAX, bits(&[4])),
    // Supervisor state (IA32_XSS): none.
    (0xd, 1, ECX, u32::MAX),
    (0xd, 1, EDX, u32::MAX),
    (0x4000_0001, 0, EAX, !KVM_FEATURES_ALLOWED),
    // Hints: "vCPUs are never preempted" is not ours to promise.
    (0x4000_0001, 0, EDX, u32::MAX),
    // SVM, extended APIC space, IBS, SKINIT, WDT, LWP, node id MSR, performance counters (3), data breakpoints,
    // PTSC, MONITORX.
    (0x8000_0001, 0, ECX, bits(&[2, 3, 10, 12, 13, 15, 19, 23, 24, 26, 27, 28, 29])),
    // INVLPGB, RDPRU, MCOMMIT, PPIN, CPPC.
    (0x8000_0008, 0, EBX, bits(&[3, 4, 8, 23, 27])),
    // All power management but the invariant TSC, which is set below.
    (0x8000_0007, 0, EDX, u32::MAX),
    // All of leaf 6 but ARAT: the local APIC's timer never stops.
    (0x6, 0, EAX, !(1 << 2)),
];

/// Bits that every guest has, on any host: KVM emulates what is behind them, or our clock is made so.
const GIVEN: &[(u32, u32, usize, u32)] = &[
    // x2APIC, TSC-deadline timer, "runs under a hypervisor".
    (0x1, 0, ECX, bits(&[21, 24, 31])),
    // Extended destination ids: the IOAPIC's affair, so KVM leaves it to the VMM to say that they are there. Without
    // them Linux refuses CPUs with APIC ids above 255.
    (0x4000_0001, 0, EAX, bits(&[15])),
    // Invariant TSC.
    (0x8000_0007, 0, EDX, bits(&[8])),
];

const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < numbers.len() {
        mask |= 1 << numbers[i];
        i += 1;
    }
    mask
}

/// Takes away and gives.
pub(super) fn apply(leaves: &mut Vec<kvm_cpuid_entry2>) {
    for &(function, index, register, bits) in TAKEN {
        let found = leaves.iter_mut().find(|leaf| leaf.function == function && leaf.index == index);
        if let Some(leaf) = found {
            *self::register(leaf, register) &= !bits;
        }
    }
    for &(function, index, register, bits) in GIVEN {
        *self::register(super::ensure(leaves, function, index), register) |= bits;
    }
    for leaf in leaves.iter_mut().filter(|leaf| leaf.function == 0xd && leaf.index == 0) {
        leaf.eax &= XCR0_ALLOWED as u32;
        leaf.edx &= (XCR0_ALLOWED >> 32) as u32;
    }
    let highest = leaves.iter().map(|leaf| leaf.function).filter(|function| *function >= 0x8000_0000).max();
    if let Some(highest) = highest {
        super::ensure(leaves, 0x8000_0000, 0).eax = highest;
    }
    for leaf in leaves.iter_mut().filter(|leaf| leaf.function == 0x4000_0000) {
        leaf.eax = 0x4000_0001;
    }
}

fn register(leaf: &mut kvm_cpuid_entry2, register: usize) -> &mut u32 {
    match register {
        EAX => &mut leaf.eax,
        EBX => &mut leaf.ebx,
        ECX => &mut leaf.ecx,
        _ => &mut leaf.edx,
    }
}
