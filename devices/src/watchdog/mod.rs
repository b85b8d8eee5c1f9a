//! A watchdog: resets a guest that does not say for a while that it is well.
//!
//! The device is four registers in ports. What they mean is in the WDAT table of ACPI ([Hardware Watchdog Timers Design
//! Specification]), which Linux drives with `wdat_wdt`: `/dev/watchdog`.
//!
//! - `countdown`: the registers; plain arithmetic, time comes in as milliseconds. `device`: ports and a thread that waits.
//!
//! Supported: start, stop, time-outs from 1 s to an hour, the time that is left. Not: a stage before the reset, telling after the
//! reset that it was the watchdog (the run's report and its log do).
//!
//! Its time is the host's. A guest that is slow because its pages travel needs a time-out that allows for it.
//!
//! [Hardware Watchdog Timers Design Specification]: https://msdn.microsoft.com/en-us/windows/hardware/gg463320.aspx

mod countdown;
mod device;
#[cfg(test)]
mod tests;

pub use countdown::{COUNT_MAX, COUNT_MIN, PERIOD_MS};
pub use device::Watchdog;
