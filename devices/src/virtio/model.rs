//! What a device is to its driver before anything happens.

use virtio_bindings::{virtio_config, virtio_ids, virtio_ring};

/// Kinds of devices (virtio 1.2, 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// Network card.
    Net,
    /// Disk.
    Block,
    /// Console.
    Console,
    /// Source of random numbers.
    Entropy,
    /// Sockets between guest and host.
    Vsock,
    /// A folder of the host.
    P9,
}

impl DeviceKind {
    /// Its number.
    pub fn id(self) -> u16 {
        let id = match self {
            DeviceKind::Net => virtio_ids::VIRTIO_ID_NET,
            DeviceKind::Block => virtio_ids::VIRTIO_ID_BLOCK,
            DeviceKind::Console => virtio_ids::VIRTIO_ID_CONSOLE,
            DeviceKind::Entropy => virtio_ids::VIRTIO_ID_RNG,
            DeviceKind::Vsock => virtio_ids::VIRTIO_ID_VSOCK,
            DeviceKind::P9 => virtio_ids::VIRTIO_ID_9P,
        };
        id as u16
    }

    /// Its PCI class, subclass and interface.
    pub fn class(self) -> [u8; 3] {
        match self {
            DeviceKind::Net => [0x02, 0x00, 0x00],
            DeviceKind::Block => [0x01, 0x80, 0x00],
            DeviceKind::Console => [0x07, 0x80, 0x00],
            DeviceKind::Entropy => [0xff, 0x00, 0x00],
            DeviceKind::Vsock => [0x02, 0x80, 0x00],
            DeviceKind::P9 => [0x01, 0x80, 0x00],
        }
    }

    /// What it is called in messages and thread names.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Net => "net",
            DeviceKind::Block => "disk",
            DeviceKind::Console => "console",
            DeviceKind::Entropy => "rng",
            DeviceKind::Vsock => "vsock",
            DeviceKind::P9 => "fs",
        }
    }
}

/// Feature bits that every device here offers and that its driver must or may take (virtio 1.2, 6).
pub mod feature {
    use super::{virtio_config, virtio_ring};

    /// The device is not a legacy one. Its driver must accept.
    pub const VERSION_1: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1;
    /// Each side says when it wants to be told of news.
    pub const EVENT_IDX: u64 = 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX;
    /// All of them.
    pub const COMMON: u64 = VERSION_1 | EVENT_IDX;
}

/// What a device is to its driver before anything happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// Its kind.
    pub kind: DeviceKind,
    /// Features of its kind that are offered, besides [`feature::COMMON`].
    pub features: u64,
    /// Most descriptors of each queue, powers of two.
    pub queue_sizes: Vec<u16>,
    /// Its configuration, which does not change.
    pub config: Vec<u8>,
}

/// Most queues of a device: each has a bit in a word of kicks.
pub const QUEUES_MAX: usize = 64;
