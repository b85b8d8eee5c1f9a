//! Where everything is in the BAR, and how capabilities say so (virtio 1.2, 4.1.4).

use crate::pci::msix::MsixPlace;

/// The BAR with everything in it.
pub const BAR: usize = 0;
/// Its size.
pub const BAR_BYTES: u64 = 0x8000;
/// Each part begins at a multiple of this.
const PART_BYTES: u32 = 0x1000;

/// Bytes of the common configuration (without the fields of features that are not offered).
pub const COMMON_BYTES: u32 = 0x38;
/// Bytes from one queue's doorbell to the next one's.
pub const DOORBELL_BYTES: u32 = 4;
/// Where MSI-X has its table and its pending bits.
pub const MSIX: MsixPlace = MsixPlace { bar: BAR as u8, table: 4 * PART_BYTES, pending: 5 * PART_BYTES };

/// The parts of the BAR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What all devices have in common.
    Common,
    /// The ISR status.
    Isr,
    /// What is this kind of device's own.
    Device,
    /// A word for each queue: writing it is a kick.
    Doorbells,
    /// The MSI-X table.
    MsixTable,
    /// The MSI-X pending bits.
    MsixPending,
}

/// Which part an offset in the BAR is in, and where in it.
pub fn part(offset: u64) -> Option<(Part, u64)> {
    let part = match offset / u64::from(PART_BYTES) {
        0 => Part::Common,
        1 => Part::Isr,
        2 => Part::Device,
        3 => Part::Doorbells,
        4 => Part::MsixTable,
        5 => Part::MsixPending,
        _ => return None,
    };
    Some((part, offset % u64::from(PART_BYTES)))
}

/// Vendor-specific capability id (PCI Local Bus 3.0, appendix H).
pub const VENDOR_CAPABILITY: u8 = 0x09;

/// A capability's cfg_type (virtio 1.2, 4.1.4).
const COMMON_TYPE: u8 = 1;
const NOTIFY_TYPE: u8 = 2;
const ISR_TYPE: u8 = 3;
const DEVICE_TYPE: u8 = 4;
const WINDOW_TYPE: u8 = 5;

/// What follows a capability's id and link: struct virtio_pci_cap from cap_len on.
fn body(kind: u8, part: u32, bytes: u32, tail: &[u8]) -> Vec<u8> {
    const HEAD_BYTES: u8 = 16;
    let mut body = vec![HEAD_BYTES + tail.len() as u8, kind, BAR as u8, 0, 0, 0];
    body.extend((part * PART_BYTES).to_le_bytes());
    body.extend(bytes.to_le_bytes());
    body.extend(tail);
    body
}

/// The bodies of the capabilities of a device with so many queues and so many bytes of configuration.
pub fn capabilities(queues: u32, config_bytes: u32) -> Vec<Vec<u8>> {
    let mut bodies = vec![
        body(COMMON_TYPE, 0, COMMON_BYTES, &[]),
        body(ISR_TYPE, 1, 1, &[]),
        body(NOTIFY_TYPE, 3, queues * DOORBELL_BYTES, &DOORBELL_BYTES.to_le_bytes()),
    ];
    if config_bytes > 0 {
        bodies.push(body(DEVICE_TYPE, 2, config_bytes, &[]));
    }
    bodies
}

/// The body of the capability that is a window to the BAR: bar, offset, length and data can be written.
pub fn window_capability() -> Vec<u8> {
    body(WINDOW_TYPE, 0, 0, &[0; 4])
}
