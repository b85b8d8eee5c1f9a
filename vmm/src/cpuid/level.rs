//! The intersection of what several hosts have.

use kvm_bindings::kvm_cpuid_entry2;

use super::{find, policy, CpuidError};

/// How one register of a leaf is made from those of all hosts.
#[derive(Clone, Copy)]
enum Rule {
    /// Bits that all hosts have.
    And,
    /// The smallest value.
    Min,
    /// The smallest of each byte.
    MinBytes,
    /// The smallest value, where these bits must be equal.
    MinWithEqual(u32, &'static str),
    /// These bits, which must be equal; others become 0.
    Equal(u32, &'static str),
    /// The first host's: descriptive, or made anew for each vCPU.
    First,
    /// Nothing.
    Zero,
}

use Rule::{And, Equal, First, Min, MinBytes, MinWithEqual, Zero};

const ALL: u32 = u32::MAX;
/// Leaf 1 EAX: family and extended family. Below it, model and stepping may differ: the guest sees the lowest.
const FAMILY: u32 = 0x0ff0_0f00;
/// Leaf 1 EBX: size of a cache line.
const CACHE_LINE: u32 = 0xff00;
/// First index of leaf 0xD that describes one component of the extended state.
const FIRST_COMPONENT: u32 = 2;
/// Size of the legacy area and header of an XSAVE area.
const XSAVE_FIXED_BYTES: u32 = 576;

/// The rules for EAX, EBX, ECX and EDX of a leaf. A leaf that is not known here is not shown: nobody has
/// thought about what a guest that moves would do with it.
fn rules(function: u32, index: u32) -> Option<[Rule; 4]> {
    const VENDOR: Rule = Equal(ALL, "vendor");
    const COMPONENT: Rule = Equal(ALL, "place of extended state");
    Some(match (function, index) {
        (0x0, _) => [Min, VENDOR, VENDOR, VENDOR],
        (0x1, _) => [MinWithEqual(FAMILY, "family"), Equal(CACHE_LINE, "size of a cache line"), And, And],
        (0x2 | 0x4, _) => [First; 4],
        (0x6, _) => [And, Zero, Zero, Zero],
        (0x7, 0) => [Min, And, And, And],
        (0x7, 1 | 2) => [And; 4],
        (0xd, 0) => [And, Zero, Zero, And],
        (0xd, 1) => [And, Zero, And, And],
        (0xd, FIRST_COMPONENT..) => [COMPONENT, COMPONENT, COMPONENT, Zero],
        (0x4000_0000, _) => {
            [Min, Equal(ALL, "hypervisor"), Equal(ALL, "hypervisor"), Equal(ALL, "hypervisor")]
        }
        (0x4000_0001, _) => [And, Zero, Zero, And],
        (0x8000_0000, _) => [Min, VENDOR, VENDOR, VENDOR],
        (0x8000_0001, _) => [Min, Zero, And, And],
        (0x8000_0002..=0x8000_0006, _) => [First; 4],
        (0x8000_0007, _) => [Zero, Zero, Zero, And],
        (0x8000_0008, _) => [MinBytes, And, First, Zero],
        (0x8000_0019, _) => [First; 4],
        (0x8000_001a, _) => [And, Zero, Zero, Zero],
        (0x8000_001d | 0x8000_001e, _) => [First; 4],
        (0x8000_0021, _) => [And, Zero, And, Zero],
        _ => return None,
    })
}

/// What a guest that runs on all `hosts` may be shown: each is what KVM_GET_SUPPORTED_CPUID gave there.
///
/// # Errors
/// [`CpuidError::Disagree`] names the first leaf that must be the same everywhere and is not.
pub fn levelled(hosts: &[Vec<kvm_cpuid_entry2>]) -> Result<Vec<kvm_cpuid_entry2>, CpuidError> {
    let (first, _) = hosts.split_first().ok_or(CpuidError::NoHost)?;
    let components = components(hosts);
    let mut leaves = Vec::new();
    for leaf in first {
        if leaf.function == 0xd && leaf.index >= FIRST_COMPONENT && !has(components, leaf.index) {
            continue;
        }
        let same: Option<Vec<_>> = hosts.iter().map(|host| find(host, leaf.function, leaf.index)).collect();
        if let (Some(rules), Some(same)) = (rules(leaf.function, leaf.index), same) {
            leaves.push(level_leaf(&same, &rules)?);
        }
    }
    policy::apply(&mut leaves);
    set_xsave_sizes(&mut leaves);
    Ok(leaves)
}

/// The components of the extended state that the guest gets (bits of XCR0).
fn components(hosts: &[Vec<kvm_cpuid_entry2>]) -> u64 {
    hosts.iter().fold(policy::XCR0_ALLOWED, |common, host| {
        common & find(host, 0xd, 0).map_or(0, |leaf| u64::from(leaf.eax) | u64::from(leaf.edx) << 32)
    })
}

fn has(components: u64, index: u32) -> bool {
    components.checked_shr(index).is_some_and(|bits| bits & 1 != 0)
}

/// One leaf from those of all hosts, of which there is at least one.
fn level_leaf(same: &[&kvm_cpuid_entry2], rules: &[Rule; 4]) -> Result<kvm_cpuid_entry2, CpuidError> {
    let mut leaf = *same[0];
    let registers = |leaf: &kvm_cpuid_entry2| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx];
    let mut result = [0; 4];
    for (i, register) in ["EAX", "EBX", "ECX", "EDX"].into_iter().enumerate() {
        let values: Vec<u32> = same.iter().map(|leaf| registers(leaf)[i]).collect();
        result[i] = combine(rules[i], &values).map_err(|(what, values)| CpuidError::Disagree {
            function: leaf.function,
            index: leaf.index,
            register,
            what,
            values,
        })?;
    }
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx] = result;
    Ok(leaf)
}

type Disagreement = (&'static str, Vec<u32>);

fn combine(rule: Rule, values: &[u32]) -> Result<u32, Disagreement> {
    let min = values.iter().copied().min().unwrap_or(0);
    let equal = |mask: u32, what| {
        let masked: Vec<u32> = values.iter().map(|value| value & mask).collect();
        if masked.windows(2).all(|pair| pair[0] == pair[1]) {
            Ok(masked[0])
        } else {
            Err((what, masked))
        }
    };
    match rule {
        And => Ok(values.iter().fold(u32::MAX, |common, value| common & value)),
        Min => Ok(min),
        MinBytes => Ok(values.iter().copied().reduce(min_bytes).unwrap_or(0)),
        MinWithEqual(mask, what) => equal(mask, what).map(|_| min),
        Equal(mask, what) => equal(mask, what),
        First => Ok(values[0]),
        Zero => Ok(0),
    }
}

fn min_bytes(a: u32, b: u32) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u32::from_le_bytes(std::array::from_fn(|i| a[i].min(b[i])))
}

/// Leaf 0xD, index 0: how large an XSAVE area is, now and at most. KVM keeps "now" up to date.
fn set_xsave_sizes(leaves: &mut [kvm_cpuid_entry2]) {
    let components = leaves.iter().filter(|leaf| leaf.function == 0xd && leaf.index >= FIRST_COMPONENT);
    let end = components.map(|leaf| leaf.ebx.saturating_add(leaf.eax)).max().unwrap_or(0);
    if let Some(leaf) = leaves.iter_mut().find(|leaf| leaf.function == 0xd && leaf.index == 0) {
        leaf.ebx = XSAVE_FIXED_BYTES;
        leaf.ecx = end.max(XSAVE_FIXED_BYTES);
    }
}
