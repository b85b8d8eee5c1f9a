//! Rings of nonsense: no panic, no buffer outside memory, no write to what was not lent.

use super::*;
use crate::ram::GuestRam;
use crate::virtio::fuzzing::{fuzz, Entry};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

/// Bytes of the descriptor table; the available ring is behind it.
const TABLE: usize = 16 * SIZE as usize;
const AVAILABLE: usize = 6 + 2 * SIZE as usize;
/// Most bytes that are read, as devices bound them.
const READ_MAX: u64 = 1 << 20;

/// A descriptor table and an available ring.
fn ring(descriptors: &[(u64, u32, u16, u16)], heads: &[u16], index: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(address, len, flags, next) in descriptors {
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend([flags.to_le_bytes(), next.to_le_bytes()].concat());
    }
    bytes.resize(TABLE, 0);
    bytes.extend([[0; 2], index.to_le_bytes()].concat());
    bytes.extend(heads.iter().flat_map(|head| head.to_le_bytes()));
    bytes.resize(TABLE + AVAILABLE, 0);
    bytes
}

fn corpus() -> Vec<Entry> {
    let one = |address, len, flags, next| ring(&[(address, len, flags, next)], &[0], 1);
    let end = FakeRam::BYTES;
    vec![
        ("nothing", ring(&[], &[], 0)),
        ("one to read", one(BUFFERS, 512, 0, 0)),
        ("one to write", one(BUFFERS, 512, WRITE, 0)),
        (
            "a chain",
            ring(
                &[
                    (BUFFERS, 16, NEXT, 1),
                    (BUFFERS + 4096, 4096, NEXT | WRITE, 2),
                    (BUFFERS + 16, 1, WRITE, 0),
                ],
                &[0],
                1,
            ),
        ),
        ("several", ring(&[(BUFFERS, 1, 0, 0), (BUFFERS, 1, WRITE, 0)], &[0, 1, 0, 1], 4)),
        ("itself", one(BUFFERS, 1, NEXT, 0)),
        ("two in a loop", ring(&[(BUFFERS, 1, NEXT, 1), (BUFFERS, 1, NEXT, 0)], &[0], 1)),
        ("out of the table", one(BUFFERS, 1, NEXT, SIZE)),
        ("to read behind to write", ring(&[(BUFFERS, 1, NEXT | WRITE, 1), (BUFFERS, 1, 0, 0)], &[0], 1)),
        ("empty", one(BUFFERS, 0, 0, 0)),
        ("the end of memory", one(end - 1, 1, WRITE, 0)),
        ("across the end of memory", one(end - 1, 2, WRITE, 0)),
        ("all of memory", one(0, end as u32, 0, 0)),
        ("nowhere", one(2 << 30, 4096, WRITE, 0)),
        ("an address that goes round", one(u64::MAX - 1, 4096, 0, 0)),
        ("a length that goes round", one(FakeRam::HIGH, u32::MAX, WRITE, 0)),
        ("a table of its own", one(BUFFERS, 32, INDIRECT, 0)),
        ("a head out of the table", ring(&[(BUFFERS, 1, 0, 0)], &[SIZE], 1)),
        ("more than there are", ring(&[(BUFFERS, 1, 0, 0)], &[0], SIZE + 1)),
        ("an index that went back", ring(&[(BUFFERS, 1, 0, 0)], &[0], u16::MAX)),
        ("the ring itself", one(0x1_c000, 64, WRITE, 0)),
    ]
}

fn all_memory(ram: &FakeRam) -> Vec<u8> {
    let mut bytes = vec![0; (FakeRam::BYTES + FakeRam::HIGH_BYTES) as usize];
    let (low, high) = bytes.split_at_mut(FakeRam::BYTES as usize);
    ram.memory().read_slice(low, GuestAddress(0)).unwrap();
    ram.memory().read_slice(high, GuestAddress(FakeRam::HIGH)).unwrap();
    bytes
}

/// Where in [`all_memory`] an address is.
fn place(gpa: u64) -> usize {
    (if gpa < FakeRam::HIGH { gpa } else { gpa - FakeRam::HIGH + FakeRam::BYTES }) as usize
}

fn attempt(image: &[u8], event_idx: EventIdx) {
    let mut pair = pair(event_idx);
    let mut image = image.to_vec();
    image.resize(TABLE + AVAILABLE, 0);
    pair.driver.fill(pair.driver.setup.descriptors, &image[..TABLE]);
    pair.driver.fill(pair.driver.setup.available, &image[TABLE..]);
    let before = all_memory(&pair.ram);
    let mut lent = vec![(pair.driver.setup.used, 6 + 8 * u64::from(SIZE))];
    for _ in 0..3 {
        let Ok(taken) = pair.device.take(&*pair.ram, PLENTY) else { break };
        assert!(taken.chains.len() <= usize::from(SIZE));
        for chain in &taken.chains {
            assert!(chain.readable.len() + chain.writable.len() <= usize::from(SIZE));
            for buffer in chain.readable.iter().chain(&chain.writable) {
                let start = GuestAddress(buffer.gpa);
                let all = GuestMemory::check_range(
                    pair.ram.memory(),
                    start,
                    buffer.len as usize,
                    Permissions::Read,
                );
                assert!(all && buffer.len > 0, "{buffer:?}");
            }
            if chain.readable_len() <= READ_MAX {
                let bytes = read_all(&*pair.ram, chain.readable.iter().copied()).unwrap();
                assert_eq!(bytes.len() as u64, chain.readable_len());
            }
            lent.extend(chain.writable.iter().map(|buffer| (buffer.gpa, u64::from(buffer.len))));
        }
        // More than there is room for, sometimes not at the start.
        let answer = |chain: Chain| {
            let (offset, written) = (u64::from(chain.head) % 3, chain.writable_len() as u32);
            done(chain, vec![(offset, vec![0xee; 5000])], written)
        };
        let all: Vec<Done> = taken.chains.into_iter().map(answer).collect();
        if pair.device.complete(&*pair.ram, &all).is_err() {
            break;
        }
    }
    assert!(pair.device.outstanding() <= SIZE);
    let after = all_memory(&pair.ram);
    let mut allowed = before;
    for (gpa, len) in lent {
        let range = place(gpa)..place(gpa) + len as usize;
        allowed[range.clone()].copy_from_slice(&after[range]);
    }
    assert!(allowed == after, "memory that was not lent has changed");
}

#[test]
fn no_ring_makes_the_device_touch_what_was_not_lent() {
    for event_idx in [EventIdx::Off, EventIdx::On] {
        fuzz(200, &corpus(), |image| attempt(image, event_idx));
    }
}
