//! Made-up hosts.

use super::*;
use tessera_dsm::ids::NodeId;

fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    let flags = if is_indexed(function) { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
    kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
}

fn text(name: &[u8; 12]) -> [u32; 3] {
    let word = |at| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
    [word(0), word(4), word(8)]
}

fn amd() -> Vec<kvm_cpuid_entry2> {
    let [ebx, edx, ecx] = text(b"AuthenticAMD");
    let [k1, k2, k3] = text(b"KVMKVMKVM\0\0\0");
    vec![
        leaf(0, 0, [0x10, ebx, ecx, edx]),
        leaf(1, 0, [0x00a2_0f10, 0x0302_0800, 0x7ed8_320b | 1 << 15, 0x178b_fbff]),
        leaf(5, 0, [64, 64, 3, 0]),
        leaf(6, 0, [0xff, 2, 9, 0]),
        leaf(7, 0, [1, 0xf1bf_97a9 | 2, 0x0040_5fce | 1 << 16, 0x10]),
        leaf(7, 1, [0x20, 0, 0, 0]),
        leaf(0xa, 0, [8, 0, 0, 0]),
        leaf(0xd, 0, [0x207, 0x988, 0x988, 0]),
        leaf(0xd, 1, [0xf, 0x358, 0x1800, 0]),
        leaf(0xd, 2, [0x100, 0x240, 0, 0]),
        leaf(0xd, 9, [8, 0x980, 0, 0]),
        leaf(0x4000_0000, 0, [0x4000_0010, k1, k2, k3]),
        leaf(0x4000_0001, 0, [0x0100_ffff, 0, 0, 1]),
        leaf(0x8000_0000, 0, [0x8000_0023, ebx, ecx, edx]),
        leaf(0x8000_0001, 0, [0x00a2_0f10, 0x2000_0000, 0x75c2_37ff, 0x2fd3_fbff]),
        leaf(0x8000_0007, 0, [0, 3, 0, 0x6599]),
        leaf(0x8000_0008, 0, [0x0030_3030, 0x191e_f65d, 0x7007, 0]),
        leaf(0x8000_000a, 0, [1, 0x8000, 0, 0x1bcff]),
        leaf(0x8000_001d, 0, [0x121, 0x1c0_003f, 63, 0]),
        leaf(0x8000_001d, 1, [0x163, 0x3c0_003f, 4095, 0]),
        leaf(0x8000_001d, 2, [0, 0, 0, 0]),
        leaf(0x8000_001e, 0, [3, 0x101, 0, 0]),
        leaf(0x8000_001f, 0, [1, 2, 3, 4]),
    ]
}

fn intel() -> Vec<kvm_cpuid_entry2> {
    let [ebx, edx, ecx] = text(b"GenuineIntel");
    let mut leaves = amd();
    leaves.retain(|leaf| leaf.function < 0x8000_0009);
    *ensure(&mut leaves, 0, 0) = leaf(0, 0, [0x1f, ebx, ecx, edx]);
    ensure(&mut leaves, 1, 0).eax = 0x0005_0654;
    leaves.push(leaf(4, 0, [0xfc00_4121, 0, 0, 0]));
    leaves.push(leaf(4, 3, [0xfc0f_c163, 0, 0, 0]));
    leaves.push(leaf(4, 4, [0, 0, 0, 0]));
    leaves
}

fn get(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    *find(leaves, function, index).unwrap_or_else(|| panic!("leaf {function:#x}.{index} is missing"))
}

fn vcpu(leaves: &[kvm_cpuid_entry2], per_node: &[u32], place: usize) -> Vec<kvm_cpuid_entry2> {
    let all = apic_ids(per_node).unwrap();
    let topology = VcpuTopology::new(all[place].0, &all, 2_600_000);
    for_vcpu(&levelled(&[leaves.to_vec()]).unwrap(), &topology).unwrap().as_slice().to_vec()
}

