//! Random numbers from the host: virtio-rng (virtio 1.2, 5.4).
//!
//! The driver offers memory, the device fills it from a [source](EntropySource), at most [`REQUEST_BYTES_MAX`] at a time.
//! It has no configuration and no features of its own.

mod config;
mod device;
mod error;
#[cfg(test)]
mod tests;

pub use config::REQUEST_BYTES_MAX;
pub use device::{device, EntropySource};
pub use error::EntropyError;
