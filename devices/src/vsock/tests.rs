use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::packet::{Head, Op, HEAD_BYTES, NO_RECEIVE, NO_SEND, STREAM};
use super::*;
use crate::virtio::testing::{wait_until, DriverQueue, Rig, BUFFERS, HANG};

mod fuzz;

const CID: u32 = 7;
/// Where packets of the guest are made.
const OUT: u64 = BUFFERS;
/// Where packets for the guest are put, each in a place of its own.
const IN: u64 = BUFFERS + 0x20_0000;
const PLACE: u64 = 0x2000;
const PLACES: u64 = 64;
/// Bytes of a place that are offered.
const ROOM: u32 = 4096 + HEAD_BYTES as u32;

/// The guest: it has a driver, and knows what came.
struct Guest {
    rig: Rig,
    receive: DriverQueue,
    transmit: DriverQueue,
    next_place: u64,
    /// What was offered and has not come back, oldest first.
    offered: VecDeque<u64>,
    folder: TempDir,
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = HostSockets::listen(&folder.path().join("v")).unwrap();
        let rig = Rig::new(device(CID, host));
        let mut queues = rig.start(0);
        let (_events, transmit, receive) =
            (queues.pop().unwrap(), queues.pop().unwrap(), queues.pop().unwrap());
        let mut guest = Guest { rig, receive, transmit, next_place: 0, offered: VecDeque::new(), folder };
        (0..32).for_each(|_| guest.offer());
        guest
    }

    fn path(&self, port: u32) -> PathBuf {
        self.folder.path().join(format!("v_{port}"))
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(port)).unwrap()
    }

    /// Offers memory for one packet.
    fn offer(&mut self) {
        let place = IN + self.next_place % PLACES * PLACE;
        self.next_place += 1;
        self.receive.offer(&[], &[(place, ROOM)]);
        self.offered.push_back(place);
        self.rig.kick(0);
    }

    /// The next packet, for which new memory is offered.
    fn hear(&mut self) -> (Head, Vec<u8>) {
        let (_, written) = self.receive.wait_used();
        let place = self.offered.pop_front().unwrap();
        let bytes = self.receive.bytes(place, written as usize);
        self.offer();
        let (head, data) = Head::read_from_prefix(&bytes).unwrap();
        assert_eq!((head.from_cid.get(), head.to_cid.get(), head.kind.get()), (2, CID.into(), STREAM));
        assert_eq!(head.len.get() as usize, data.len());
        (head, data.to_vec())
    }

    /// The next packet, which must be this.
    fn expect(&mut self, op: Op) -> (Head, Vec<u8>) {
        let (head, data) = self.hear();
        assert_eq!(head.op.get(), op.number(), "not {op:?}: {head:?}");
        (head, data)
    }

    fn head(host_port: u32, guest_port: u32, op: Op) -> Head {
        Head {
            from_cid: U64::new(CID.into()),
            to_cid: U64::new(2),
            from_port: U32::new(guest_port),
            to_port: U32::new(host_port),
            len: U32::new(0),
            kind: U16::new(STREAM),
            op: U16::new(op.number()),
            flags: U32::new(0),
            room: U32::new(1 << 20),
            taken: U32::new(0),
        }
    }

    fn send_packet(&mut self, head: &Head, data: &[u8]) {
        self.transmit.fill(OUT, head.as_bytes());
        self.transmit.fill(OUT + 0x1000, data);
        let mut buffers = vec![(OUT, HEAD_BYTES as u32)];
        buffers.extend((!data.is_empty()).then_some((OUT + 0x1000, data.len() as u32)));
        self.transmit.offer(&buffers, &[]);
        self.rig.kick(1);
        self.transmit.wait_used();
    }

    fn send(&mut self, host_port: u32, guest_port: u32, op: Op) {
        self.send_packet(&Guest::head(host_port, guest_port, op), &[]);
    }

    fn send_data(&mut self, host_port: u32, guest_port: u32, data: &[u8]) {
        let head = Head { len: U32::new(data.len() as u32), ..Guest::head(host_port, guest_port, Op::Data) };
        self.send_packet(&head, data);
    }

    /// Connects to a port of the host; gives the host's end.
    fn connect(&mut self, listener: &UnixListener, host_port: u32, guest_port: u32) -> UnixStream {
        self.send(host_port, guest_port, Op::Request);
        let (head, _) = self.expect(Op::Response);
        assert_eq!((head.from_port.get(), head.to_port.get()), (host_port, guest_port));
        assert_eq!(head.room.get(), BUFFER_BYTES);
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket
    }

    /// Somebody on the host wants to reach this port of the guest.
    fn call(&self, line: &[u8]) -> UnixStream {
        let mut socket = UnixStream::connect(self.folder.path().join("v")).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket.write_all(line).unwrap();
        socket
    }
}

