use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{device, ConsoleInput, ConsoleOutput, INPUT_BYTES_MAX, WRITE_BYTES_MAX};
use crate::virtio::testing::{wait_until, DriverQueue, Rig, BUFFERS};

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl ConsoleOutput for Screen {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend(bytes);
    }
}

impl Screen {
    fn text(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

struct Setup {
    rig: Rig,
    receive: DriverQueue,
    transmit: DriverQueue,
    screen: Screen,
    input: Arc<ConsoleInput>,
}

fn setup() -> Setup {
    let screen = Screen::default();
    let (console, input) = device(Box::new(screen.clone())).unwrap();
    let rig = Rig::new(console);
    let mut queues = rig.start(0);
    let (transmit, receive) = (queues.pop().unwrap(), queues.pop().unwrap());
    Setup { rig, receive, transmit, screen, input }
}

#[test]
fn what_the_guest_writes_is_printed_in_order() {
    let mut console = setup();
    console.transmit.fill(BUFFERS, b"hello, world");
    console.transmit.offer(&[(BUFFERS, 5)], &[]);
    console.transmit.offer(&[(BUFFERS + 5, 2), (BUFFERS + 7, 5)], &[]);
    console.rig.kick(1);
    console.transmit.wait_used();
    assert_eq!(console.transmit.wait_used().1, 0);
    assert_eq!(console.screen.text(), b"hello, world");
    console.rig.wait_for_queue(1);
}

#[test]
fn input_waits_for_memory_and_fills_it_piece_by_piece() {
    let mut console = setup();
    assert_eq!(console.input.offer(b"abcde"), 5);
    console.receive.offer(&[], &[(BUFFERS, 3)]);
    console.rig.kick(0);
    assert_eq!(console.receive.wait_used().1, 3);
    assert_eq!(console.receive.bytes(BUFFERS, 4), b"abc\0");
    console.receive.offer(&[], &[(BUFFERS, 3)]);
    console.rig.kick(0);
    assert_eq!(console.receive.wait_used().1, 2);
    assert_eq!(console.receive.bytes(BUFFERS, 3), b"dec");
    console.receive.offer(&[], &[(BUFFERS, 3)]);
    console.rig.kick(0);
    console.input.offer(b"f");
    assert_eq!(console.receive.wait_used().1, 1);
    console.rig.wait_for_queue(0);
}

#[test]
fn input_is_bounded_and_survives_a_reset() {
    let mut console = setup();
    assert_eq!(console.input.offer(&vec![b'x'; INPUT_BYTES_MAX + 5]), INPUT_BYTES_MAX);
    assert_eq!(console.input.offer(b"y"), 0);
    console.rig.reset();
    console.receive.clear();
    console.transmit.clear();
    let mut queues = console.rig.start(0);
    queues[0].offer(&[], &[(BUFFERS, INPUT_BYTES_MAX as u32)]);
    console.rig.kick(0);
    assert_eq!(queues[0].wait_used().1, INPUT_BYTES_MAX as u32);
    assert_eq!(console.input.offer(b"y"), 1);
}

#[test]
fn output_without_end_is_refused() {
    let mut console = setup();
    console.transmit.offer(&[(BUFFERS, WRITE_BYTES_MAX as u32), (BUFFERS, 1)], &[]);
    console.rig.kick(1);
    console.rig.wait_for_needs_reset();
    assert_eq!(console.screen.text(), b"");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_byte_comes_through_both_ways(
        out in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..10),
        typed in proptest::collection::vec(any::<u8>(), 1..900),
        room in 1..200u32,
    ) {
        let mut console = setup();
        for bytes in &out {
            console.transmit.fill(BUFFERS, bytes);
            console.transmit.offer(&[(BUFFERS, bytes.len() as u32)], &[]);
            console.rig.kick(1);
            console.transmit.wait_used();
        }
        prop_assert_eq!(console.screen.text(), out.concat());
        console.input.offer(&typed);
        let mut seen = Vec::new();
        while seen.len() < typed.len() {
            console.receive.offer(&[], &[(BUFFERS, room)]);
            console.rig.kick(0);
            let (_, written) = console.receive.wait_used();
            prop_assert!(written > 0 && written <= room);
            seen.extend(console.receive.bytes(BUFFERS, written as usize));
        }
        prop_assert_eq!(seen, typed);
        wait_until("nothing is left", || console.input.is_empty());
    }
}
