//! CPUs, the interrupt controller, and which memory is near which CPU: MADT and SRAT.

use acpi_tables::sdt::Sdt;
use tessera_abi::mmio;
use tessera_dsm::layout::Layout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::BootVcpu;
use super::table;

/// First APIC id that must be in an x2APIC structure; below it must not (ACPI 6.5, 5.2.12.12).
const FIRST_X2APIC_ID: u32 = 255;
/// MADT revision of ACPI 6.5.
const MADT_REVISION: u8 = 6;
/// SRAT revision since ACPI 4.0.
const SRAT_REVISION: u8 = 3;
const ENABLED: u32 = 1;

/// Processor local APIC (ACPI 6.5, 5.2.12.2).
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct LocalApic {
    kind: u8,
    length: u8,
    uid: u8,
    apic_id: u8,
    flags: U32,
}

/// Processor local x2APIC (ACPI 6.5, 5.2.12.12).
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct LocalX2Apic {
    kind: u8,
    length: u8,
    reserved: U16,
    apic_id: U32,
    flags: U32,
    uid: U32,
}

/// I/O APIC (ACPI 6.5, 5.2.12.3).
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct IoApic {
    kind: u8,
    length: u8,
    id: u8,
    reserved: u8,
    address: U32,
    gsi_base: U32,
}

/// Processor local x2APIC affinity (ACPI 6.5, 5.2.16.3).
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct X2ApicAffinity {
    kind: u8,
    length: u8,
    reserved: U16,
    domain: U32,
    apic_id: U32,
    flags: U32,
    clock_domain: U32,
    reserved_2: U32,
}

/// Memory affinity (ACPI 6.5, 5.2.16.2).
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct MemoryAffinity {
    kind: u8,
    length: u8,
    domain: U32,
    reserved: U16,
    base: U64,
    bytes: U64,
    reserved_2: U32,
    flags: U32,
    reserved_3: U64,
}

/// The CPUs and the IOAPIC. A vCPU's ACPI id is its place in `vcpus`.
pub(super) fn madt(vcpus: &[BootVcpu]) -> Sdt {
    let mut madt = table(*b"APIC", MADT_REVISION, 8);
    madt.write_u32(36, mmio::LAPIC as u32);
    // Flags at 40 stay 0: no PC/AT interrupt controllers.
    for (uid, vcpu) in (0u32..).zip(vcpus) {
        match (u8::try_from(vcpu.apic_id), u8::try_from(uid)) {
            (Ok(apic_id), Ok(uid)) if vcpu.apic_id < FIRST_X2APIC_ID => {
                madt.append(LocalApic { kind: 0, length: 8, uid, apic_id, flags: ENABLED.into() });
            }
            _ => madt.append(LocalX2Apic {
                kind: 9,
                length: 16,
                reserved: 0.into(),
                apic_id: vcpu.apic_id.into(),
                flags: ENABLED.into(),
                uid: uid.into(),
            }),
        }
    }
    madt.append(IoApic {
        kind: 1,
        length: 12,
        id: 0,
        reserved: 0,
        address: (mmio::IOAPIC as u32).into(),
        gsi_base: 0.into(),
    });
    madt
}

/// Which node each vCPU and each region of RAM belongs to.
pub(super) fn srat(layout: &Layout, vcpus: &[BootVcpu]) -> Sdt {
    let mut srat = table(*b"SRAT", SRAT_REVISION, 12);
    srat.write_u32(36, 1);
    for vcpu in vcpus {
        srat.append(X2ApicAffinity {
            kind: 2,
            length: 24,
            reserved: 0.into(),
            domain: u32::from(vcpu.node.0).into(),
            apic_id: vcpu.apic_id.into(),
            flags: ENABLED.into(),
            clock_domain: 0.into(),
            reserved_2: 0.into(),
        });
    }
    for region in layout.regions() {
        srat.append(MemoryAffinity {
            kind: 1,
            length: 40,
            domain: u32::from(region.home.0).into(),
            reserved: 0.into(),
            base: region.start.gpa().into(),
            bytes: (region.end().gpa() - region.start.gpa()).into(),
            reserved_2: 0.into(),
            flags: ENABLED.into(),
            reserved_3: 0.into(),
        });
    }
    srat
}