fn read_exact(socket: &mut UnixStream, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    socket.read_exact(&mut data).unwrap();
    data
}

fn is_closed(socket: &mut UnixStream) -> bool {
    matches!(socket.read(&mut [0]), Ok(0) | Err(_))
}

#[test]
fn the_driver_is_told_its_address() {
    let guest = Guest::new();
    assert_eq!(guest.rig.read::<8>(0x2000), u64::from(CID).to_le_bytes());
}

#[test]
fn a_guest_reaches_a_port_of_the_host_and_both_talk() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut host = guest.connect(&listener, 80, 1234);
    guest.send_data(80, 1234, b"to the host");
    assert_eq!(read_exact(&mut host, 11), b"to the host");
    host.write_all(b"to the guest").unwrap();
    let (head, data) = guest.expect(Op::Data);
    assert_eq!((head.from_port.get(), head.to_port.get()), (80, 1234));
    assert_eq!(data, b"to the guest");
    // The host ends its way, then the guest ends both.
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Op::Shutdown).0.flags.get(), NO_SEND);
    guest.send_data(80, 1234, b"still there");
    assert_eq!(read_exact(&mut host, 11), b"still there");
    let ended = Head { flags: U32::new(NO_SEND | NO_RECEIVE), ..Guest::head(80, 1234, Op::Shutdown) };
    guest.send_packet(&ended, &[]);
    guest.expect(Op::Reset);
    assert!(is_closed(&mut host));
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let mut guest = Guest::new();
    guest.send(81, 5, Op::Request);
    let (head, _) = guest.expect(Op::Reset);
    assert_eq!((head.from_port.get(), head.to_port.get()), (81, 5));
    drop(guest.listen(82));
    guest.send(82, 5, Op::Request);
    guest.expect(Op::Reset);
}

#[test]
fn a_caller_on_the_host_reaches_a_port_of_the_guest() {
    let mut guest = Guest::new();
    let mut caller = guest.call(b"CONNECT 52\nearly");
    let (head, _) = guest.expect(Op::Request);
    let port = head.from_port.get();
    assert!(head.to_port.get() == 52 && port > 1 << 30);
    guest.send(port, 52, Op::Response);
    let answer = format!("OK {port}\n");
    assert_eq!(read_exact(&mut caller, answer.len()), answer.as_bytes());
    assert_eq!(guest.expect(Op::Data).1, b"early", "what came behind the line is the guest's");
    guest.send_data(port, 52, b"hello");
    assert_eq!(read_exact(&mut caller, 5), b"hello");
    guest.send(port, 52, Op::Reset);
    assert!(is_closed(&mut caller));
}

#[test]
fn a_caller_whom_the_guest_refuses_or_who_makes_no_sense_is_hung_up_on() {
    let mut guest = Guest::new();
    let mut caller = guest.call(b"CONNECT 52\n");
    let (head, _) = guest.expect(Op::Request);
    guest.send(head.from_port.get(), 52, Op::Reset);
    assert!(is_closed(&mut caller));
    for line in [&b"CONNECT x\n"[..], b"HELLO\n", b"CONNECT 99999999999\n", &[b'x'; 40]] {
        assert!(is_closed(&mut guest.call(line)), "{line:?}");
    }
    // One that goes before the guest has answered.
    let caller = guest.call(b"CONNECT 53\n");
    let (head, _) = guest.expect(Op::Request);
    drop(caller);
    assert_eq!(guest.expect(Op::Reset).0.from_port, head.from_port);
}

