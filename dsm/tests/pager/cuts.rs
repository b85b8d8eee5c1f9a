//! What the guest's threads must see while the connections between the nodes break all the time.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::Arc;
use std::time::Duration;

use tessera_dsm::link::TcpLink;
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::Resume;
use tessera_dsm::protocol::{Access, Message};
use tessera_dsm::{wire, Gfn, NodeId, EXTENT_PAGES};

use crate::network::Network;
use crate::support::{compute, config, layout, start, start_with, tcp_pair, Cluster, Guest, HANG};

fn seed() -> u64 {
    std::env::var("TESSERA_SEED").ok().map_or(0xc0de, |text| text.parse().expect("a number"))
}

/// A cluster whose connections break all the time, until the threads are done; how often they did.
fn with_cuts(nodes: u8, pause: Duration, run: impl FnOnce(&mut Cluster)) -> u64 {
    let network = Network::new(seed());
    let mut cluster = Cluster::over(nodes, 1, &network);
    let done = Arc::new(AtomicBool::new(false));
    let (cutting, over) = (network.clone(), done.clone());
    let cutter = std::thread::spawn(move || cutting.keep_cutting(pause, || !over.load(Ordering::SeqCst)));
    run(&mut cluster);
    done.store(true, Ordering::SeqCst);
    cutter.join().expect("no panic");
    let resumed: u64 = (0..usize::from(nodes)).map(|node| cluster.stats(node).links.resumed).sum();
    println!("{} connections broken, {resumed} times resumed", network.cuts());
    assert!(resumed > 0);
    cluster.nodes.iter().for_each(|node| node.pager.stop());
    network.close();
    network.cuts()
}

#[test]
fn a_counter_on_three_nodes_loses_nothing() {
    let adds = 1500;
    let cuts = with_cuts(3, Duration::from_millis(20), |cluster| {
        for node in [0, 1, 2, 0, 1, 2] {
            cluster.spawn(node, move |guest: Guest| {
                for i in 0..adds {
                    // Six words of two pages, so that nodes also wait for each other's other page.
                    guest.word(100 + i % 2, (i % 3) as usize).fetch_add(1, Ordering::SeqCst);
                    compute();
                }
            });
        }
        cluster.join();
        for node in 0..3 {
            let guest = cluster.guest(node);
            let sum: u64 =
                (0..6).map(|i| guest.word(100 + i % 2, (i / 2) as usize).load(Ordering::SeqCst)).sum();
            assert_eq!(sum, 6 * adds, "as node {node} sees it");
        }
        cluster.report("shared counter over links that break");
    });
    assert!(cuts > 10, "only {cuts} connections broke");
}

#[test]
fn a_message_is_seen_after_its_flag() {
    let rounds = 300;
    with_cuts(2, Duration::from_millis(20), |cluster| {
        let (data, flag, answer) = (3, EXTENT_PAGES + 5, EXTENT_PAGES + 7);
        let wait = |guest: &Guest, gfn, round| {
            while guest.word(gfn, 0).load(Ordering::Acquire) < round {
                std::thread::yield_now();
            }
        };
        cluster.spawn(0, move |guest| {
            for round in 1..=rounds {
                guest.word(data, 11).store(round * 3, Ordering::Relaxed);
                guest.word(flag, 0).store(round, Ordering::Release);
                wait(&guest, answer, round);
            }
        });
        cluster.spawn(1, move |guest| {
            for round in 1..=rounds {
                wait(&guest, flag, round);
                assert_eq!(guest.word(data, 11).load(Ordering::Relaxed), round * 3);
                guest.word(answer, 0).store(round, Ordering::Release);
            }
        });
        cluster.join();
    });
}

#[test]
fn pages_that_were_given_away_are_not_lost_with_the_connection() {
    // Every page goes from node 0 to node 1 and back, with its bytes, while links break in the middle of pages.
    let (pages, rounds) = (150, 3);
    with_cuts(2, Duration::from_millis(10), |cluster| {
        for round in 0..rounds {
            for node in 0..2usize {
                cluster.spawn(node, move |guest| {
                    for page in 0..pages {
                        for word in (0..512).step_by(37) {
                            let value = guest.word(page, word);
                            let before = 2 * round + node as u64;
                            assert_eq!(value.load(Ordering::SeqCst), before, "page {page}, word {word}");
                            value.store(before + 1, Ordering::SeqCst);
                        }
                    }
                });
                cluster.join();
            }
        }
    });
}

#[test]
fn a_peer_that_does_not_come_back_is_lost_at_the_limit_with_what_only_it_had() {
    let (near, far) = tcp_pair();
    let memory = NodeMemory::new(layout(2, 1)).expect("memory");
    let link = Box::new(TcpLink::new(near).expect("link"));
    let (tell, told) = channel();
    let resume = Resume {
        limit: Duration::from_millis(300),
        on_break: Box::new(move |broke| {
            let _ = tell.send(broke);
        }),
    };
    let node =
        start_with(config(0, 2), memory, vec![(NodeId(1).into(), link)], Some(resume)).expect("starts");
    // The peer takes an extent of this node's, and then goes.
    let request =
        Message::Request { gfn: Gfn(3), access: Access::Read, held: false, turn: Default::default() };
    let mut peer = far;
    peer.write_all(&wire::encode(&request, false)).expect("send");
    let mut grant = [0; wire::FRAME_BYTES];
    peer.read_exact(&mut grant).expect("a grant");
    drop(peer);
    let broke = told.recv_timeout(HANG).expect("it is told");
    assert_eq!((broke.lane, broke.redial), (NodeId(1).into(), None), "node 1 dials");
    let failure = node.failures.recv_timeout(HANG).expect("it is lost");
    assert_eq!((failure.peer, failure.pages_only_there), (Some(NodeId(1)), Some(EXTENT_PAGES)));
    assert!(failure.what.ends_with("and no link worked for 300 ms"), "{failure}");
    assert_eq!(node.pager.pages_only_at(NodeId(1)), Some(EXTENT_PAGES));
    node.pager.stop();
    assert_eq!(node.pager.pages_only_at(NodeId(1)), None);
}

#[test]
fn without_anybody_to_replace_it_a_broken_link_is_a_lost_peer() {
    let (near, far) = tcp_pair();
    let memory = NodeMemory::new(layout(2, 1)).expect("memory");
    let link = Box::new(TcpLink::new(near).expect("link"));
    let node = start(config(1, 2), memory, vec![(NodeId(0).into(), link)]).expect("starts");
    drop(far);
    let failure = node.failures.recv_timeout(HANG).expect("it is lost");
    assert_eq!((failure.peer, failure.what.as_str()), (Some(NodeId(0)), "the connection was closed"));
    node.pager.stop();
}
