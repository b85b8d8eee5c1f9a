use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use proptest::prelude::*;

use super::backend::{Sent, FRAME_BYTES_MAX};
use super::config::SUMS;
use super::*;
use crate::virtio::testing::{wait_until, DriverQueue, Rig, BUFFERS};
use crate::virtio::Device;

const HEADER: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

/// A network whose frames keep their bounds and their headers, as a tap's do.
struct Datagrams(UnixDatagram);

impl NetBackend for Datagrams {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn offload(&self) -> Offload {
        Offload::SumsAndCutting
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.recv(into) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Sent> {
        match self.0.send(frame) {
            Ok(_) => Ok(Sent::Done),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Later),
            Err(error) => Err(error),
        }
    }
}

struct Setup {
    rig: Rig,
    receive: DriverQueue,
    transmit: DriverQueue,
}

impl Setup {
    fn new(card: Device, features: u64) -> Self {
        let rig = Rig::new(card);
        let mut queues = rig.start(features);
        let (transmit, receive) = (queues.pop().unwrap(), queues.pop().unwrap());
        Setup { rig, receive, transmit }
    }

    fn send(&mut self, packet: &[u8]) {
        self.transmit.fill(BUFFERS, packet);
        let (head, frame) = (HEADER_BYTES as u32, (packet.len() - HEADER_BYTES) as u32);
        self.transmit.offer(&[(BUFFERS, head), (BUFFERS + u64::from(head), frame)], &[]);
        self.rig.kick(1);
        self.transmit.wait_used();
    }

    fn offer_room(&mut self, at: u64, bytes: u32) {
        self.receive.offer(&[], &[(at, bytes)]);
        self.rig.kick(0);
    }
}

fn address() -> MacAddress {
    "52:54:00:12:34:56".parse().unwrap()
}

/// A card, and the other end of its wire.
fn datagrams(features: u64) -> (Setup, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (Setup::new(device(address(), Box::new(Datagrams(near))), features), far)
}

fn stream() -> (Setup, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let backend = StreamBackend::new(near).unwrap();
    (Setup::new(device(address(), Box::new(backend)), 0), far)
}

fn packet(frame: &[u8]) -> Vec<u8> {
    [&HEADER, frame].concat()
}

