//! WDAT: what to do with which register of the watchdog (Microsoft, Hardware Watchdog Timers Design Specification 1.01).

use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;
use acpi_tables::Aml;
use tessera_abi::port::watchdog as at;
use tessera_abi::port::WATCHDOG;
use tessera_devices::watchdog::{COUNT_MAX, COUNT_MIN, PERIOD_MS};

use super::table;

const REVISION: u8 = 1;
/// Bytes of the head behind a table's own, with the number of entries.
const HEAD_BYTES: u32 = 32;
/// The watchdog is no PCI device.
const NO_PCI: [u8; 5] = [0xff; 5];
/// It can be used; it does not run yet.
const ENABLED: u8 = 1;

/// Instructions.
const READ_VALUE: u8 = 0;
const READ_COUNTDOWN: u8 = 1;
const WRITE_VALUE: u8 = 2;
const WRITE_COUNTDOWN: u8 = 3;

/// An action, the instruction that does it, its register, and the value that is written or looked for.
type Entry = (u8, u8, u16, u32);

const ENTRIES: [Entry; 8] = [
    // Reset: the guest is well.
    (0x01, WRITE_VALUE, at::KICK, 1),
    // How much is left; the time-out; setting it.
    (0x04, READ_COUNTDOWN, at::LEFT, 0),
    (0x05, READ_COUNTDOWN, at::COUNT, 0),
    (0x06, WRITE_COUNTDOWN, at::COUNT, 0),
    // Whether it runs; running it; whether it is stopped; stopping it.
    (0x08, READ_VALUE, at::CONTROL, 1),
    (0x09, WRITE_VALUE, at::CONTROL, 1),
    (0x0a, READ_VALUE, at::CONTROL, 0),
    (0x0b, WRITE_VALUE, at::CONTROL, 0),
];

/// The table.
pub(super) fn wdat() -> Sdt {
    let mut body = Vec::new();
    body.extend(HEAD_BYTES.to_le_bytes());
    // Segment, bus, device, function; reserve.
    body.extend(NO_PCI);
    body.extend([0; 3]);
    for number in [PERIOD_MS, COUNT_MAX, COUNT_MIN] {
        body.extend(number.to_le_bytes());
    }
    body.extend([ENABLED, 0, 0, 0]);
    body.extend((ENTRIES.len() as u32).to_le_bytes());
    for (action, instruction, register, value) in ENTRIES {
        body.extend([action, instruction, 0, 0]);
        let port = u64::from(WATCHDOG + register);
        GAS::new(AddressSpace::SystemIo, 32, 0, AccessSize::DwordAccess, port).to_aml_bytes(&mut body);
        body.extend(value.to_le_bytes());
        // All bits count: what is read of a register that has one has no others.
        body.extend(u32::MAX.to_le_bytes());
    }
    let mut wdat = table(*b"WDAT", REVISION, 0);
    wdat.append_slice(&body);
    wdat
}
