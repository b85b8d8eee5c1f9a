//! The life of a page and of a pager: first touch, split, memory given back, borrows, failures, the end.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{
    AskAhead, BorrowError, PageSet, PagerConfig, PagerError, PagerStats, Tracking, Wanted,
};
use tessera_dsm::protocol::{Access, Message, Txn};
use tessera_dsm::{wire, Gfn, NodeId, EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES};
use vm_memory::{Bytes, GuestAddress};

use crate::support::{config, layout, start, tcp_pair, Cluster, Node, Wires, HANG};

/// Pages of node 1's share start here in a cluster of one extent for each node.
const SECOND: u64 = EXTENT_PAGES;

#[test]
fn a_first_touch_moves_no_data() {
    let mut cluster = Cluster::new(2, 2, Wires::Tcp);
    // Node 1 in its own share, and in one of node 0's extents; each as a whole.
    cluster.spawn(1, |guest| {
        for page in 0..EXTENT_PAGES {
            guest.store(2 * EXTENT_PAGES + page, 1);
            assert_eq!(guest.load(EXTENT_PAGES + page), 0);
        }
    });
    cluster.join();
    let stats = cluster.stats(1);
    assert_eq!((stats.links.pages_in, stats.links.zero_pages_in), (0, 0));
    let faults = stats.faults_local.count + stats.faults_read.count + stats.faults_write.count;
    assert_eq!((faults, stats.holdings.whole_extents), (2, 2), "one fault for each extent");
    assert_eq!((stats.protocol.first_touches_local, stats.protocol.first_touches_remote), (1, 1));
}

#[test]
fn an_extent_that_is_split_keeps_its_contents_and_its_zeros() {
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    let owner = cluster.guest(0);
    owner.store(7, 77);
    cluster.spawn(1, |guest| {
        assert_eq!(guest.load(7), 77);
        assert_eq!(guest.load(8), 0, "never touched");
        guest.store(9, 99);
    });
    cluster.join();
    assert_eq!(cluster.stats(0).protocol.splits, 1);
    assert_eq!(cluster.stats(0).links.zero_pages_out, 2, "pages 8 and 9 travel without bytes");
    assert_eq!((owner.load(7), owner.load(8), owner.load(9)), (77, 0, 99));
    // Absent pages of the split extent: the owner's first load and first store, and a copy written by both.
    cluster.spawn(0, |guest| {
        assert_eq!(guest.load(100), 0);
        guest.store(101, 1);
        guest.store(8, 88);
    });
    cluster.join();
    cluster.spawn(1, |guest| {
        assert_eq!((guest.load(100), guest.load(101), guest.load(8)), (0, 1, 88));
        guest.store(100, 5);
    });
    cluster.join();
    assert_eq!(owner.load(100), 5);
}

#[test]
fn a_page_given_away_gives_its_memory_back() {
    let mut cluster = Cluster::new(2, 1, Wires::Unix);
    cluster.spawn(0, |guest| (0..256).for_each(|page| guest.store(page, page + 1)));
    cluster.join();
    let before = cluster.nodes[0].memory.resident_bytes();
    assert_eq!(before, 256 * PAGE_BYTES as u64);
    cluster.spawn(1, |guest| {
        for page in 0..128 {
            assert_eq!(guest.word(page, 0).fetch_add(1, Ordering::SeqCst), page + 1);
        }
    });
    cluster.join();
    assert_eq!(cluster.nodes[0].memory.resident_bytes(), 128 * PAGE_BYTES as u64);
    assert_eq!(cluster.nodes[1].memory.resident_bytes(), 128 * PAGE_BYTES as u64);
    assert_eq!(cluster.stats(0).discards, 128);
}

