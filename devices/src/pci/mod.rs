//! PCI: one root bus, its configuration space, and where its devices decode memory.
//!
//! - [`root`]: the bus; configuration by ECAM and by ports 0xcf8-0xcff, memory by the devices' BARs.
//! - [`config`]: one function's 256 bytes of configuration space: which bits there are, which can be written.
//! - [`msix`]: message-signalled interrupts, the only kind here: no function has an interrupt pin.
//! - [`host_bridge`]: what is at 00:00.0.
//! - [`window`]: who gets which addresses.
//!
//! Supported (PCI Local Bus 3.0, PCI Express Base 5.0 7.5): type 0 headers, 64-bit memory BARs that the guest may move,
//! capability lists, MSI-X. Not: bridges, more than one function a device, I/O BARs, expansion ROMs, INTx, MSI,
//! extended capabilities, power management, hot-plug.

pub mod config;
pub mod function;
pub mod host_bridge;
pub mod msix;
pub mod register;
pub mod root;
#[cfg(test)]
mod tests;
pub mod window;

pub use config::{ConfigError, ConfigSpace, Identity};
pub use function::{Decoding, FunctionReport, PciFunction, Region};
pub use msix::Msix;
pub use root::{PciRoot, RootError};
pub use window::MemoryWindow;
