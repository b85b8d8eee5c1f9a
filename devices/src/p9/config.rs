//! What the driver is told, and the bounds.

use crate::virtio::queue::Limits;
use crate::virtio::{DeviceKind, Model};

/// Most bytes of a tag, the name under which a guest mounts the folder. (Linux takes no more than a page holds.)
pub const TAG_BYTES_MAX: usize = 255;
/// Descriptors of the queue: Linux has up to 128 pages of a request in it, each a descriptor.
const QUEUE_SIZE: u16 = 256;
/// The device has a tag (Linux, virtio_9p.h: VIRTIO_9P_MOUNT_TAG).
const MOUNT_TAG: u64 = 1;
/// Most bytes of a message. What Linux asks for by default is half of it.
pub(super) const MESSAGE_BYTES_MAX: u32 = 256 << 10;
/// What is taken from the queue at a time.
pub(super) const LIMITS: Limits = Limits { chains: 16, bytes: 1 << 20 };
/// Most names that a guest may have for files (fids).
pub(super) const FIDS_MAX: usize = 1 << 16;
/// Most files that it may have open: the node needs descriptors too.
pub(super) const OPEN_MAX: usize = 256;
/// Most bytes of all its names' paths together.
pub(super) const PATH_BYTES_MAX: usize = 16 << 20;

/// The model of a folder with this tag, which has at most [`TAG_BYTES_MAX`] bytes.
pub(super) fn model(tag: &str) -> Model {
    // (The length fits: it was checked.)
    let mut config = (tag.len() as u16).to_le_bytes().to_vec();
    config.extend(tag.as_bytes());
    Model { kind: DeviceKind::P9, features: MOUNT_TAG, queue_sizes: vec![QUEUE_SIZE], config }
}
