//! A network card: virtio-net (virtio 1.2, 5.1) with one pair of queues.
//!
//! - [`backend`]: where frames come from and go to. [`TapBackend`]: a tap device of the host, which checks sums and cuts
//!   long frames itself. [`StreamBackend`]: a Unix stream socket with a length before each frame, as passt and QEMU's
//!   `-netdev stream` speak it.
//! - `config`: what the driver is told. `device`: the engine between the queues and the back end.
//!
//! Supported: frames up to 64 KiB from the guest, with sums and cutting left to the host (tap only); frames of an
//! Ethernet's size to it. Not: several queues, a control queue, merged buffers, long frames to the guest.
//!
//! Frames are copied, so that no page of the guest waits for a network. A frame for which the guest has no memory stays where
//! it is; one that the network does not take waits, and the guest's next ones with it.

pub mod backend;
mod config;
mod device;
mod error;
mod stream;
mod tap;
#[cfg(test)]
mod tests;

pub use backend::{FrameHeader, NetBackend, Offload, HEADER_BYTES};
pub use config::MacAddress;
pub use device::device;
pub use error::NetError;
pub use stream::StreamBackend;
pub use tap::TapBackend;
