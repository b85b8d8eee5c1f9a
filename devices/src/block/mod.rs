//! A disk: virtio-blk (virtio 1.2, 5.2).
//!
//! - [`disk`]: what keeps the bytes; [`raw`](disk::RawDisk) image files and block devices.
//! - [`qcow2`]: images of that format, by the crate `imago`. `tables`: whether one is whole. `file`: opening either.
//! - `config`: what the driver is told. `request`: what it asks for. `pool`: threads that do it.
//! - `device`: the engine between the queue and the pool.
//!
//! Supported: reads, writes, flushes, discards, zeroing, the serial number; any number of requests under way at a time, up to
//! [`IN_FLIGHT_BYTES_MAX`]. Not: several queues, resizing, write-through (the cache is the host's: what is to last has to be
//! flushed), zones, secure erase, lifetime.
//!
//! **What is under way is not lent.** A request's bytes are copied out of guest memory before the disk sees them, and
//! into it when the disk is done: no page of the guest waits for a disk. The host's page cache answers most reads; beside
//! the way of a page between hosts a copy costs nothing.
//!
//! A request that makes no sense, is out of the disk's bounds, or fails on the host, is answered with an error. One that has no
//! place for an answer is the driver's fault, and the device asks for a reset.

mod config;
mod device;
pub mod disk;
mod error;
mod file;
mod pool;
pub mod qcow2;
mod request;
mod tables;
#[cfg(test)]
mod tests;

pub use device::{device, IN_FLIGHT_BYTES_MAX};
pub use disk::{Disk, RawDisk, Writes};
pub use error::DiskError;
pub use qcow2::{BackingFiles, Qcow2Disk};
