//! The CMOS clock (Motorola MC146818): what time it is, once, at boot.
//!
//! Linux takes its wall clock from it even where the ACPI tables say that there is none; ports that read all ones
//! look to it like an update that never ends, for which it waits a second and some 40,000 port exits. Supported: the
//! time and date registers (UTC of the home node's host, BCD, 24 hours, century at 0x32) and the four status
//! registers. Not: setting the time, alarms, interrupts, stored bytes; writes are ignored.

mod device;
#[cfg(test)]
mod tests;

pub use device::{system_time, CmosClock};
