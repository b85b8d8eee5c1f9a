//! PCI configuration space, by ports and by memory, and the memory of devices.

use super::gates;

/// The address port of configuration mechanism 1, and the data port.
const ADDRESS: u16 = tessera_abi::port::PCI_CONFIG;
const DATA: u16 = ADDRESS + 4;
/// In the address port: accesses to the data port mean configuration space.
const ENABLE: u32 = 1 << 31;
/// Devices on a bus.
pub const DEVICES: u8 = 32;
/// What is read where no device is.
pub const NOBODY: u32 = u32::MAX;

/// Reads a 32-bit register of bus 0 by ports. Two CPUs must not do so at the same time.
pub fn read(device: u8, register: u8) -> u32 {
    select(device, register);
    gates::read_port(DATA)
}

/// Writes a 32-bit register of bus 0 by ports. Two CPUs must not do so at the same time.
pub fn write(device: u8, register: u8, value: u32) {
    select(device, register);
    gates::write_port(DATA, value);
}

fn select(device: u8, register: u8) {
    gates::write_port(ADDRESS, ENABLE | u32::from(device) << 11 | u32::from(register & 0xfc));
}

/// Where the configuration space of a device of bus 0 is in memory.
pub fn space(device: u8) -> u64 {
    tessera_abi::mmio::ECAM + (u64::from(device) << 15)
}

/// Reads a 32-bit register of bus 0 by memory.
pub fn read_by_memory(device: u8, register: u8) -> u32 {
    load(space(device) + u64::from(register))
}

/// Whether an address is one of a device, which no memory of the program has.
fn is_devices(address: u64) -> bool {
    use tessera_abi::mmio;
    (mmio::PCI_LOW..mmio::ECAM + mmio::ECAM_BYTES).contains(&address)
}

/// A type of device registers.
pub trait Register: Copy {}
impl Register for u8 {}
impl Register for u16 {}
impl Register for u32 {}
impl Register for u64 {}

/// Reads a device's register at an address below 4 GiB.
///
/// # Panics
/// When no device can be there.
pub fn load<T: Register>(address: u64) -> T {
    assert!(is_devices(address) && address % size_of::<T>() as u64 == 0);
    // SAFETY: mapped (the first 4 GiB are), aligned, and not memory: nothing of the program is there.
    unsafe { core::ptr::read_volatile(address as *const T) }
}

/// Writes a device's register at an address below 4 GiB.
///
/// # Panics
/// When no device can be there.
pub fn store<T: Register>(address: u64, value: T) {
    assert!(is_devices(address) && address % size_of::<T>() as u64 == 0);
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(address as *mut T, value) }
}
