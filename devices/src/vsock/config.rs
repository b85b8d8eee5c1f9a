//! What the driver is told (virtio 1.2, 5.10.4), and the bounds.

use crate::virtio::queue::Limits;
use crate::virtio::{DeviceKind, Model};

/// The host's address.
pub(super) const HOST_CID: u64 = 2;
/// The least address of a guest.
pub const CID_MIN: u32 = 3;
/// The greatest: the one behind it means any address.
pub const CID_MAX: u32 = u32::MAX - 1;
/// Most bytes in the path of the socket for callers: with a port behind it, it must fit into a socket's address.
pub const PATH_BYTES_MAX: usize = 107 - "_4294967295".len();

/// The queue whose memory the device writes: packets for the guest.
pub(super) const RECEIVE: u16 = 0;
/// The queue whose memory the device reads: packets of the guest.
pub(super) const TRANSMIT: u16 = 1;
/// (The third queue is for events, of which there are none.)
const QUEUES: usize = 3;
/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 128;

/// Most connections at a time.
pub const LINKS_MAX: usize = 1024;
/// Most callers on the host that have not said yet which port they want; of more, the first one is hung up on.
pub const CALLERS_MAX: usize = 64;
/// What a guest may send on a connection before the host has taken it.
pub const BUFFER_BYTES: u32 = 256 << 10;
/// Packets that wait for the guest's memory; with so many, no more of its own are taken.
pub const OUTBOX_MAX: usize = 256;
/// Most bytes of data in a packet to the guest.
pub(super) const DATA_BYTES_MAX: usize = 64 << 10;
/// What is taken of the guest's packets at a time.
pub(super) const TRANSMIT_LIMITS: Limits = Limits { chains: 32, bytes: 2 << 20 };
/// What is taken of the guest's memory for packets at a time.
pub(super) const RECEIVE_LIMITS: Limits = Limits { chains: 64, bytes: 16 << 20 };

/// The model of a device whose guest has this address.
pub(super) fn model(cid: u32) -> Model {
    Model {
        kind: DeviceKind::Vsock,
        features: 0,
        queue_sizes: vec![QUEUE_SIZE; QUEUES],
        config: u64::from(cid).to_le_bytes().to_vec(),
    }
}
