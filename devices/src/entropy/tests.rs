use std::io::{self, Read};
use std::path::Path;

use proptest::prelude::*;

use super::{device, EntropySource, REQUEST_BYTES_MAX};
use crate::virtio::testing::{DriverQueue, Rig, BUFFERS};

/// Counts, so that what comes can be told from what was there.
struct Counter(u8);

impl Read for Counter {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        for byte in into.iter_mut() {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(into.len())
    }
}

fn rig(source: EntropySource) -> (Rig, DriverQueue) {
    let rig = Rig::new(device(source));
    let queue = rig.start(0).remove(0);
    (rig, queue)
}

#[test]
fn what_the_driver_offers_is_filled_from_the_source() {
    let (rig, mut queue) = rig(EntropySource::new(Counter(0)));
    let first = queue.offer(&[], &[(BUFFERS, 3), (BUFFERS + 16, 2)]);
    let second = queue.offer(&[], &[(BUFFERS + 32, 1)]);
    rig.kick(0);
    assert_eq!(queue.wait_used(), (first.into(), 5));
    assert_eq!(queue.wait_used(), (second.into(), 1));
    assert_eq!(queue.bytes(BUFFERS, 4), [1, 2, 3, 0]);
    assert_eq!((queue.bytes(BUFFERS + 16, 3), queue.bytes(BUFFERS + 32, 2)), (vec![4, 5, 0], vec![6, 0]));
    rig.wait_for_queue(0);
}

#[test]
fn a_big_request_gets_a_part_and_one_without_room_nothing() {
    let (rig, mut queue) = rig(EntropySource::new(Counter(0)));
    queue.offer(&[], &[(BUFFERS, 1 << 20)]);
    queue.offer(&[(BUFFERS, 8)], &[]);
    rig.kick(0);
    assert_eq!(queue.wait_used().1, REQUEST_BYTES_MAX as u32);
    assert_eq!(queue.wait_used().1, 0);
    assert_eq!(queue.bytes(BUFFERS + REQUEST_BYTES_MAX, 8), [0; 8]);
}

#[test]
fn a_source_that_ends_makes_the_device_ask_for_a_reset() {
    let (rig, mut queue) = rig(EntropySource::new(io::empty()));
    queue.offer(&[], &[(BUFFERS, 8)]);
    rig.kick(0);
    rig.wait_for_needs_reset();
}

#[test]
fn the_hosts_source_gives_random_numbers() {
    let (rig, mut queue) = rig(EntropySource::open(Path::new("/dev/urandom")).unwrap());
    queue.offer(&[], &[(BUFFERS, 64)]);
    rig.kick(0);
    assert_eq!(queue.wait_used().1, 64);
    assert_ne!(queue.bytes(BUFFERS, 64), [0; 64]);
    let problem = EntropySource::open(Path::new("/none")).err().unwrap().to_string();
    assert!(problem.contains("/none"), "{problem}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_offer_comes_back_and_nothing_beside_it_is_written(
        offers in proptest::collection::vec(proptest::collection::vec(1..3000u32, 1..5), 1..12),
    ) {
        let (rig, mut queue) = rig(EntropySource::new(io::repeat(0xff)));
        for buffers in offers {
            let places = (0u64..).map(|i| BUFFERS + i * 0x1000);
            let buffers: Vec<(u64, u32)> = places.zip(buffers).collect();
            let room: u32 = buffers.iter().map(|buffer| buffer.1).sum();
            queue.fill(BUFFERS, &[0; 0x5000]);
            queue.offer(&[], &buffers);
            rig.kick(0);
            let (_, written) = queue.wait_used();
            prop_assert_eq!(written, room.min(REQUEST_BYTES_MAX as u32));
            let seen = queue.bytes(BUFFERS, 0x5000).iter().filter(|&&byte| byte == 0xff).count();
            prop_assert_eq!(seen, written as usize);
            for (gpa, len) in buffers {
                prop_assert_eq!(queue.bytes(gpa + u64::from(len), 1), [0]);
            }
        }
    }
}
