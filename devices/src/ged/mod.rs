//! Events of the platform: the power button. ACPI's generic event device ([ACPI 6.5, 5.6.9]).
//!
//! A hardware-reduced platform has no fixed events. What it has is an interrupt; the kernel then runs a method of the tables
//! (`_EVT`), which reads one port: a bit for each event since the last read. Which device is told of which event is in the tables.
//!
//! Supported: the power button. Not: the sleep button, lids, hot plug.
//!
//! [ACPI 6.5, 5.6.9]: https://uefi.org/specs/ACPI/6.5/05_ACPI_Software_Programming_Model.html

mod device;
#[cfg(test)]
mod tests;

pub use device::{Event, EventDevice};
