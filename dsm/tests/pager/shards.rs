//! Several pagers on each node: what goes beyond a shard, and the end of all by the end of one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::Barrier;
use std::time::Duration;

use tessera_dsm::link::{Link, TcpLink};
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{BorrowError, Lane, PageSet, PagerConfig, PagerError, Wanted};
use tessera_dsm::protocol::{Access, Message, Txn};
use tessera_dsm::{wire, Gfn, NodeId, Shard, Stripes, EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES};
use vm_memory::{Bytes, GuestAddress};

use crate::support::{compute, config, layout, start, tcp_pair, Cluster, Guest, Node, Wires, HANG};

/// Nodes with so many pagers, each extent the next one's.
fn cluster(nodes: u8, extents: u64, pagers: u8) -> Cluster {
    Cluster::of_pagers(pagers, nodes, extents, Wires::Tcp)
}

#[test]
fn every_shard_is_served_and_the_figures_are_those_of_all() {
    let mut cluster = cluster(2, 3, 3);
    cluster.spawn(0, |guest| {
        for extent in 0..6 {
            guest.store(extent * EXTENT_PAGES + 1, 10 + extent);
        }
    });
    cluster.join();
    cluster.spawn(1, |guest| {
        for extent in 0..6 {
            assert_eq!(guest.load(extent * EXTENT_PAGES + 1), 10 + extent);
        }
    });
    cluster.join();
    let (owner, reader) = (cluster.stats(0), cluster.stats(1));
    assert_eq!((owner.nodes, owner.protocol.splits, reader.faults_read.count), (1, 6, 6));
    assert_eq!((reader.links.pages_in, owner.links.pages_out, reader.hottest.len()), (6, 6, 6));
    assert_eq!(reader.stalls.len(), 1, "one thread has waited, for all of the pagers");
    let only_there = cluster.nodes[0].pager.pages_only_at(NodeId(1));
    assert_eq!(only_there, Some(0), "all that was given is shared");
}

#[test]
fn pages_of_all_shards_are_borrowed_together_and_counted_once() {
    let mut cluster = cluster(2, 3, 3);
    cluster.spawn(1, |guest| (0..6).for_each(|extent| guest.store(extent * EXTENT_PAGES, extent + 1)));
    cluster.join();
    let pager = cluster.nodes[0].pager.clone();
    let wanted = |extent: u64| Wanted { gpa: extent * EXTENT_BYTES, len: 8, access: Access::Write };
    let pages = PageSet::covering([5, 3, 0, 2, 1].map(wanted)).expect("few");
    let lent = pager.borrow_pages(pages.clone()).expect("RAM");
    assert_eq!(lent.fetched(), 5);
    drop(lent);
    assert_eq!(pager.borrow_pages(pages).expect("RAM").fetched(), 0);
    // One range over the bound between two shards.
    let across = pager.borrow(EXTENT_BYTES - 4, 8, Access::Write).expect("RAM");
    across.write_at(0, &[7; 8]).expect("inside");
    drop(across);
    cluster.spawn(1, |guest| {
        assert_eq!(guest.word(EXTENT_PAGES - 1, 511).load(Ordering::SeqCst), 0x0707_0707_0000_0000);
        assert_eq!(guest.load(EXTENT_PAGES), 0x0707_0707);
    });
    cluster.join();
}

#[test]
fn borrowers_on_all_nodes_that_want_pages_of_all_shards_all_come_to_their_turn() {
    // Each thread borrows some pages of every shard, in whatever order they are named, and adds one to its own word of each
    // while it has all. Two such threads on each node, and vCPUs that store into the same pages.
    let mut cluster = cluster(3, 1, 3);
    let (rounds, pages) = (150u64, 3u64);
    for thread in 0..6u64 {
        let node = (thread % 3) as usize;
        let (pager, alias) = (cluster.nodes[node].pager.clone(), cluster.nodes[node].memory.alias_view());
        cluster.spawn(node, move |_| {
            for round in 0..rounds {
                let page = |i: u64| (i + thread + round) % 3 * EXTENT_PAGES + (i / 3 + thread) % pages;
                let wanted = |i| Wanted { gpa: page(i) << 12, len: 64, access: Access::Write };
                let set = PageSet::covering((0..3 * pages).map(wanted)).expect("few");
                let lent = pager.borrow_pages(set).expect("RAM");
                for &(gfn, _) in lent.pages().pages() {
                    let at = GuestAddress(gfn.gpa() + 8 * thread);
                    let before: u64 = alias.read_obj(at).expect("RAM");
                    alias.write_obj(before + 1, at).expect("RAM");
                }
            }
        });
        cluster.spawn(node, move |guest| {
            for round in 0..rounds {
                let gfn = (thread + round) % 3 * EXTENT_PAGES + round % pages;
                guest.word(gfn, 7).fetch_add(1, Ordering::SeqCst);
                compute();
            }
        });
    }
    cluster.join();
    let guest = cluster.guest(1);
    let all = || (0..3).flat_map(|extent| (0..pages).map(move |page| extent * EXTENT_PAGES + page));
    for gfn in all() {
        for thread in 0..6 {
            assert_eq!(guest.word(gfn, thread).load(Ordering::SeqCst), rounds, "thread {thread}, page {gfn}");
        }
    }
    let stored: u64 = all().map(|gfn| guest.word(gfn, 7).load(Ordering::SeqCst)).sum();
    assert_eq!(stored, 6 * rounds);
}

