//! How a guest ends: ACPI sleep and reset registers, the keyboard controller's reset, pvpanic.
//!
//! - Sleep control and status ([ACPI 6.5, 4.8.3.7](https://uefi.org/specs/ACPI/6.5/04_ACPI_Hardware_Specification.html)),
//!   as a hardware-reduced platform has them: SLP_EN with the sleep type of S5 is power-off; other types are
//!   not announced by the tables and do nothing. The status register has no wake status to report.
//! - Reset register (ACPI 6.5, 4.8.3.6).
//! - i8042: the reset command alone. Status reads zero ("input buffer empty"), so that a kernel that waits
//!   before it sends the command does not wait; data reads zero.
//! - pvpanic: says which events it knows; a panic ends the guest, "crash kernel loaded" does not.

mod device;
#[cfg(test)]
mod tests;

pub use device::{AcpiPower, PvPanic, I8042};
