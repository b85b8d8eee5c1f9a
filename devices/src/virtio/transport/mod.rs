//! Virtio over PCI (virtio 1.2, 4.1), modern: what a driver sees.
//!
//! One 64-bit BAR of [`layout::BAR_BYTES`]: the common configuration, the ISR status, the device's configuration, the
//! doorbells (one word for each queue), the MSI-X table and its pending bits. Vendor-specific capabilities say where each is;
//! one more is a window through configuration space for who cannot reach the BAR (4.1.4.9).
//!
//! [`common`] is the common configuration as a plain state machine: what a driver writes into it may lead to a
//! [`common::Effect`], which [`VirtioPci`] carries out.

pub mod common;
mod device;
pub mod layout;
#[cfg(test)]
mod tests;
mod window;

pub use device::{VirtioError, VirtioParts, VirtioPci};