#[test]
fn what_was_loaded_before_the_start_is_there_on_every_node() {
    let preloaded = vec![(Gfn(3), 2), (Gfn(700), 1)];
    let load = |memory: &NodeMemory, config: PagerConfig| {
        let view = memory.alias_view();
        if config.me == NodeId::HOME {
            [3u64, 4, 700].iter().for_each(|&gfn| view.write_obj(gfn, GuestAddress(gfn << 12)).expect("RAM"));
        }
        // Reading creates pages of zeros behind the protocol's back: they must not stay.
        view.read_obj::<u64>(GuestAddress(1200 << 12)).expect("RAM");
        PagerConfig { preloaded: preloaded.clone(), ..config }
    };
    let mut cluster = Cluster::with(2, 2, Wires::Tcp, load);
    assert_eq!(cluster.nodes[1].memory.resident_bytes(), 0);
    let reads = |guest: crate::support::Guest| {
        assert_eq!((guest.load(3), guest.load(4), guest.load(5), guest.load(700)), (3, 4, 0, 700));
    };
    cluster.spawn(1, reads);
    cluster.join();
    cluster.spawn(0, reads);
    cluster.join();
    cluster.spawn(0, |guest| guest.store(1200, 1));
    cluster.join();
    cluster.spawn(1, |guest| assert_eq!(guest.load(1200), 1));
    cluster.join();
}

#[test]
fn memory_filled_outside_the_preloaded_pages_is_refused() {
    let memory = NodeMemory::new(layout(1, 2)).expect("memory");
    memory.alias_view().write_obj(1u8, GuestAddress(600 << 12)).expect("RAM");
    let preloaded = vec![(Gfn(1), 1)];
    let result = start(PagerConfig { preloaded, ..config(0, 1) }, memory, vec![]);
    assert!(matches!(result.map(drop), Err(PagerError::Stray(Gfn(600)))));
}

#[test]
fn a_borrowed_page_stays_until_it_is_returned() {
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    let pager = cluster.nodes[0].pager.clone();
    let lent = pager.borrow(SECOND << 12, 8, Access::Write).expect("RAM");
    lent.write_at(0, &5u64.to_le_bytes()).expect("inside");
    let (tell, told) = channel();
    cluster.spawn(1, move |guest| {
        let _ = tell.send(guest.word(SECOND, 0).fetch_add(1, Ordering::SeqCst));
    });
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "the page was taken from its borrower");
    lent.write_at(0, &6u64.to_le_bytes()).expect("inside");
    drop(lent);
    assert_eq!(told.recv_timeout(HANG), Ok(6));
    cluster.join();

    let lent = pager.borrow(SECOND << 12, 16, Access::Read).expect("RAM");
    let mut bytes = [0; 8];
    lent.read_at(0, &mut bytes).expect("inside");
    assert_eq!(u64::from_le_bytes(bytes), 7);
    assert_eq!(lent.write_at(0, &bytes), Err(BorrowError::ReadOnly));
    assert!(matches!(lent.read_at(9, &mut bytes), Err(BorrowError::Outside { .. })));
    assert!(matches!(lent.read_at(u64::MAX, &mut bytes), Err(BorrowError::Outside { .. })));
    assert_eq!((lent.len(), lent.is_empty()), (16, false));
}

#[test]
fn many_pages_are_borrowed_at_once() {
    let mut cluster = Cluster::new(2, 2, Wires::Tcp);
    cluster.spawn(1, |guest| (0..900).for_each(|page| guest.store(page, page)));
    cluster.join();
    let start = Instant::now();
    let lent = cluster.nodes[0].pager.borrow(0, 900 << 12, Access::Write).expect("RAM");
    println!("borrowing 900 remote pages took {} us", start.elapsed().as_micros());
    for page in 0..900u64 {
        let mut bytes = [0; 8];
        lent.read_at(page << 12, &mut bytes).expect("inside");
        assert_eq!(u64::from_le_bytes(bytes), page);
    }
    drop(lent);
    assert_eq!(cluster.failures(), []);
}

