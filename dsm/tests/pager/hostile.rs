//! A peer that lies, stammers or says nothing, to real pagers over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use tessera_dsm::link::{Link, TcpLink};
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::protocol::{Access, Message, Turn, Txn};
use tessera_dsm::{wire, Gfn, NodeId, EXTENT_PAGES, PAGE_BYTES};

use crate::life::{failed_once, lone_node};
use crate::support::{config, layout, start, tcp_pair, Guest, Node};

/// A page whose home is the liar.
const THEIRS: Gfn = Gfn(5);
/// A page whose home is the node under test.
const OURS: Gfn = Gfn(EXTENT_PAGES + 5);

/// The other end of a link.
struct Peer {
    stream: TcpStream,
    /// Bytes sent so far: where the next frame begins.
    sent: u32,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Peer { stream, sent: 0 }
    }

    fn header(&self, message: &Message) -> [u8; wire::FRAME_BYTES] {
        let mut header = wire::encode(message, false);
        header[wire::SEQ_OFFSET..wire::ACK_OFFSET].copy_from_slice(&self.sent.to_le_bytes());
        header
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
        self.sent += bytes.len() as u32;
    }

    fn say(&mut self, message: &Message) {
        let header = self.header(message);
        self.write(&header);
        if message.carries_page() {
            self.write(&[0x11; PAGE_BYTES]);
        }
    }

    /// Waits for a frame without a page.
    fn hear(&mut self) {
        self.stream.read_exact(&mut [0; wire::FRAME_BYTES]).expect("a frame");
    }
}

/// Node 1 of two, whose peer, node 0, lies.
fn node_and_liar() -> (Node, Peer) {
    let (node, stream) = lone_node();
    (node, Peer::new(stream))
}

fn grant(gfn: Gfn, txn: u32, rights: Access) -> Message {
    Message::Grant { gfn, txn: Txn(txn), rights, page: true, acks: 0 }
}

/// Has the node ask the liar for the page, and lets it have it in transaction 7.
fn granted(node: &Node, peer: &mut Peer) {
    let pager = node.pager.clone();
    let borrower = std::thread::spawn(move || pager.borrow(THEIRS.gpa(), 1, Access::Write).map(drop));
    peer.hear();
    peer.say(&grant(THEIRS, 7, Access::Write));
    assert_eq!(borrower.join().expect("no panic"), Ok(()));
}

#[test]
fn each_lie_is_refused_with_the_name_of_the_liar_and_what_it_said() {
    let turn = Turn(0);
    let txn = Txn(7);
    let requester = NodeId(1);
    let lies: [(Message, &str); 8] = [
        (Message::Done { gfn: Gfn(1 << 40), txn }, "gfn 0x10000000000 is not in the guest's memory"),
        (grant(THEIRS, 7, Access::Write), "node 0 sent a Grant for gfn 0x5, expected none"),
        (Message::Invalidated { gfn: THEIRS, txn }, "node 0 sent a Invalidated for gfn 0x5, expected none"),
        (
            Message::GrantExtent { gfn: OURS, txn },
            "a GrantExtent for gfn 0x205 came from node 0, expected it from",
        ),
        (
            Message::Done { gfn: OURS, txn },
            "node 0 sent a Done for gfn 0x205 in transaction Txn(7), expected None",
        ),
        (
            Message::Request { gfn: THEIRS, access: Access::Read, held: false, turn },
            "expected it to go to the page's home",
        ),
        (
            Message::Invalidate { gfn: THEIRS, txn, requester, turn },
            "on behalf of node 1, expected a node other",
        ),
        (
            Message::Recall { gfn: THEIRS, txn, requester: NodeId(9), turn, access: Access::Read, acks: 0 },
            "on behalf of node 9",
        ),
    ];
    for (lie, expected) in lies {
        let (node, mut peer) = node_and_liar();
        peer.say(&lie);
        let why = failed_once(&node);
        assert!(why.contains(expected), "{lie:?}: {why}");
        node.pager.stop();
    }
}