#[test]
fn callers_who_say_nothing_are_bounded() {
    let mut guest = Guest::new();
    let mut silent: Vec<UnixStream> = (0..CALLERS_MAX + 1).map(|_| guest.call(b"")).collect();
    assert!(is_closed(&mut silent[0]), "the first one makes room");
    silent[CALLERS_MAX].write_all(b"CONNECT 9\n").unwrap();
    assert_eq!(guest.expect(Op::Request).0.to_port.get(), 9);
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let request = Head { room: U32::new(10), ..Guest::head(80, 1, Op::Request) };
    guest.send_packet(&request, &[]);
    guest.expect(Op::Response);
    let (mut host, _) = listener.accept().unwrap();
    host.write_all(&[7; 25]).unwrap();
    assert_eq!(guest.expect(Op::Data).1, [7; 10]);
    guest.expect(Op::CreditRequest);
    let credit = Head { room: U32::new(10), taken: U32::new(4), ..Guest::head(80, 1, Op::Credit) };
    guest.send_packet(&credit, &[]);
    assert_eq!(guest.expect(Op::Data).1, [7; 4]);
    guest.expect(Op::CreditRequest);
    let credit = Head { room: U32::new(100), taken: U32::new(14), ..Guest::head(80, 1, Op::Credit) };
    guest.send_packet(&credit, &[]);
    assert_eq!(guest.expect(Op::Data).1, [7; 11]);
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_cut_off() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let host = guest.connect(&listener, 80, 1);
    // Nobody reads: the socket takes some, the rest waits, and then there is no room.
    let mut packets = 0;
    loop {
        guest.send_data(80, 1, &[1; 0x8000]);
        packets += 1;
        assert!(packets < 100, "there is no bound");
        if let Some((_, written)) = guest.receive.take_used() {
            let place = guest.offered.pop_front().unwrap();
            let bytes = guest.receive.bytes(place, written as usize);
            let (head, _) = Head::read_from_prefix(&bytes).unwrap();
            guest.offer();
            if head.op.get() == Op::Reset.number() {
                break;
            }
            assert_eq!(head.op.get(), Op::Credit.number());
        }
    }
    drop(host);
    assert_eq!(guest.rig.status(), 15);
}

#[test]
fn a_guest_is_told_when_its_bytes_went_on() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut host = guest.connect(&listener, 80, 1);
    let mut total = 0u32;
    for _ in 0..2 {
        guest.send_data(80, 1, &[1; 0x8000]);
        assert_eq!(read_exact(&mut host, 0x8000), [1; 0x8000]);
        total += 0x8000;
    }
    let (head, _) = guest.expect(Op::Credit);
    assert_eq!((head.taken.get(), head.room.get()), (total, BUFFER_BYTES));
    guest.send(80, 1, Op::CreditRequest);
    assert_eq!(guest.expect(Op::Credit).0.taken.get(), total);
}

#[test]
fn a_host_that_hangs_up_ends_both_ways() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut host = guest.connect(&listener, 80, 1);
    host.write_all(b"last words").unwrap();
    drop(host);
    assert_eq!(guest.expect(Op::Data).1, b"last words");
    let mut ways = 0;
    while ways != NO_SEND | NO_RECEIVE {
        ways |= guest.expect(Op::Shutdown).0.flags.get();
    }
    guest.send(80, 1, Op::Reset);
    // The ports can be used again.
    guest.connect(&listener, 80, 1);
}

#[test]
fn packets_without_a_connection_are_answered_with_a_reset() {
    let mut guest = Guest::new();
    for op in [Op::Response, Op::Data, Op::Shutdown, Op::Credit, Op::CreditRequest] {
        guest.send(80, 1, op);
        guest.expect(Op::Reset);
    }
    guest.send(80, 1, Op::Reset);
    let strange = Head { kind: U16::new(2), ..Guest::head(80, 1, Op::Request) };
    guest.send_packet(&strange, &[]);
    guest.expect(Op::Reset);
    // Not from this guest, or not to its host: nobody is there to answer.
    let other = Head { to_cid: U64::new(9), ..Guest::head(80, 1, Op::Request) };
    guest.send_packet(&other, &[]);
    let lie = Head { from_cid: U64::new(9), ..Guest::head(80, 1, Op::Request) };
    guest.send_packet(&lie, &[]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.receive.take_used(), None);
}

#[test]
fn a_packet_that_breaks_its_connection_ends_it() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut host = guest.connect(&listener, 80, 1);
    guest.send(80, 1, Op::Response);
    guest.expect(Op::Reset);
    assert!(is_closed(&mut host));
    let mut host = guest.connect(&listener, 80, 1);
    guest.send(80, 1, Op::Request);
    guest.expect(Op::Reset);
    assert!(is_closed(&mut host));
}

#[test]
fn packets_that_are_none_make_the_device_ask_for_a_reset() {
    let mut guest = Guest::new();
    guest.transmit.offer(&[(OUT, 43)], &[]);
    guest.rig.kick(1);
    guest.rig.wait_for_needs_reset();

    let mut guest = Guest::new();
    let long = Head { len: U32::new(1), ..Guest::head(80, 1, Op::Data) };
    guest.transmit.fill(OUT, long.as_bytes());
    guest.transmit.offer(&[(OUT, HEAD_BYTES as u32)], &[]);
    guest.rig.kick(1);
    guest.rig.wait_for_needs_reset();
}

