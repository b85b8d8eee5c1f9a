//! What a disk's driver is told (virtio 1.2, 5.2.3 and 5.2.4).

use virtio_bindings::virtio_blk as bits;

use super::disk::{Disk, Writes, SECTOR_BYTES};
use crate::virtio::{DeviceKind, Model};

/// Descriptors of the queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Most buffers of data in a request: with its head and its status a quarter of the queue.
const SEGMENTS_MAX: u32 = 62;
/// Most bytes in one buffer.
const SEGMENT_BYTES_MAX: u32 = 64 << 10;
/// Most bytes in a request.
pub(super) const REQUEST_BYTES_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_BYTES_MAX as u64;
/// Most ranges in a request to discard or to zero.
pub(super) const RANGES_MAX: u32 = 32;
/// Most sectors in one such range: 1 GiB, so that no request takes for ever.
const RANGE_SECTORS_MAX: u32 = 1 << 21;

/// A feature's bit.
const fn bit(number: u32) -> u64 {
    1 << number
}

/// The disk can only be read.
const READ_ONLY: u64 = bit(bits::VIRTIO_BLK_F_RO);
/// Ranges can be discarded.
pub(super) const DISCARD: u64 = bit(bits::VIRTIO_BLK_F_DISCARD);
/// Ranges can be zeroed.
pub(super) const WRITE_ZEROES: u64 = bit(bits::VIRTIO_BLK_F_WRITE_ZEROES);

/// The model of a disk.
pub(super) fn model(disk: &dyn Disk) -> Model {
    let common = bit(bits::VIRTIO_BLK_F_SIZE_MAX)
        | bit(bits::VIRTIO_BLK_F_SEG_MAX)
        | bit(bits::VIRTIO_BLK_F_BLK_SIZE)
        | bit(bits::VIRTIO_BLK_F_FLUSH);
    let own = match disk.writes() {
        Writes::Allowed => DISCARD | WRITE_ZEROES,
        Writes::Refused => READ_ONLY,
    };
    let queue_sizes = vec![QUEUE_SIZE];
    Model { kind: DeviceKind::Block, features: common | own, queue_sizes, config: config(disk.bytes()) }
}

/// struct virtio_blk_config.
fn config(bytes: u64) -> Vec<u8> {
    let mut config = Vec::new();
    config.extend((bytes / SECTOR_BYTES).to_le_bytes());
    config.extend(SEGMENT_BYTES_MAX.to_le_bytes());
    config.extend(SEGMENTS_MAX.to_le_bytes());
    // Geometry: none.
    config.extend([0; 4]);
    config.extend((SECTOR_BYTES as u32).to_le_bytes());
    // Topology: none; cache mode, its reserve, queues: features that are not offered.
    config.extend([0; 12]);
    config.extend(RANGE_SECTORS_MAX.to_le_bytes());
    config.extend(RANGES_MAX.to_le_bytes());
    // Discards of any alignment.
    config.extend(1u32.to_le_bytes());
    config.extend(RANGE_SECTORS_MAX.to_le_bytes());
    config.extend(RANGES_MAX.to_le_bytes());
    // Zeroed ranges may give their space back; reserve.
    config.extend([1, 0, 0, 0]);
    config
}