#[test]
fn asynchronous_faults_are_shown_on_request_and_nothing_else_with_them() {
    let hosts = [amd(), amd()];
    let hidden = levelled(&hosts).expect("alike");
    assert_eq!(get(&hidden, 0x4000_0001, 0).eax & ASYNC_FAULTS, 0);
    let mut offered = hidden.clone();
    offer_async_faults(&mut offered, &hosts).expect("both have them");
    assert_eq!(get(&offered, 0x4000_0001, 0).eax, get(&hidden, 0x4000_0001, 0).eax | 1 << 4 | 1 << 14);
    ensure(&mut offered, 0x4000_0001, 0).eax = get(&hidden, 0x4000_0001, 0).eax;
    assert_eq!(offered, hidden);
}

#[test]
fn asynchronous_faults_that_one_host_lacks_are_refused() {
    for lacking in [4, 14] {
        let mut hosts = [amd(), amd()];
        ensure(&mut hosts[1], 0x4000_0001, 0).eax &= !(1 << lacking);
        let mut leaves = levelled(&hosts).expect("alike");
        assert_eq!(offer_async_faults(&mut leaves, &hosts), Err(NoAsyncFaults { host: 1 }));
    }
}

#[test]
fn features_are_what_all_hosts_have() {
    let (one, mut other) = (amd(), amd());
    ensure(&mut other, 7, 0).ebx &= !(1 << 5);
    ensure(&mut other, 0, 0).eax = 0xd;
    ensure(&mut other, 1, 0).eax = 0x00a0_0f12;
    ensure(&mut other, 0x8000_0008, 0).eax = 0x0030_302b;
    other.retain(|leaf| (leaf.function, leaf.index) != (7, 1));
    let leaves = levelled(&[one, other]).unwrap();
    assert_eq!(get(&leaves, 7, 0).ebx & 1 << 5, 0, "AVX2 is on one host only");
    assert_ne!(get(&leaves, 7, 0).ebx & 1 << 3, 0, "BMI1 is on both");
    assert_eq!(get(&leaves, 0, 0).eax, 0xd);
    assert_eq!(get(&leaves, 1, 0).eax, 0x00a0_0f12, "the lower model");
    assert_eq!(get(&leaves, 0x8000_0008, 0).eax, 0x0030_302b, "the smaller address");
    assert!(find(&leaves, 7, 1).is_none(), "a leaf that one host lacks");
}