#[test]
fn scattered_pages_are_borrowed_together_each_for_what_it_is_wanted() {
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    cluster.spawn(1, |guest| [3, 70, SECOND + 9].into_iter().for_each(|page| guest.store(page, page)));
    cluster.join();
    let (pager, memory) = (cluster.nodes[0].pager.clone(), cluster.nodes[0].memory.alias_view());
    let wanted = |gfn: u64, access| Wanted { gpa: gfn << 12, len: 8, access };
    let ranges = [
        wanted(SECOND + 9, Access::Write),
        wanted(3, Access::Read),
        wanted(70, Access::Write),
        wanted(4, Access::Write),
    ];
    let lent = pager.borrow_pages(PageSet::covering(ranges).expect("few")).expect("RAM");
    for page in [3, 70, SECOND + 9] {
        assert_eq!(memory.read_obj::<u64>(GuestAddress(page << 12)).expect("RAM"), page);
    }
    memory.write_obj(5u64, GuestAddress(70 << 12)).expect("RAM");
    memory.write_obj(6u64, GuestAddress(4 << 12)).expect("RAM");
    let (tell, told) = channel();
    cluster.spawn(1, move |guest| {
        // A page lent for reading may still be read elsewhere.
        assert_eq!(guest.load(3), 3);
        let _ = tell.send(guest.word(70, 0).fetch_add(1, Ordering::SeqCst));
    });
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "the page was taken from its borrower");
    drop(lent);
    assert_eq!(told.recv_timeout(HANG), Ok(5));
    cluster.join();
    assert_eq!(cluster.guest(1).load(4), 6);
    let nothing = PageSet::covering([]).expect("nothing");
    assert!(pager.borrow_pages(nothing).is_ok());
    let hole = PageSet::covering([wanted(3, Access::Read), wanted(1 << 30, Access::Read)]).expect("few");
    assert!(matches!(pager.borrow_pages(hole).map(drop), Err(BorrowError::NotRam { .. })));
    assert_eq!(cluster.failures(), []);
}

#[test]
fn one_node_alone_needs_no_tracking() {
    let memory = NodeMemory::new(layout(1, 1)).expect("memory");
    let node =
        start(PagerConfig { tracking: Tracking::Off, ahead: AskAhead::Off, ..config(0, 1) }, memory, vec![])
            .expect("starts");
    let lent = node.pager.borrow(4090, 12, Access::Write).expect("RAM");
    lent.write_at(2, b"hello").expect("inside");
    drop(lent);
    assert!(matches!(
        node.pager.borrow(EXTENT_BYTES, 1, Access::Read).map(drop),
        Err(BorrowError::NotRam { .. })
    ));
    let stats = node.pager.stats();
    assert_eq!((stats.nodes, stats.uffd, stats.resident_bytes), (1, Default::default(), 8192));
    node.pager.stop();
}

#[test]
fn one_tracked_node_serves_itself() {
    let mut cluster = Cluster::new(1, 2, Wires::Tcp);
    cluster.spawn(0, |guest| (0..2 * EXTENT_PAGES).for_each(|page| guest.store(page, page)));
    cluster.join();
    assert_eq!(cluster.stats(0).faults_local.count, 2);
}

