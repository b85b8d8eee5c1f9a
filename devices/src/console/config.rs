//! What the driver is told, and the bounds.

use crate::virtio::queue::Limits;
use crate::virtio::{DeviceKind, Model};

/// The queue whose memory the device writes: input of the guest.
pub(super) const RECEIVE: u16 = 0;
/// The queue whose memory the device reads: output of the guest.
pub(super) const TRANSMIT: u16 = 1;
/// Descriptors of each queue.
const QUEUE_SIZE: u16 = 64;
/// Most bytes that a guest may write in one piece; Linux writes at most a page.
pub const WRITE_BYTES_MAX: u64 = 1 << 20;
/// What is taken of the guest's output at a time.
pub(super) const TRANSMIT_LIMITS: Limits = Limits { chains: QUEUE_SIZE as usize, bytes: WRITE_BYTES_MAX };
/// What is taken of the guest's memory for input at a time.
pub(super) const RECEIVE_LIMITS: Limits = Limits { chains: 1, bytes: u64::MAX };

/// The model of a console.
pub(super) fn model() -> Model {
    Model {
        kind: DeviceKind::Console,
        features: 0,
        queue_sizes: vec![QUEUE_SIZE; 2],
        // struct virtio_console_config: columns, rows, ports, emergency write; all of features that are not offered.
        config: vec![0; 12],
    }
}
