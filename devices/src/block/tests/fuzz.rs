//! Requests of nonsense: each is answered, and none reaches beyond the disk.

use super::super::request::{parse, Operation, HEAD_BYTES};
use super::*;
use crate::virtio::fuzzing::{fuzz, Entry};

/// In front of a request: how much room there is for an answer besides the status.
const ROOM_BYTES: usize = 2;

fn request(room: u16, kind: u32, sector: u64, data: &[u8]) -> Vec<u8> {
    [&room.to_le_bytes()[..], &kind.to_le_bytes(), &[0; 4], &sector.to_le_bytes(), data].concat()
}

fn corpus() -> Vec<Entry> {
    vec![
        ("a read", request(1024, READ, 3, &[])),
        ("a read of the last sector", request(512, READ, SECTORS - 1, &[])),
        ("a read beyond", request(1024, READ, SECTORS - 1, &[])),
        ("a sector that goes round", request(512, READ, u64::MAX / 512 + 1, &[])),
        ("a write", request(0, WRITE_OUT, 5, &[0x77; 512])),
        ("a write of nothing", request(0, WRITE_OUT, SECTORS, &[])),
        ("a flush", request(0, FLUSH, 0, &[])),
        ("a name", request(20, GET_ID, 0, &[])),
        ("a discard", request(0, DISCARD_RANGES, 0, &range(8, 8, 0))),
        ("discards", request(0, DISCARD_RANGES, 0, &[range(0, 1, 0), range(63, 1, 0)].concat())),
        ("zeroes", request(0, ZERO_RANGES, 0, &range(4, 4, 1))),
        ("zeroes that go round", request(0, ZERO_RANGES, 0, &range(u64::MAX, u32::MAX, 1))),
        ("a head cut short", request(0, READ, 0, &[])[..10].to_vec()),
        ("an unknown one", request(512, 99, 0, &[])),
    ]
}

/// Its room and the rest.
fn split(bytes: &[u8]) -> (u16, &[u8]) {
    match bytes.split_first_chunk::<ROOM_BYTES>() {
        Some((room, rest)) => (u16::from_le_bytes(*room), rest),
        None => (0, &[]),
    }
}

#[test]
fn whatever_is_asked_for_is_inside_the_disk() {
    let odd = Odd::default();
    let end = odd.bytes();
    fuzz(50_000, &corpus(), |bytes| {
        let (room, bytes) = split(bytes);
        let inside = |offset: u64, bytes: u64| offset <= end && bytes <= end - offset;
        match parse(bytes, room.into(), u64::MAX, &odd) {
            Ok(Operation::Read(range)) => assert!(inside(range.offset, range.bytes)),
            Ok(Operation::Write(offset, data)) => {
                assert!(
                    inside(offset, data.len() as u64) && data.len() as u64 + HEAD_BYTES == bytes.len() as u64
                );
            }
            Ok(Operation::Discard(ranges)) => {
                assert!(ranges.iter().all(|range| inside(range.offset, range.bytes)));
            }
            Ok(Operation::WriteZeroes(ranges)) => {
                assert!(ranges.iter().all(|(range, _)| inside(range.offset, range.bytes)));
            }
            Ok(Operation::GetId) => assert!(room >= 20),
            Ok(Operation::Flush) | Err(_) => {}
        }
    });
}

#[test]
fn every_request_is_answered_and_the_image_keeps_its_size() {
    fuzz(200, &corpus(), |bytes| {
        let file = image(SECTORS);
        let mut disk = Setup::new(raw(&file, Writes::Allowed));
        let (room, bytes) = split(bytes);
        disk.queue.fill(HEAD, bytes);
        disk.queue.fill(STATUS, &[0xaa]);
        let readable: Vec<_> =
            (!bytes.is_empty()).then_some((HEAD, bytes.len() as u32)).into_iter().collect();
        let mut writable: Vec<_> = (room > 0).then_some((DATA, room.into())).into_iter().collect();
        writable.push((STATUS, 1));
        disk.queue.offer(&readable, &writable);
        disk.rig.kick(0);
        let (_, written) = disk.queue.wait_used();
        assert!(disk.queue.bytes(STATUS, 1)[0] <= UNSUPPORTED);
        assert!(written <= u32::from(room) + 1, "{written}");
        assert_eq!(disk.rig.status(), 15);
        assert_eq!(file.as_file().metadata().unwrap().len(), SECTORS * 512);
    });
}
