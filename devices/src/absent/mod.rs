//! The places of a PC's interval timer, kept quiet.
//!
//! There is no timer. But a kernel that is not told of its absence in time polls it: Linux on AMD tries a
//! quick calibration before it has read the ACPI tables, and port reads of all ones look to it like a counter
//! that stands still just where it waits (`quick_pit_calibrate`, some 100,000 port exits). Zeros end that at
//! the first read.

mod device;
#[cfg(test)]
mod tests;

pub use device::Absent;
