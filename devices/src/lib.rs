#![forbid(unsafe_code)]
//! What the guest sees: the buses and the devices of the home node.
//!
//! Every device is a folder of the same files: `mod.rs` says what the device supports, `device.rs` is the
//! device, `tests.rs` its tests. A device's state is one plain struct behind one small lock. No device calls
//! out (interrupts, console, end of the guest) while it holds its lock, so nothing here can deadlock and a
//! slow console does not hold up another vCPU's access.
//!
//! [`Platform`] puts the devices on their buses. It cannot fail on anything that a guest does: an access to a
//! place where nothing is reads all ones and writes nothing, like a PC.

pub mod absent;
pub mod block;
pub mod bus;
pub mod cmos;
pub mod console;
pub mod entropy;
mod events;
pub mod ged;
pub mod ioapic;
pub mod net;
pub mod p9;
pub mod payload;
pub mod pci;
pub mod platform;
pub mod power;
pub mod ram;
pub mod serial;
pub mod traffic;
pub mod virtio;
pub mod vsock;
pub mod watchdog;

pub use bus::{Bus, BusDevice, BusError};
pub use events::{GuestEnd, Msi, MsiSink, PlatformEvents};
pub use platform::Platform;
