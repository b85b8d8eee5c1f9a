//! Virtqueues (virtio 1.2, 2.7: split queues), as a device uses them.
//!
//! The rings are [`virtio_queue::Queue`]'s business; here is when their memory is borrowed. [`DeviceQueue::take`] borrows
//! the three parts of the ring, copies the descriptors of what the driver offers, and gives the memory back;
//! [`copy::read_all`] brings what is to be read; [`DeviceQueue::complete`] writes the answers and the used ring in one
//! loan where they fit, and interrupts afterwards. Between these steps a device holds nothing.
//!
//! Indirect descriptors are not offered: a table of them would be one page more that has to come from the host of the
//! vCPU that made it, and could only be asked for when the ring is here already.
//!
//! Everything in a ring is the driver's word. A chain that makes a loop, leaves the table, mixes its two halves, is
//! empty, or names what is no RAM is a [`QueueError`], after which the device must be reset.

mod chain;
pub mod copy;
mod error;
mod ring;
#[cfg(test)]
mod tests;

pub use chain::{Buffer, Chain, ChainFault};
pub use error::QueueError;
pub use ring::{DeviceQueue, Done, EventIdx, Limits, QueueSetup, Taken};
