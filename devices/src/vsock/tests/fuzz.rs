//! Packets of nonsense on a device that has connections.

use super::*;
use crate::virtio::fuzzing::{fuzz, Entry};

/// Each packet of a case has so many bytes, of which the head says how many count.
const SLOT: usize = 64;
const DATA: usize = SLOT - HEAD_BYTES;

fn packet(head: Head, data: &[u8]) -> Vec<u8> {
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend(data);
    bytes.resize(SLOT, 0);
    bytes
}

/// Packets of a connection that is there, of one that a caller waits for, of none, and to begin one.
fn corpus() -> Vec<Entry> {
    let open = |op| packet(Guest::head(80, 1, op), &[]);
    let data = packet(Head { len: U32::new(5), ..Guest::head(80, 1, Op::Data) }, b"hello");
    let ways = |flags| packet(Head { flags: U32::new(flags), ..Guest::head(80, 1, Op::Shutdown) }, &[]);
    let credit = |room: u32, taken: u32| {
        packet(Head { room: U32::new(room), taken: U32::new(taken), ..Guest::head(80, 1, Op::Credit) }, &[])
    };
    let other = |op| packet(Guest::head(80, 2, op), &[]);
    vec![
        ("data", [data.clone(), data.clone()].concat()),
        ("the guest ends its way", [data.clone(), ways(NO_SEND), data.clone()].concat()),
        ("the guest takes no more", [ways(NO_RECEIVE), data.clone()].concat()),
        ("both ways", [ways(NO_SEND | NO_RECEIVE), open(Op::Request)].concat()),
        ("a reset", [open(Op::Reset), data.clone(), open(Op::Request)].concat()),
        ("credit", [credit(0, 0), credit(10, 3), credit(u32::MAX, u32::MAX)].concat()),
        ("a question", [open(Op::CreditRequest), open(Op::CreditRequest)].concat()),
        ("another one", [other(Op::Request), other(Op::Data), other(Op::Reset)].concat()),
        ("nobody there", packet(Guest::head(81, 2, Op::Request), &[])),
        ("an answer to a caller", packet(Guest::head(1 << 30 | 1, 5, Op::Response), &[])),
        ("a caller refused", packet(Guest::head(1 << 30 | 1, 5, Op::Reset), &[])),
        ("too short", data[..30].to_vec()),
        ("longer than it is", packet(Head { len: U32::new(u32::MAX), ..Guest::head(80, 1, Op::Data) }, &[])),
        ("another kind", packet(Head { kind: U16::new(2), ..Guest::head(80, 1, Op::Data) }, &[])),
        ("from somebody else", packet(Head { from_cid: U64::new(2), ..Guest::head(80, 1, Op::Data) }, &[])),
    ]
}

/// How many bytes of a slot are offered: as many as its head says, if there are as many.
fn offered(slot: &[u8]) -> usize {
    match Head::read_from_prefix(slot) {
        Ok((head, _)) => HEAD_BYTES + (head.len.get() as usize).min(DATA).min(slot.len() - HEAD_BYTES),
        Err(_) => slot.len(),
    }
}

fn attempt(bytes: &[u8]) {
    let mut guest = Guest::new();
    let listener = guest.listen(80);
    let mut host = guest.connect(&listener, 80, 1);
    host.write_all(&[9; 40]).unwrap();
    let _caller = guest.call(b"CONNECT 5\n");
    let mut sent = 0;
    for slot in bytes.chunks(SLOT) {
        let count = offered(slot);
        sent += count;
        guest.transmit.fill(OUT, slot);
        guest.transmit.offer(&[(OUT, count as u32)], &[]);
        guest.rig.kick(1);
        wait_until("the packet is taken or refused", || {
            guest.transmit.take_used().is_some() || guest.rig.status() & 0x40 != 0
        });
    }
    while let Some((_, written)) = guest.receive.take_used() {
        let place = guest.offered.pop_front().unwrap();
        let bytes = guest.receive.bytes(place, written as usize);
        let (head, data) = Head::read_from_prefix(&bytes).unwrap();
        assert_eq!((head.from_cid.get(), head.to_cid.get(), head.kind.get()), (2, CID.into(), STREAM));
        assert!(Op::of(head.op.get()).is_some() && data.len() == head.len.get() as usize, "{head:?}");
    }
    host.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    // It ends, or has nothing more for now.
    let _ = host.read_to_end(&mut heard);
    assert!(heard.len() <= sent, "more than the guest sent");
    guest.rig.reset();
}

#[test]
fn no_packet_breaks_a_device_with_connections() {
    fuzz(300, &corpus(), attempt);
}
