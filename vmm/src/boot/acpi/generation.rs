//! Which life of which guest this is: a number that differs whenever memory that the guest has seen before is run again
//! (Microsoft's "Virtual Machine Generation ID"). Linux's `vmgenid` takes it for its random numbers.
//!
//! Every start of a guest is a life of its own. Nothing brings memory of an earlier one back, so the number never changes while
//! the guest runs, and no event tells of it.

use std::fs::File;
use std::io::{self, Read};

use acpi_tables::aml::{Device, Name, Package, Path, Scope, ZERO};
use acpi_tables::Aml;

/// The number.
pub(super) type Generation = [u8; 16];

/// Another one each time.
pub(super) fn new() -> io::Result<Generation> {
    let mut number = Generation::default();
    File::open("/dev/urandom")?.read_exact(&mut number)?;
    Ok(number)
}

/// The device that says where the number is.
pub(super) fn namespace(address: u64, aml: &mut Vec<u8>) {
    let (low, high) = (address as u32, (address >> 32) as u32);
    Scope::new(
        Path::new("_SB_"),
        vec![&Device::new(
            Path::new("VGEN"),
            vec![
                &Name::new(Path::new("_HID"), &"TSRA0001"),
                &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
                &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
                &Name::new(Path::new("_UID"), &ZERO),
                &Name::new(Path::new("ADDR"), &Package::new(vec![&low, &high])),
            ],
        )],
    )
    .to_aml_bytes(aml);
}
