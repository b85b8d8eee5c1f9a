//! What the driver is told, and the bounds.

use crate::virtio::queue::Limits;
use crate::virtio::{DeviceKind, Model};

/// Descriptors of the queue.
const QUEUE_SIZE: u16 = 64;
/// Most bytes that one request gets; a driver that wants more asks again.
pub const REQUEST_BYTES_MAX: u64 = 4096;
/// What is taken from the queue at a time.
pub(super) const LIMITS: Limits = Limits { chains: QUEUE_SIZE as usize, bytes: u64::MAX };

/// The model of a source of random numbers.
pub(super) fn model() -> Model {
    Model { kind: DeviceKind::Entropy, features: 0, queue_sizes: vec![QUEUE_SIZE], config: Vec::new() }
}
