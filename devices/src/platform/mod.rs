//! All devices of the home node on their buses.
//!
//! | ports | |
//! |---|---|
//! | 0x40-0x43, 0x61 | [absent](crate::absent) interval timer |
//! | 0x60, 0x64 | [i8042](crate::power): reset |
//! | 0x70-0x71 | [CMOS clock](crate::cmos) |
//! | 0xe9, 0xf4-0xf7 | [payload](crate::payload) console and exit |
//! | 0x3f8-0x3ff | [serial](crate::serial) console |
//! | 0x505 | [pvpanic](crate::power) |
//! | 0x600-0x602 | [ACPI](crate::power) sleep and reset |
//! | 0xcf8-0xcff | [PCI](crate::pci) configuration |
//!
//! Memory: the [IOAPIC](crate::ioapic) at 0xfec00000, [PCI](crate::pci) configuration at 0xe0000000, PCI devices below it
//! and above RAM.

mod device;
#[cfg(test)]
pub(crate) mod tests;

pub use device::Platform;
