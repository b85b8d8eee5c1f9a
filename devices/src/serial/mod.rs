//! The serial console: a 16550A at COM1, interrupt 4 through the IOAPIC.
//!
//! The registers are [`vm_superio::Serial`]'s. What is added: the guest's output reaches
//! [`PlatformEvents::console`](crate::PlatformEvents::console) and its interrupts reach the IOAPIC after the
//! device's lock is released; input beyond the 64 bytes of the FIFO waits in a bounded queue.

mod device;
#[cfg(test)]
mod tests;

pub use device::{SerialConsole, INPUT_MAX};