#[test]
fn stores_over_the_bound_between_two_shards_make_progress() {
    let mut cluster = cluster(2, 1, 2);
    let (phases, stores) = (30, 20);
    cluster.spawn_together([0, 1, 0, 1], |_| {
        move |guest: Guest, meeting: &Barrier| {
            // 16 bytes, 6 of them in the last page of the first shard.
            let at = guest.address(EXTENT_PAGES - 1, PAGE_BYTES - 6).cast::<u128>();
            for i in 0..phases * stores {
                if i % stores == 0 {
                    meeting.wait();
                }
                // SAFETY: inside the guest mapping; nobody looks at these bytes before all threads are done.
                unsafe { at.write_unaligned(std::hint::black_box(7)) };
                compute();
            }
        }
    });
    cluster.join();
    assert!(cluster.moves() >= 2 * (phases - 1), "the pages moved only {} times", cluster.moves());
    let at = cluster.guest(0).address(EXTENT_PAGES - 1, PAGE_BYTES - 6).cast::<u128>();
    // SAFETY: as above.
    assert_eq!(unsafe { at.read_unaligned() }, 7);
}

/// Node 1 of two with two pagers, whose peer is the test itself: its ends of both links.
fn lone_node() -> (Node, [TcpStream; 2]) {
    let memory = NodeMemory::new(layout(2, 1)).expect("memory");
    let stripes = Stripes::of_at_least(EXTENT_BYTES, memory.layout(), 2);
    let (mut links, mut far) = (Vec::new(), Vec::new());
    for shard in stripes.shards() {
        let (near, other) = tcp_pair();
        let link: Box<dyn Link> = Box::new(TcpLink::new(near).expect("link"));
        links.push((Lane { peer: NodeId(0), shard }, link));
        far.push(other);
    }
    let node = start(PagerConfig { stripes, ..config(1, 2) }, memory, links).expect("starts");
    (node, far.try_into().expect("two"))
}

#[test]
fn a_lost_link_of_one_shard_is_the_end_of_all_and_told_once_with_the_pages_of_all() {
    let (node, [first, mut second]) = lone_node();
    // The peer takes an extent of which this node is the home. It is the other shard's.
    let request = Message::Request {
        gfn: Gfn(EXTENT_PAGES),
        access: Access::Read,
        held: false,
        turn: Default::default(),
    };
    second.write_all(&wire::encode(&request, false)).expect("send");
    second.read_exact(&mut [0; wire::FRAME_BYTES]).expect("a grant");
    assert_eq!(node.pager.pages_only_at(NodeId(0)), Some(EXTENT_PAGES));
    drop(first);
    let failure = node.failures.recv_timeout(HANG).expect("it is told");
    assert_eq!((failure.peer, failure.pages_only_there), (Some(NodeId(0)), Some(EXTENT_PAGES)));
    for extent in [0, 1] {
        let refused = node.pager.borrow(extent * EXTENT_BYTES, 1, Access::Read).map(drop);
        assert_eq!(refused, Err(BorrowError::Stopped), "extent {extent}");
    }
    // The other link is closed too.
    second.set_read_timeout(Some(HANG)).expect("option");
    assert!(matches!(second.read(&mut [0]), Ok(0) | Err(_)));
    assert!(node.failures.recv_timeout(Duration::from_millis(50)).is_err(), "told twice");
    node.pager.stop();
    assert_eq!(node.pager.stats().nodes, 1);
    assert_eq!(node.pager.pages_only_at(NodeId(0)), None);
}

#[test]
fn a_message_about_a_page_of_another_shard_is_refused() {
    let (node, [_first, mut second]) = lone_node();
    let done = Message::Done { gfn: Gfn(3), txn: Txn(1) };
    second.write_all(&wire::encode(&done, false)).expect("send");
    let failure = node.failures.recv_timeout(HANG).expect("it is told");
    assert_eq!(failure.peer, Some(NodeId(0)), "{failure}");
    assert!(failure.to_string().contains("gfn 0x3 is not in the"), "{failure}");
    node.pager.stop();
}

#[test]
fn links_that_do_not_fit_the_shards_are_refused() {
    for lanes in [vec![0], vec![0, 0], vec![0, 1, 1], vec![0, 2], vec![0, 1, 2]] {
        let memory = NodeMemory::new(layout(2, 1)).expect("memory");
        let stripes = Stripes::of_at_least(EXTENT_BYTES, memory.layout(), 2);
        let link = |shard| -> (Lane, Box<dyn Link>) {
            let link = TcpLink::new(tcp_pair().0).expect("link");
            (Lane { peer: NodeId(1), shard: Shard(shard) }, Box::new(link))
        };
        let links = lanes.into_iter().map(link).collect();
        let result = start(PagerConfig { stripes, ..config(0, 2) }, memory, links);
        assert!(matches!(result.map(drop), Err(PagerError::Config { .. })));
    }
}

#[test]
fn a_pager_that_stops_while_another_thread_waits_for_two_shards_lets_it_go() {
    let (node, [mut first, _second]) = lone_node();
    let pager = node.pager.clone();
    let borrower = std::thread::spawn(move || pager.borrow(EXTENT_BYTES - 8, 16, Access::Write).map(drop));
    first.read_exact(&mut [0; wire::FRAME_BYTES]).expect("the request for the first page");
    node.pager.stop();
    assert_eq!(borrower.join().expect("no panic"), Err(BorrowError::Stopped));
}
