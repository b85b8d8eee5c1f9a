//! What a driver asks of a disk (virtio 1.2, 5.2.6), checked against the disk.

use virtio_bindings::virtio_blk as bits;

use super::config::{DISCARD, RANGES_MAX, REQUEST_BYTES_MAX, WRITE_ZEROES};
use super::disk::{Disk, Space, Writes, SECTOR_BYTES};
use crate::virtio::queue::Chain;

/// Bytes of a request's head: type, reserve, sector.
pub(super) const HEAD_BYTES: u64 = 16;
/// Bytes of a range to discard or to zero.
const RANGE_BYTES: usize = 16;
/// Bytes of the answer to [`Operation::GetId`].
pub(super) const ID_BYTES: usize = 20;
/// In a range to be zeroed: its space may be given back.
const UNMAP: u32 = 1;

/// How a request ended, as the driver reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Status {
    Ok = bits::VIRTIO_BLK_S_OK as u8,
    Failed = bits::VIRTIO_BLK_S_IOERR as u8,
    Unsupported = bits::VIRTIO_BLK_S_UNSUPP as u8,
}

/// A range of bytes, inside the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Read(Range),
    Write(u64, Vec<u8>),
    Flush,
    GetId,
    Discard(Vec<Range>),
    WriteZeroes(Vec<(Range, Space)>),
}

/// How much of guest memory a chain asks to be copied; `None` if that is more than any request may.
pub(super) fn copied_bytes(chain: &Chain) -> Option<u64> {
    let (out, back) = (chain.readable_len(), chain.writable_len());
    let fits = out <= HEAD_BYTES + REQUEST_BYTES_MAX && back <= REQUEST_BYTES_MAX + 1;
    fits.then_some(out + back)
}

/// Reads a request out of the bytes of a chain. `room` is how many bytes of data the driver has room for besides the
/// status, `features` what it has accepted.
pub(super) fn parse(bytes: &[u8], room: u64, features: u64, disk: &dyn Disk) -> Result<Operation, Status> {
    let Some((head, data)) = bytes.split_first_chunk::<{ HEAD_BYTES as usize }>() else {
        return Err(Status::Failed);
    };
    let [a, b, c, d, _, _, _, _, sector @ ..] = *head;
    let sector = u64::from_le_bytes(sector);
    let writes = match disk.writes() {
        Writes::Allowed => Ok(()),
        Writes::Refused => Err(Status::Failed),
    };
    match u32::from_le_bytes([a, b, c, d]) {
        bits::VIRTIO_BLK_T_IN => inside(sector, room, disk).map(Operation::Read),
        bits::VIRTIO_BLK_T_OUT => {
            writes?;
            let range = inside(sector, data.len() as u64, disk)?;
            Ok(Operation::Write(range.offset, data.to_vec()))
        }
        bits::VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
        bits::VIRTIO_BLK_T_GET_ID if room >= ID_BYTES as u64 => Ok(Operation::GetId),
        bits::VIRTIO_BLK_T_GET_ID => Err(Status::Failed),
        bits::VIRTIO_BLK_T_DISCARD if features & DISCARD != 0 => {
            writes?;
            // Discards know no flag (5.2.6.2).
            let range = |(range, flags)| if flags == 0 { Ok(range) } else { Err(Status::Unsupported) };
            Ok(Operation::Discard(ranges(data, disk)?.into_iter().map(range).collect::<Result<_, _>>()?))
        }
        bits::VIRTIO_BLK_T_WRITE_ZEROES if features & WRITE_ZEROES != 0 => {
            writes?;
            let range = |(range, flags)| match flags {
                0 => Ok((range, Space::Keep)),
                UNMAP => Ok((range, Space::Free)),
                _ => Err(Status::Unsupported),
            };
            Ok(Operation::WriteZeroes(ranges(data, disk)?.into_iter().map(range).collect::<Result<_, _>>()?))
        }
        _ => Err(Status::Unsupported),
    }
}

/// `bytes` bytes from `sector` on, if they are whole sectors of the disk.
fn inside(sector: u64, bytes: u64, disk: &dyn Disk) -> Result<Range, Status> {
    let offset = sector.checked_mul(SECTOR_BYTES).ok_or(Status::Failed)?;
    let end = offset.checked_add(bytes).ok_or(Status::Failed)?;
    match bytes.is_multiple_of(SECTOR_BYTES) && end <= disk.bytes() {
        true => Ok(Range { offset, bytes }),
        false => Err(Status::Failed),
    }
}

/// Ranges with their flags: struct virtio_blk_discard_write_zeroes.
fn ranges(data: &[u8], disk: &dyn Disk) -> Result<Vec<(Range, u32)>, Status> {
    let (ranges, rest) = data.as_chunks::<RANGE_BYTES>();
    if !rest.is_empty() || ranges.is_empty() || ranges.len() > RANGES_MAX as usize {
        return Err(Status::Failed);
    }
    let range = |bytes: &[u8; RANGE_BYTES]| {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        Ok((inside(sector, u64::from(word(8)) * SECTOR_BYTES, disk)?, word(12)))
    };
    ranges.iter().map(range).collect()
}
