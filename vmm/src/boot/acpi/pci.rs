//! PCI: where configuration space is (MCFG), and the root bus with what it passes on (DSDT).

use std::ops::Range;

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, If,
    Memory32Fixed, Method, Name, Or, Path, ResourceTemplate, Return, Scope, Uuid, IO, ONE, ZERO,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::Aml;
use tessera_abi::{mmio, port};

use super::{OEM, OEM_REVISION, OEM_TABLE};

/// The name of _OSC for PCI host bridges (PCI Firmware Specification 3.3, 4.5.1).
const HOST_BRIDGE_OSC: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// _OSC, first word of the answer: the name is not known.
const OSC_UNKNOWN: u8 = 1 << 2;

/// Configuration space of bus 0 of segment 0.
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(mmio::ECAM, 0, 0, 0);
    mcfg
}

/// The root bus, and the claim on the addresses of its configuration space. Devices have no interrupt pins, so there
/// is no _PRT.
pub(super) fn namespace(window: &Range<u64>, aml: &mut Vec<u8>) {
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let ports = IO::new(port::PCI_CONFIG, port::PCI_CONFIG, 1, port::PCI_CONFIG_PORTS as u8);
    let memory = AddressSpaceCacheable::NotCacheable;
    let (low, low_last) = (mmio::PCI_LOW as u32, (mmio::PCI_LOW_END - 1) as u32);
    let low = AddressSpace::new_memory(memory, true, low, low_last, None);
    let memory = AddressSpaceCacheable::NotCacheable;
    let high = AddressSpace::new_memory(memory, true, window.start, window.end - 1, None);
    let resources = ResourceTemplate::new(vec![&bus, &ports, &low, &high]);
    let ecam = Memory32Fixed::new(true, mmio::ECAM as u32, mmio::ECAM_BYTES as u32);
    Scope::new(
        Path::new("_SB_"),
        vec![
            &Device::new(
                Path::new("PCI0"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
                    &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
                    &Name::new(Path::new("_UID"), &ZERO),
                    &Name::new(Path::new("_SEG"), &ZERO),
                    &Name::new(Path::new("_BBN"), &ZERO),
                    &Name::new(Path::new("_CRS"), &resources),
                    &Method::new(
                        Path::new("_OSC"),
                        4,
                        true,
                        vec![
                            &CreateDWordField::new(&Path::new("CDW1"), &Arg(3), &ZERO),
                            &If::new(
                                &Equal::new(&Arg(0), &Uuid::new(HOST_BRIDGE_OSC)),
                                // Support is noted by nobody; control of what is not there is not given.
                                vec![
                                    &CreateDWordField::new(&Path::new("CDW3"), &Arg(3), &8u8),
                                    &And::new(&Path::new("CDW3"), &Path::new("CDW3"), &ZERO),
                                ],
                            ),
                            &Else::new(vec![&Or::new(&Path::new("CDW1"), &Path::new("CDW1"), &OSC_UNKNOWN)]),
                            &Return::new(&Arg(3)),
                        ],
                    ),
                ],
            ),
            // Kernels use ECAM only where somebody claims its addresses.
            &Device::new(
                Path::new("ECAM"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
                    &Name::new(Path::new("_UID"), &ONE),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ecam])),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}