#[test]
fn a_pager_of_real_time_priority_serves_as_well() {
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    for node in &cluster.nodes {
        if let Err(error) = node.pager.set_real_time() {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
    }
    cluster.spawn(0, |guest| guest.store(1, 1));
    cluster.join();
    cluster.spawn(1, |guest| assert_eq!(guest.load(1), 1));
    cluster.join();
    cluster.nodes[0].pager.stop();
    assert!(cluster.nodes[0].pager.set_real_time().is_err());
}

#[test]
fn pagers_that_do_not_sleep_serve_as_well() {
    for wires in [Wires::Tcp, Wires::Shared] {
        let mut cluster = Cluster::new(2, 1, wires);
        for node in &cluster.nodes {
            node.pager.set_busy_poll(Duration::from_micros(300));
        }
        for node in 0..2 {
            cluster.spawn(node, |guest| {
                for i in 0..2000 {
                    guest.word(7 + i % 3, 0).fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        cluster.join();
        let sum: u64 = (7..10).map(|gfn| cluster.guest(0).load(gfn)).sum();
        assert_eq!(sum, 4000);
    }
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let refused = |config: PagerConfig, links: Vec<u8>| {
        let memory = NodeMemory::new(layout(2, 1)).expect("memory");
        let link = |peer| {
            let stream = tcp_pair().0;
            let link: Box<dyn tessera_dsm::link::Link> =
                Box::new(tessera_dsm::link::TcpLink::new(stream).expect("link"));
            (NodeId(peer).into(), link)
        };
        let result = start(config, memory, links.into_iter().map(link).collect());
        assert!(matches!(result.map(drop), Err(PagerError::Config { .. })));
    };
    refused(config(0, 2), vec![]);
    refused(config(0, 2), vec![0]);
    refused(config(0, 2), vec![1, 1]);
    refused(config(2, 2), vec![0, 1]);
    refused(config(0, 33), (1..33).collect());
    refused(config(0, 1), vec![]);
    refused(PagerConfig { tracking: Tracking::Off, ahead: AskAhead::Off, ..config(0, 2) }, vec![1]);
}

/// Node 1 of two, whose peer is the test itself.
pub fn lone_node() -> (Node, std::net::TcpStream) {
    let (near, far) = tcp_pair();
    let memory = NodeMemory::new(layout(2, 1)).expect("memory");
    let link: Box<dyn tessera_dsm::link::Link> =
        Box::new(tessera_dsm::link::TcpLink::new(near).expect("link"));
    let node = start(config(1, 2), memory, vec![(NodeId(0).into(), link)]).expect("starts");
    (node, far)
}

/// Checks that the node has failed once, because of its peer, and gives back what it said.
pub fn failed_once(node: &Node) -> String {
    let failure = node.failures.recv_timeout(HANG).expect("the failure is reported");
    assert_eq!(failure.peer, Some(NodeId(0)), "{failure}");
    assert!(node.pager.borrow(0, 1, Access::Read).map(drop) == Err(BorrowError::Stopped));
    assert!(node.failures.try_recv().is_err(), "reported twice");
    failure.to_string()
}

#[test]
fn a_lost_peer_is_reported_once_and_waiting_threads_are_released_at_the_stop() {
    let (node, mut peer) = lone_node();
    let (hva, memory) = (node.memory.guest_hva(Gfn(5)).expect("RAM"), node.memory.clone());
    let (tell, told) = channel();
    let vcpu = std::thread::spawn(move || {
        // SAFETY: inside the guest mapping, which `memory` keeps.
        let _ = tell.send(unsafe { std::ptr::read_volatile(hva as *const u64) });
        drop(memory);
    });
    let mut request = [0; wire::FRAME_BYTES];
    peer.read_exact(&mut request).expect("the fault asks the home");
    let pager = node.pager.clone();
    let borrower = std::thread::spawn(move || pager.borrow(5 << 12, 1, Access::Read).map(drop));
    drop(peer);
    let what = failed_once(&node);
    assert!(what.starts_with("node 0: "), "{what}");
    assert_eq!(borrower.join().expect("no panic"), Err(BorrowError::Stopped));
    assert!(
        told.recv_timeout(Duration::from_millis(100)).is_err(),
        "a vCPU must not go on with no page to give it"
    );
    let stats: PagerStats = node.pager.stats();
    assert_eq!(stats.links.messages_out, 1, "stats are there after a failure");
    node.pager.stop();
    assert!(told.recv_timeout(HANG).is_ok(), "stopping releases who waits");
    vcpu.join().expect("no panic");
    node.pager.stop();
    assert_eq!(node.pager.stats().links.messages_out, 1, "and after the stop");
    assert!(node.pager.borrow(0, 1, Access::Read).map(drop) == Err(BorrowError::Stopped));
}

#[test]
fn a_peer_that_breaks_the_rules_is_named() {
    let unasked = wire::encode(&Message::Invalidated { gfn: Gfn(1), txn: Txn(1) }, false);
    let beyond = wire::encode(&Message::Done { gfn: Gfn(1 << 30), txn: Txn(1) }, false);
    for bytes in [[0xee; wire::FRAME_BYTES], unasked, beyond] {
        let (node, mut peer) = lone_node();
        peer.write_all(&bytes).expect("send");
        println!("{}", failed_once(&node));
        node.pager.stop();
    }
}

#[test]
fn a_page_that_comes_in_pieces_arrives() {
    let (node, mut home) = lone_node();
    let borrower = node.pager.clone();
    let reader = std::thread::spawn(move || {
        let lent = borrower.borrow(5 << 12, 8, Access::Read).expect("RAM");
        let mut bytes = [0; 8];
        lent.read_at(0, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    });
    let mut request = [0; wire::FRAME_BYTES];
    home.read_exact(&mut request).expect("request");
    let grant = Message::Grant { gfn: Gfn(5), txn: Txn(0), rights: Access::Read, page: true, acks: 0 };
    let mut bytes = wire::encode(&grant, false).to_vec();
    bytes.extend(std::iter::repeat_n(0x11, PAGE_BYTES));
    for piece in bytes.chunks(500) {
        home.write_all(piece).expect("send");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(reader.join().expect("no panic"), Ok(0x1111_1111_1111_1111));
}
