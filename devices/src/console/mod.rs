//! A console: virtio-console (virtio 1.2, 5.3) with one port, which Linux calls hvc0.
//!
//! Quicker than the serial one: many bytes for one kick, and nobody waits for a kick. What the guest writes goes to an
//! [output](ConsoleOutput) at once; what it is to read waits in a bounded queue ([`ConsoleInput`]) until its driver offers
//! memory. Not: several ports, a size, emergency writes.

mod config;
mod device;
mod error;
mod input;
#[cfg(test)]
mod tests;

pub use config::WRITE_BYTES_MAX;
pub use device::{device, ConsoleOutput};
pub use error::ConsoleError;
pub use input::{ConsoleInput, INPUT_BYTES_MAX};