#[test]
fn a_second_owner_and_a_stale_transaction_are_refused() {
    let (node, mut peer) = node_and_liar();
    granted(&node, &mut peer);
    peer.say(&grant(THEIRS, 7, Access::Write));
    assert!(failed_once(&node).contains("expected none"));

    let (node, mut peer) = node_and_liar();
    let pager = node.pager.clone();
    let borrower = std::thread::spawn(move || pager.borrow(THEIRS.gpa(), 1, Access::Write).map(drop));
    peer.hear();
    peer.say(&Message::Invalidated { gfn: THEIRS, txn: Txn(7) });
    peer.say(&grant(THEIRS, 6, Access::Write));
    let why = failed_once(&node);
    assert!(why.contains("in transaction Txn(6), expected Some(Txn(7))"), "{why}");
    assert!(borrower.join().expect("no panic").is_err());
}

#[test]
fn a_page_that_is_cut_short_is_the_end_of_the_link_and_not_a_page() {
    let (node, mut peer) = node_and_liar();
    let pager = node.pager.clone();
    let borrower = std::thread::spawn(move || pager.borrow(THEIRS.gpa(), 1, Access::Read).map(drop));
    peer.hear();
    let header = peer.header(&grant(THEIRS, 1, Access::Read));
    peer.write(&header);
    peer.write(&[0x11; PAGE_BYTES - 1]);
    drop(peer);
    let why = failed_once(&node);
    assert!(why.contains("closed") || why.contains("broke"), "{why}");
    assert!(borrower.join().expect("no panic").is_err());
    assert_eq!(node.memory.resident_bytes(), 0);
}

#[test]
fn a_frame_that_is_not_the_next_and_a_confirmation_of_nothing_are_refused() {
    let done = Message::Done { gfn: OURS, txn: Txn(7) };
    for (offset, expected) in
        [(wire::SEQ_OFFSET, "something was lost or came twice"), (wire::ACK_OFFSET, "that there are")]
    {
        let (node, mut peer) = node_and_liar();
        let mut header = peer.header(&done);
        header[offset] = 64;
        peer.write(&header);
        let why = failed_once(&node);
        assert!(why.contains(expected), "{why}");
        node.pager.stop();
    }
}

/// Two nodes, whose third is the test: its ends of the links.
fn with_a_third() -> (Vec<Node>, Vec<Peer>) {
    let link = |stream| Box::new(TcpLink::new(stream).expect("link")) as Box<dyn Link>;
    let (to_1, to_0) = tcp_pair();
    let (silent_0, far_0) = tcp_pair();
    let (silent_1, far_1) = tcp_pair();
    let links = [
        vec![(NodeId(1).into(), link(to_1)), (NodeId(2).into(), link(silent_0))],
        vec![(NodeId(0).into(), link(to_0)), (NodeId(2).into(), link(silent_1))],
    ];
    let node = |(me, links)| {
        let memory = NodeMemory::new(layout(3, 1)).expect("memory");
        start(config(me, 3), memory, links).expect("starts")
    };
    ((0..2).zip(links).map(node).collect(), vec![Peer::new(far_0), Peer::new(far_1)])
}

#[test]
fn a_peer_that_stops_in_the_middle_of_a_word_hinders_nobody_else() {
    let (nodes, mut silent) = with_a_third();
    // Half a header to one, half a page to the other.
    silent[0].write(&[6, 1, 2]);
    let header = silent[1].header(&grant(Gfn(9), 1, Access::Read));
    silent[1].write(&header);
    silent[1].write(&[0x11; 100]);
    let guests: Vec<Guest> = nodes.iter().map(Guest::of).collect();
    // Somebody waits for a page of the silent one, and goes on waiting.
    let (waits, gone_on) = (guests[0].clone(), channel());
    let waiting = std::thread::spawn(move || {
        waits.load(2 * EXTENT_PAGES);
        let _ = gone_on.0.send(());
    });
    for round in 1..=200 {
        let (from, to) = (&guests[round as usize % 2], &guests[(round as usize + 1) % 2]);
        for page in [0, EXTENT_PAGES] {
            from.store(page, round);
            assert_eq!(to.load(page), round);
        }
    }
    assert!(gone_on.1.recv_timeout(Duration::from_millis(50)).is_err());
    assert!(nodes.iter().all(|node| node.failures.try_recv().is_err()));
    nodes.iter().for_each(|node| node.pager.stop());
    waiting.join().expect("no panic");
}
