//! The DSDT: the devices that a kernel cannot find by itself, and the sleep state it may enter.

use std::ops::Range;

use acpi_tables::aml::{Device, EISAName, Interrupt, Name, Package, Path, ResourceTemplate, Scope, IO, ZERO};
use acpi_tables::sdt::Sdt;
use acpi_tables::Aml;
use tessera_abi::{gsi, port};

use super::{pci, table};

/// Two: integers are 64 bits wide.
const DSDT_REVISION: u8 = 2;
/// Present, enabled, functioning; not to be shown to users.
const STATUS_HIDDEN: u8 = 0xb;

/// The DSDT. PCI devices decode memory in `pci_window`, besides the window below 4 GiB.
pub(super) fn dsdt(pci_window: &Range<u64>) -> Sdt {
    let mut dsdt = table(*b"DSDT", DSDT_REVISION, 0);
    let mut aml = Vec::new();
    system_bus(&mut aml);
    pci::namespace(pci_window, &mut aml);
    soft_off(&mut aml);
    dsdt.append_slice(&aml);
    dsdt
}

fn system_bus(aml: &mut Vec<u8>) {
    // ISA interrupts are edge triggered, active high, not shared.
    let interrupt = Interrupt::new(true, true, false, false, gsi::COM1);
    let ports = IO::new(port::COM1, port::COM1, 1, port::COM1_PORTS as u8);
    let panic_port = IO::new(port::PVPANIC, port::PVPANIC, 1, 1);
    Scope::new(
        Path::new("_SB_"),
        vec![
            &Device::new(
                Path::new("COM1"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
                    &Name::new(Path::new("_UID"), &ZERO),
                    &Name::new(Path::new("_DDN"), &"COM1"),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt, &ports])),
                ],
            ),
            &Device::new(
                Path::new("PEVT"),
                vec![
                    &Name::new(Path::new("_HID"), &"QEMU0001"),
                    &Name::new(Path::new("_STA"), &STATUS_HIDDEN),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&panic_port])),
                ],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn soft_off(aml: &mut Vec<u8>) {
    let sleep_type = port::SLEEP_TYPE_S5;
    Name::new(Path::new("_S5_"), &Package::new(vec![&sleep_type])).to_aml_bytes(aml);
}