fn read_frame(socket: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn hardware_addresses_are_read_and_printed() {
    assert_eq!(address().to_string(), "52:54:00:12:34:56");
    for text in [
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:5",
        "52:54:00:12:34:+5",
        "53:54:00:12:34:56",
        "00:00:00:00:00:00",
    ] {
        assert!(text.parse::<MacAddress>().is_err(), "{text}");
    }
    let made = MacAddress::made_of([0xff; 6]);
    assert_eq!(MacAddress::new(made.bytes()).unwrap().to_string(), "fe:ff:ff:ff:ff:ff");
}

#[test]
fn what_is_offered_depends_on_the_back_end() {
    let (near, _far) = UnixDatagram::pair().unwrap();
    let tap = device(address(), Box::new(Datagrams(near))).model;
    assert_eq!((tap.features, tap.config), (1 << 0 | 1 << 5 | 1 << 11 | 1 << 12, address().bytes().to_vec()));
    let (near, _far) = UnixStream::pair().unwrap();
    assert_eq!(device(address(), Box::new(StreamBackend::new(near).unwrap())).model.features, 1 << 5);
}

#[test]
fn frames_go_out_with_the_header_that_was_agreed_on() {
    let (mut card, far) = datagrams(SUMS);
    let asks = [&[1u8; HEADER_BYTES][..], b"frame"].concat();
    card.send(&asks);
    let mut seen = [0; 100];
    assert_eq!(far.recv(&mut seen).unwrap(), asks.len());
    assert_eq!(seen[..asks.len()], asks);

    let (mut card, far) = datagrams(0);
    card.send(&asks);
    let count = far.recv(&mut seen).unwrap();
    assert_eq!(seen[..count], packet(b"frame"), "nothing may be left to the host");
}

#[test]
fn frames_come_in_as_far_as_there_is_room() {
    let (mut card, far) = datagrams(0);
    for number in 0..5u8 {
        far.send(&packet(&[number; 60])).unwrap();
    }
    for number in 0..3u64 {
        card.offer_room(BUFFERS + number * 0x1000, 1526);
    }
    for number in 0..3u8 {
        assert_eq!(card.receive.wait_used().1, 72);
        let seen = card.receive.bytes(BUFFERS + u64::from(number) * 0x1000, 72);
        assert_eq!(seen[HEADER_BYTES..], [number; 60]);
        assert_eq!(seen[..HEADER_BYTES], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "one buffer");
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(card.receive.take_used(), None);
    card.offer_room(BUFFERS, 1526);
    card.receive.wait_used();
    assert_eq!(card.receive.bytes(BUFFERS + 12, 2), [3, 3], "it has waited");
    card.rig.wait_for_queue(0);
}

#[test]
fn a_frame_that_does_not_fit_is_lost_and_the_next_one_is_not() {
    let (mut card, far) = datagrams(0);
    card.offer_room(BUFFERS, 64);
    far.send(&packet(&[1; 100])).unwrap();
    far.send(&[1; 5]).unwrap();
    far.send(&packet(&[2; 20])).unwrap();
    assert_eq!(card.receive.wait_used().1, 32);
    assert_eq!(card.receive.bytes(BUFFERS + 12, 20), [2; 20]);
}

#[test]
fn frames_that_cannot_be_are_refused() {
    for bytes in [HEADER_BYTES as u32, 5, (HEADER_BYTES + FRAME_BYTES_MAX) as u32 + 1] {
        let (mut card, _far) = datagrams(0);
        card.transmit.offer(&[(BUFFERS, bytes)], &[]);
        card.rig.kick(1);
        card.rig.wait_for_needs_reset();
    }
}

#[test]
fn a_stream_has_a_length_before_each_frame() {
    let (mut card, mut far) = stream();
    card.send(&packet(b"to the world"));
    assert_eq!(read_frame(&mut far), b"to the world");
    card.offer_room(BUFFERS, 2000);
    card.offer_room(BUFFERS + 0x1000, 2000);
    // In pieces, as streams come.
    for piece in [&[0, 0][..], &[0, 3, b'a'], b"bc\0\0\0", &[4], b"defg"] {
        far.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((card.receive.wait_used().1, card.receive.wait_used().1), (15, 16));
    assert_eq!(card.receive.bytes(BUFFERS + 12, 3), b"abc");
    assert_eq!(card.receive.bytes(BUFFERS + 0x1000 + 12, 4), b"defg");
}

#[test]
fn all_memory_that_a_driver_has_offered_is_used_whenever_it_was_offered() {
    let (mut card, mut far) = stream();
    for at in [BUFFERS + 0x8000, BUFFERS + 0x9000] {
        card.offer_room(at, 2000);
        // When a frame of its own is out, the card has been at work since.
        card.send(&packet(b"out"));
        assert_eq!(read_frame(&mut far), b"out");
    }
    far.write_all(b"\0\0\0\x03abc\0\0\0\x04defg").unwrap();
    assert_eq!((card.receive.wait_used().1, card.receive.wait_used().1), (15, 16));
}

#[test]
fn a_network_that_does_not_take_frames_gets_them_later_in_order() {
    let (mut card, mut far) = stream();
    let frames = 150;
    // Far more than a socket holds.
    for number in 0..frames {
        card.transmit.fill(BUFFERS + number * 0x8000, &packet(&[number as u8; 0x7000]));
        card.transmit.offer(&[(BUFFERS + number * 0x8000, 0x7000 + HEADER_BYTES as u32)], &[]);
    }
    card.rig.kick(1);
    std::thread::sleep(Duration::from_millis(50));
    for number in 0..frames {
        assert_eq!(read_frame(&mut far), [number as u8; 0x7000]);
    }
    for _ in 0..frames {
        card.transmit.wait_used();
    }
}

#[test]
fn a_network_that_is_lost_leaves_a_card_without_a_wire() {
    let (mut card, far) = stream();
    card.offer_room(BUFFERS, 2000);
    drop(far);
    std::thread::sleep(Duration::from_millis(20));
    card.send(&packet(b"into the void"));
    assert_eq!(card.rig.status(), 15);

    let (mut card, mut far) = stream();
    far.write_all(&u32::MAX.to_be_bytes()).unwrap();
    card.offer_room(BUFFERS, 2000);
    let mut byte = [0];
    assert_eq!(far.read(&mut byte).unwrap(), 0, "whoever announces such a frame is hung up on");
}

#[test]
fn a_new_driver_gets_none_of_the_old_ones_memory() {
    let (mut card, far) = datagrams(0);
    card.offer_room(BUFFERS, 1526);
    card.rig.reset();
    far.send(&packet(&[9; 60])).unwrap();
    card.receive.clear();
    card.transmit.clear();
    let mut queues = card.rig.start(0);
    queues[0].offer(&[], &[(BUFFERS + 0x10000, 1526)]);
    card.rig.kick(0);
    assert_eq!(queues[0].wait_used().1, 72);
    assert_eq!(queues[0].bytes(BUFFERS, 72), [0; 72]);
}

#[test]
fn a_socket_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passt.socket");
    let line = StreamBackend::connect(&path).unwrap_err().to_string();
    assert!(line.contains("passt.socket"), "{line}");
    let listener = UnixListener::bind(&path).unwrap();
    let mut backend = StreamBackend::connect(&path).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    assert_eq!(backend.send(&packet(b"x")).unwrap(), Sent::Done);
    assert_eq!(read_frame(&mut far), b"x");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn every_frame_comes_through_whole_both_ways(
        out in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 1..12),
        back in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 1..12),
    ) {
        let (mut card, mut far) = stream();
        for frame in &out {
            card.send(&packet(frame));
            prop_assert_eq!(&read_frame(&mut far), frame);
        }
        for frame in &back {
            far.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
            far.write_all(frame).unwrap();
            card.offer_room(BUFFERS, 1600);
            let (_, written) = card.receive.wait_used();
            prop_assert_eq!(written as usize, HEADER_BYTES + frame.len());
            prop_assert_eq!(&card.receive.bytes(BUFFERS + 12, frame.len()), frame);
        }
        wait_until("the device is well", || card.rig.status() == 15);
    }
}
