//! The DSDT: the devices that a kernel cannot find by itself, and the sleep state it may enter.

use std::ops::Range;

use acpi_tables::aml::{
    And, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If,
    Interrupt, Local, Method, Name, Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Scope,
    Store, IO, ONE, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::Aml;
use tessera_abi::{gsi, port};

use super::{generation, pci, table};

/// Two: integers are 64 bits wide.
const DSDT_REVISION: u8 = 2;
/// Present, enabled, functioning; not to be shown to users.
const STATUS_HIDDEN: u8 = 0xb;

/// What a device is told when its button is pressed (ACPI 6.5, table 5.147).
const PRESSED: u8 = 0x80;

/// The DSDT. PCI devices decode memory in `pci_window`, besides the window below 4 GiB; the guest's generation is at
/// `generation`.
pub(super) fn dsdt(pci_window: &Range<u64>, generation: u64) -> Sdt {
    let mut dsdt = table(*b"DSDT", DSDT_REVISION, 0);
    let mut aml = Vec::new();
    system_bus(&mut aml);
    events(&mut aml);
    generation::namespace(generation, &mut aml);
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

/// The power button, and the device that hears of it: its method reads which events there were.
fn events(aml: &mut Vec<u8>) {
    let interrupt = Interrupt::new(true, true, false, false, gsi::EVENTS);
    let (seen, button) = (Path::new("EVTS"), Path::new("PWRB"));
    Scope::new(
        Path::new("_SB_"),
        vec![
            &Device::new(
                Path::new("PWRB"),
                vec![
                    &Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")),
                    &Name::new(Path::new("_UID"), &ZERO),
                ],
            ),
            &Device::new(
                Path::new("GED_"),
                vec![
                    &Name::new(Path::new("_HID"), &"ACPI0013"),
                    &Name::new(Path::new("_UID"), &ZERO),
                    &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt])),
                    &OpRegion::new(Path::new("EVTR"), OpRegionSpace::SystemIO, &port::EVENTS, &ONE),
                    &Field::new(
                        Path::new("EVTR"),
                        FieldAccessType::Byte,
                        FieldLockRule::NoLock,
                        FieldUpdateRule::Preserve,
                        vec![FieldEntry::Named(*b"EVTS", 8)],
                    ),
                    &Method::new(
                        Path::new("_EVT"),
                        1,
                        true,
                        vec![
                            // Once: reading clears.
                            &Store::new(&Local(0), &seen),
                            &And::new(&Local(1), &Local(0), &port::EVENT_POWER_BUTTON),
                            &If::new(
                                &Equal::new(&Local(1), &port::EVENT_POWER_BUTTON),
                                vec![&Notify::new(&button, &PRESSED)],
                            ),
                        ],
                    ),
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