#[test]
fn answers_that_find_no_memory_make_the_guests_packets_wait() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(device(CID, HostSockets::listen(&folder.path().join("v")).unwrap()));
    let mut queues = rig.start(0);
    let (_events, mut transmit, mut receive) =
        (queues.pop().unwrap(), queues.pop().unwrap(), queues.pop().unwrap());
    transmit.fill(OUT, Guest::head(80, 1, Op::Request).as_bytes());
    // Each of them is refused, and no refusal can be delivered.
    let packets = 3 * OUTBOX_MAX;
    let (mut sent, mut back) = (0, 0);
    let deadline = std::time::Instant::now() + Duration::from_millis(300);
    while sent < packets && std::time::Instant::now() < deadline {
        if sent - back < 100 {
            transmit.offer(&[(OUT, HEAD_BYTES as u32)], &[]);
            sent += 1;
            rig.kick(1);
        }
        back += usize::from(transmit.take_used().is_some());
    }
    assert!(back < OUTBOX_MAX + 64, "{back} packets were taken");
    // With memory they go on.
    let mut heard = 0;
    wait_until("all packets are answered", || {
        if heard < packets {
            receive.offer(&[], &[(IN, ROOM)]);
            rig.kick(0);
        }
        while receive.take_used().is_some() {
            heard += 1;
        }
        while transmit.take_used().is_some() {
            back += 1;
        }
        if sent < packets && sent - back < 100 {
            transmit.offer(&[(OUT, HEAD_BYTES as u32)], &[]);
            sent += 1;
            rig.kick(1);
        }
        heard == packets && back == packets
    });
}

#[test]
fn a_reset_hangs_up_on_everybody() {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut host = guest.connect(&listener, 80, 1);
    let mut caller = guest.call(b"CONNECT 5\n");
    guest.expect(Op::Request);
    guest.rig.reset();
    assert!(is_closed(&mut host) && is_closed(&mut caller));
}

#[test]
fn the_socket_is_made_replaced_if_left_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    drop(UnixListener::bind(&path).unwrap());
    let first = HostSockets::listen(&path).unwrap();
    assert!(HostSockets::listen(&path).is_err(), "somebody is there");
    drop(first);
    assert!(!path.exists());
    std::fs::write(&path, "a file").unwrap();
    let line = HostSockets::listen(&path).unwrap_err().to_string();
    assert!(line.contains("cannot listen"), "{line}");
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_packet_breaks_the_device(
        packets in proptest::collection::vec(
            (0u16..9, 0..3u32, 0..3u32, any::<u32>(), any::<u32>(), any::<u32>(),
             proptest::collection::vec(any::<u8>(), 0..200)), 1..60),
    ) {
        let mut guest = Guest::new();
        let _listeners = [guest.listen(0), guest.listen(1)];
        for (op, host_port, guest_port, room, taken, flags, data) in packets {
            let head = Head {
                op: U16::new(op),
                len: U32::new(data.len() as u32),
                room: U32::new(room),
                taken: U32::new(taken),
                flags: U32::new(flags),
                ..Guest::head(host_port, guest_port, Op::Request)
            };
            guest.send_packet(&head, &data);
            while let Some((_, written)) = guest.receive.take_used() {
                prop_assert!(written as usize >= HEAD_BYTES);
                guest.offered.pop_front();
                guest.offer();
            }
        }
        prop_assert_eq!(guest.rig.status(), 15);
    }

    #[test]
    fn every_byte_comes_through_both_ways(
        out in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..5000), 1..8),
        back in proptest::collection::vec(any::<u8>(), 1..20_000),
    ) {
        let mut guest = Guest::new();
        let listener = guest.listen(80);
        let mut host = guest.connect(&listener, 80, 1);
        for bytes in &out {
            guest.send_data(80, 1, bytes);
            prop_assert_eq!(&read_exact(&mut host, bytes.len()), bytes);
        }
        host.write_all(&back).unwrap();
        let mut seen = Vec::new();
        while seen.len() < back.len() {
            let (head, data) = guest.hear();
            prop_assert_eq!(head.op.get(), Op::Data.number());
            seen.extend(data);
        }
        prop_assert_eq!(seen, back);
    }
}