#[test]
fn hosts_of_different_kinds_are_refused_by_name() {
    let mut other = amd();
    ensure(&mut other, 1, 0).eax = 0x0080_0f12;
    let error = levelled(&[amd(), amd(), other]).unwrap_err();
    let CpuidError::Disagree { function: 1, register: "EAX", ref values, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(values, &[0x00a0_0f00, 0x00a0_0f00, 0x0080_0f00]);
    assert!(error.to_string().contains("family"), "{error}");
    let error = levelled(&[amd(), intel()]).unwrap_err();
    assert!(error.to_string().contains("vendor"), "{error}");
    assert_eq!(levelled(&[]), Err(CpuidError::NoHost));
}

#[test]
fn extended_state_that_one_host_lacks_is_gone_with_its_place() {
    let mut other = amd();
    ensure(&mut other, 0xd, 0).eax = 7;
    // Where a component is that the guest does not get need not agree.
    ensure(&mut other, 0xd, 9).ebx = 0xa80;
    let leaves = levelled(&[amd(), other]).unwrap();
    assert_eq!(get(&leaves, 0xd, 0).eax, 7);
    assert!(find(&leaves, 0xd, 9).is_none());
    assert_eq!(get(&leaves, 0xd, 0).ecx, 0x340, "AVX ends the area now");
    assert_eq!(get(&leaves, 0xd, 1).ecx, 0, "no supervisor state");
    let mut moved = amd();
    ensure(&mut moved, 0xd, 2).ebx = 0x300;
    assert!(matches!(levelled(&[amd(), moved]), Err(CpuidError::Disagree { function: 0xd, index: 2, .. })));
}

#[test]
fn what_a_guest_must_not_have_is_taken() {
    let leaves = levelled(&[amd()]).unwrap();
    let one = get(&leaves, 1, 0);
    assert_eq!(one.ecx & (1 << 3 | 1 << 5 | 1 << 15), 0, "MONITOR, VMX, PDCM");
    assert_eq!(get(&leaves, 7, 0).ebx & 2, 0, "TSC_ADJUST");
    assert_eq!(get(&leaves, 7, 0).ecx & 1 << 16, 0, "5-level paging");
    assert_eq!(get(&leaves, 0x8000_0001, 0).ecx & (1 << 2 | 1 << 23 | 1 << 29), 0, "SVM, counters, MONITORX");
    for function in [5, 0xa, 0x8000_000a, 0x8000_001f] {
        assert!(find(&leaves, function, 0).is_none(), "{function:#x}");
    }
    assert_eq!(get(&leaves, 0x8000_0000, 0).eax, 0x8000_001e, "no leaf above the last");
}

#[test]
fn paravirtual_features_are_masked_and_the_signature_stays() {
    let leaves = levelled(&[amd()]).unwrap();
    let signature = get(&leaves, 0x4000_0000, 0);
    assert_eq!([signature.ebx, signature.ecx, signature.edx], text(b"KVMKVMKVM\0\0\0"));
    assert_eq!(signature.eax, 0x4000_0001);
    let features = get(&leaves, 0x4000_0001, 0);
    let mut without = amd();
    ensure(&mut without, 0x4000_0001, 0).eax = 1 << 3;
    let given = get(&levelled(&[without]).unwrap(), 0x4000_0001, 0).eax;
    assert_eq!(given, 1 << 15, "extended destination ids are ours to give");
    assert_eq!((features.eax, features.edx), (1 << 1 | 1 << 15, 0));
}

#[test]
fn every_guest_has_x2apic_tsc_deadline_and_an_invariant_tsc() {
    let mut host = amd();
    host.retain(|leaf| leaf.function != 0x8000_0007);
    ensure(&mut host, 1, 0).ecx = 0;
    let leaves = levelled(&[host]).unwrap();
    assert_eq!(get(&leaves, 1, 0).ecx, 1 << 21 | 1 << 24 | 1 << 31);
    assert_eq!(get(&leaves, 0x8000_0007, 0).edx, 1 << 8);
    assert_eq!(
        get(&levelled(&[amd()]).unwrap(), 0x8000_0007, 0).edx,
        1 << 8,
        "and no other power management"
    );
}

#[test]
fn apic_ids_keep_nodes_apart_by_their_high_bits() {
    let ids = |per_node: &[u32]| apic_ids(per_node).unwrap();
    assert_eq!(ids(&[2, 2]), [(0, NodeId(0)), (1, NodeId(0)), (2, NodeId(1)), (3, NodeId(1))]);
    assert_eq!(ids(&[1, 1, 1]), [(0, NodeId(0)), (1, NodeId(1)), (2, NodeId(2))]);
    assert_eq!(ids(&[1, 3]), [(0, NodeId(0)), (4, NodeId(1)), (5, NodeId(1)), (6, NodeId(1))]);
    assert_eq!(ids(&[2, 0, 1]), [(0, NodeId(0)), (1, NodeId(0)), (4, NodeId(2))]);
    assert_eq!(ids(&[]), []);
    assert_eq!(apic_ids(&[1; 257]), Err(CpuidError::TooManyVcpus(256)));
    assert_eq!(apic_ids(&[20_000, 20_000]), Err(CpuidError::TooManyVcpus(32_768 + 19_999)));
    assert!(apic_ids(&[u32::MAX]).is_err());
}

#[test]
fn an_amd_vcpu_knows_its_place() {
    let leaves = vcpu(&amd(), &[3, 3], 4);
    let one = get(&leaves, 1, 0);
    assert_eq!(one.ebx, 5 << 24 | 4 << 16 | 8 << 8, "APIC id, ids in the package, cache line");
    assert_ne!(one.edx & 1 << 28, 0);
    let level = |index| {
        let leaf = get(&leaves, 0xb, index);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    };
    assert_eq!([level(0), level(1), level(2)], [[0, 1, 0x100, 5], [2, 3, 0x201, 5], [0, 0, 2, 5]]);
    assert!(find(&leaves, 0x1f, 0).is_none());
    assert_eq!(get(&leaves, 0x8000_0008, 0).ecx, 2 << 12 | 2);
    let place = get(&leaves, 0x8000_001e, 0);
    assert_eq!([place.eax, place.ebx, place.ecx], [5, 1, 1]);
    assert_ne!(get(&leaves, 0x8000_0001, 0).ecx & 2, 0, "cores, not threads");
    assert_eq!(get(&leaves, 0x8000_001d, 0).eax >> 14, 0, "L1 is private");
    assert_eq!(get(&leaves, 0x8000_001d, 1).eax >> 14, 3, "L3 is the package's");
}

#[test]
fn a_lone_vcpu_has_no_siblings() {
    let leaves = vcpu(&amd(), &[1, 1], 1);
    assert_eq!(get(&leaves, 1, 0).edx & 1 << 28, 0);
    assert_eq!(get(&leaves, 1, 0).ebx, 1 << 24 | 1 << 16 | 8 << 8);
    assert_eq!(get(&leaves, 0xb, 1).eax, 0);
    assert_eq!(get(&leaves, 0x8000_0001, 0).ecx & 2, 0);
    assert_eq!(get(&leaves, 0x8000_001e, 0).ecx, 1);
}

#[test]
fn an_old_amd_without_topology_extensions_gets_none() {
    let mut host = amd();
    ensure(&mut host, 0x8000_0001, 0).ecx &= !(1 << 22);
    ensure(&mut host, 0, 0).eax = 1;
    let leaves = vcpu(&host, &[2], 1);
    assert!(find(&leaves, 0x8000_001d, 0).is_none() && find(&leaves, 0x8000_001e, 0).is_none());
    assert_eq!(get(&leaves, 0, 0).eax, 0xb, "leaf 0xB can be reached");
}

#[test]
fn an_intel_vcpu_knows_its_place_and_its_frequency() {
    let leaves = vcpu(&intel(), &[4, 4], 6);
    assert_eq!(get(&leaves, 0x1f, 1).edx, 6);
    assert_eq!(get(&leaves, 0xb, 1).eax, 2);
    let cache = |index| get(&leaves, 4, index).eax;
    assert_eq!((cache(0) >> 14 & 0xfff, cache(0) >> 26), (0, 3));
    assert_eq!((cache(3) >> 14 & 0xfff, cache(3) >> 26), (3, 3));
    assert_eq!(cache(4), 0, "the end of the list");
    assert_eq!(get(&leaves, 0x8000_0008, 0).ecx, 0);
    let frequency = get(&leaves, 0x15, 0);
    assert_eq!([frequency.eax, frequency.ebx, frequency.ecx], [1, 1, 2_600_000_000]);
    assert_eq!(get(&leaves, 0x16, 0).eax, 2600);
}

#[test]
fn a_frequency_above_32_bits_of_hertz_is_exact_too() {
    let all = apic_ids(&[1]).unwrap();
    let base = levelled(&[intel()]).unwrap();
    let leaves = for_vcpu(&base, &VcpuTopology::new(0, &all, 5_000_000)).unwrap();
    let leaf = get(leaves.as_slice(), 0x15, 0);
    assert_eq!(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax), 5_000_000_000);
    // Linux: crystal kHz times numerator, in 32 bits.
    assert!((leaf.ecx / 1000).checked_mul(leaf.ebx).is_some());
}

#[test]
fn x2apic_ids_are_whole_where_leaf_1_has_8_bits() {
    let per_node = [64u32; 32];
    let leaves = vcpu(&amd(), &per_node, 64 * 31 + 63);
    assert_eq!(get(&leaves, 0xb, 0).edx, 31 << 6 | 63);
    assert_eq!(get(&leaves, 1, 0).ebx >> 24, (31 << 6 | 63) & 0xff);
    assert_eq!(get(&leaves, 0x8000_001e, 0).eax, 31 << 6 | 63);
}
