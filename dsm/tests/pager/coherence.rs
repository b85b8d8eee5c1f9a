//! What the guest's threads must see, whatever moves underneath.

use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use tessera_dsm::protocol::Access;
use tessera_dsm::{EXTENT_PAGES, PAGE_BYTES};

use crate::support::{compute, Cluster, Guest, Wires};

/// A small generator of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Waits until a word is at least `value`; without a page of its own the thread sleeps in a fault.
fn wait_until(word: &AtomicU64, value: u64) {
    while word.load(Ordering::Acquire) < value {
        std::thread::yield_now();
    }
}

#[test]
fn a_message_is_seen_after_its_flag() {
    for wires in [Wires::Tcp, Wires::Unix, Wires::Shared] {
        let mut cluster = Cluster::new(2, 2, wires);
        let (data, flag, answer) = (3, EXTENT_PAGES + 5, 2 * EXTENT_PAGES + 7);
        let rounds = 500;
        cluster.spawn(0, move |guest| {
            for round in 1..=rounds {
                guest.word(data, 11).store(round * 3, Ordering::Relaxed);
                guest.word(flag, 0).store(round, Ordering::Release);
                wait_until(guest.word(answer, 0), round);
            }
        });
        cluster.spawn(1, move |guest| {
            for round in 1..=rounds {
                wait_until(guest.word(flag, 0), round);
                assert_eq!(guest.word(data, 11).load(Ordering::Relaxed), round * 3);
                guest.word(answer, 0).store(round, Ordering::Release);
            }
        });
        cluster.join();
        cluster.report("message passing");
    }
}

#[test]
fn stores_on_two_nodes_are_not_both_missed() {
    // Store buffering with a fence (x86-TSO forbids that both read 0): each round on fresh words of shared pages.
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    let rounds = 400;
    let barrier = Arc::new(Barrier::new(2));
    let seen: Arc<Vec<[AtomicU64; 2]>> = Arc::new((0..rounds).map(|_| Default::default()).collect());
    for me in 0..2usize {
        let (barrier, seen) = (barrier.clone(), seen.clone());
        cluster.spawn(me, move |guest| {
            for round in 0..rounds {
                let word = round % (PAGE_BYTES / 8);
                barrier.wait();
                guest.word(40 + me as u64, word).store(round as u64 + 1, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                let other = guest.word(41 - me as u64, word).load(Ordering::Relaxed);
                seen[round][me].store(other, Ordering::SeqCst);
            }
        });
    }
    cluster.join();
    for (round, [first, second]) in seen.iter().enumerate() {
        let missed = |seen: &AtomicU64| seen.load(Ordering::SeqCst) != round as u64 + 1;
        assert!(!(missed(first) && missed(second)), "round {round}: both stores were missed");
    }
}

#[test]
fn a_counter_on_all_nodes_loses_nothing() {
    for (nodes, wires) in [(2, Wires::Tcp), (3, Wires::Tcp), (3, Wires::Unix)] {
        let mut cluster = Cluster::new(nodes, 1, wires);
        let (threads, phases, adds) = (2, 40, 100);
        let twice = (0..usize::from(nodes)).chain(0..usize::from(nodes));
        cluster.spawn_together(twice, |_| {
            move |guest: Guest, meeting: &Barrier| {
                for i in 0..phases * adds {
                    if i % adds == 0 {
                        meeting.wait();
                    }
                    // Six words of two pages, so that nodes also wait for each other's other page.
                    guest.word(100 + i % 2, (i % 3) as usize).fetch_add(1, Ordering::SeqCst);
                    compute();
                }
            }
        });
        cluster.join();
        let least = (phases - 1) * u64::from(nodes - 1);
        assert!(cluster.moves() >= least, "the pages moved only {} times", cluster.moves());
        for node in 0..usize::from(nodes) {
            let guest = cluster.guest(node);
            let sum: u64 =
                (0..6).map(|i| guest.word(100 + i % 2, (i / 2) as usize).load(Ordering::SeqCst)).sum();
            assert_eq!(sum, u64::from(nodes) * threads * phases * adds, "as node {node} sees it");
        }
        cluster.report("shared counter");
    }
}

#[test]
fn what_straddles_two_pages_is_whole() {
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    let (turn, page, rounds) = (30, 60, 100u64);
    // 8 bytes, 3 of them in the first page.
    let straddling = move |guest: &Guest| guest.address(page, PAGE_BYTES - 3).cast::<u64>();
    for me in 0..2u64 {
        cluster.spawn(me as usize, move |guest| {
            for round in 0..rounds {
                wait_until(guest.word(turn, 0), 2 * round + me);
                let at = straddling(&guest);
                // SAFETY: 8 bytes inside the guest mapping; it is this thread's turn.
                unsafe { at.write_unaligned(at.read_unaligned() + 0x0101_0101_0101) };
                guest.word(turn, 0).fetch_add(1, Ordering::Release);
            }
        });
    }
    cluster.join();
    let at = straddling(&cluster.guest(1));
    // SAFETY: as above; the threads are done.
    assert_eq!(unsafe { at.read_unaligned() }, 2 * rounds * 0x0101_0101_0101);
}

#[test]
fn stores_that_need_two_pages_at_once_make_progress() {
    let mut cluster = Cluster::new(3, 1, Wires::Tcp);
    let (phases, stores) = (30, 20);
    cluster.spawn_together([0, 1, 2, 0, 1], |_| {
        move |guest: Guest, meeting: &Barrier| {
            // 16 bytes, 6 of them in the first page.
            let at = guest.address(60, PAGE_BYTES - 6).cast::<u128>();
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
    // SAFETY: as above.
    assert_eq!(unsafe { cluster.guest(2).address(60, PAGE_BYTES - 6).cast::<u128>().read_unaligned() }, 7);
}

#[test]
fn two_sets_of_pages_that_overlap_do_not_starve_each_other() {
    // Each thread needs ten pages of both nodes' extents before it has done one round, like an instruction whose
    // operands, stack and tables lie in ten pages.
    let mut cluster = Cluster::new(2, 1, Wires::Unix);
    let (phases, rounds, pages) = (20, 5, 10);
    cluster.spawn_together([0, 1], |node| {
        move |guest: Guest, meeting: &Barrier| {
            for round in 0..phases * rounds {
                if round % rounds == 0 {
                    meeting.wait();
                }
                for i in 0..pages {
                    let i = if node == 0 { i } else { pages - 1 - i };
                    guest.word(i % 2 * EXTENT_PAGES + i, node).store(round, Ordering::SeqCst);
                    compute();
                }
            }
        }
    });
    cluster.join();
    assert!(cluster.moves() >= phases - 1, "the pages moved only {} times", cluster.moves());
    cluster.report("overlapping sets");
}

#[test]
fn random_traffic_shows_each_word_going_forward_only() {
    // Each thread owns one word of every page, and counts it up. Nobody may ever see a word go back, and the owner
    // sees exactly what it wrote.
    for (nodes, wires) in [(2u8, Wires::Tcp), (3, Wires::Unix), (3, Wires::Shared)] {
        let mut cluster = Cluster::new(nodes, 1, wires);
        let (threads, steps, hot) = (2 * u64::from(nodes), 4000, 24);
        for me in 0..threads {
            let node = (me % u64::from(nodes)) as usize;
            cluster.spawn(node, move |guest| {
                let mut random = Random(me + 1);
                let span = u64::from(nodes) * EXTENT_PAGES;
                let pages: Vec<u64> = (0..hot).map(|i| (i * 97 + 13) % span).collect();
                let mut last = vec![vec![0u64; threads as usize]; pages.len()];
                for _ in 0..steps {
                    let p = random.below(hot) as usize;
                    let (page, whose) = (pages[p], random.below(threads) as usize);
                    let (mine, write) = (whose as u64 == me, random.below(4) == 0);
                    let whose = if write { me as usize } else { whose };
                    let seen = guest.word(page, whose * 8).load(Ordering::SeqCst);
                    assert!(
                        seen >= last[p][whose],
                        "page {page} word {whose}: {seen} after {}",
                        last[p][whose]
                    );
                    assert!(
                        !(mine || write) || seen == last[p][whose],
                        "page {page}: somebody wrote our word"
                    );
                    last[p][whose] = seen + u64::from(write);
                    if write {
                        guest.word(page, whose * 8).store(seen + 1, Ordering::SeqCst);
                    }
                }
            });
        }
        cluster.join();
        cluster.report("random traffic");
    }
}

#[test]
fn borrowers_on_all_nodes_and_a_guest_lose_no_update() {
    let mut cluster = Cluster::new(3, 1, Wires::Tcp);
    let (rounds, at) = (300u64, 9 * PAGE_BYTES as u64 - 4);
    for node in 0..3 {
        let pager = cluster.nodes[node].pager.clone();
        cluster.spawn(node, move |guest| {
            for _ in 0..rounds {
                // 8 bytes in two pages, and a third page after them.
                let lent = pager.borrow(at, 5000, Access::Write).expect("RAM");
                let mut bytes = [0; 8];
                lent.read_at(0, &mut bytes).expect("inside");
                lent.write_at(0, &(u64::from_le_bytes(bytes) + 1).to_le_bytes()).expect("inside");
                drop(lent);
                guest.word(8, 0).fetch_add(1, Ordering::SeqCst);
                guest.word(9, 5).fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    cluster.join();
    let guest = cluster.guest(2);
    // SAFETY: 8 bytes inside the guest mapping; all threads are done.
    assert_eq!(unsafe { guest.address(8, PAGE_BYTES - 4).cast::<u64>().read_unaligned() }, 3 * rounds);
    assert_eq!(guest.load(8), 3 * rounds);
    assert_eq!(guest.word(9, 5).load(Ordering::SeqCst), 3 * rounds);
}

#[test]
fn a_page_that_goes_to_and_fro_is_measured() {
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    let rounds = 2000;
    for me in 0..2u64 {
        cluster.spawn(me as usize, move |guest| {
            // One page for the turn, one for the data: the turn is read until it changes, the data written at once.
            for round in 0..rounds {
                wait_until(guest.word(50, 0), 2 * round + me);
                guest.word(51, 0).store(round, Ordering::Relaxed);
                guest.word(50, 0).store(2 * round + me + 1, Ordering::Release);
            }
        });
    }
    cluster.join();
    let stats = cluster.stats(1);
    assert!(stats.faults_write.count + stats.faults_upgrade.count >= rounds, "{stats:?}");
    cluster.report("ping-pong");
}

#[test]
fn faults_on_another_nodes_pages_are_measured() {
    // One thread, pages that nobody else wants and whose lease is over: the latency of the path alone.
    let mut cluster = Cluster::new(2, 1, Wires::Tcp);
    let pages = 500;
    cluster.spawn(0, move |guest| (0..pages).for_each(|page| guest.store(page, page + 1)));
    cluster.join();
    cluster.spawn(1, move |guest| {
        for page in 0..pages {
            assert_eq!(guest.load(page), page + 1);
        }
        (0..pages / 2).for_each(|page| guest.store(page, 0));
    });
    cluster.join();
    cluster.spawn(0, move |guest| (0..pages / 2).for_each(|page| guest.store(page, 1)));
    cluster.join();
    let (one, two) = (cluster.stats(1), cluster.stats(0));
    assert_eq!((one.faults_read.count, one.faults_upgrade.count), (pages, pages / 2));
    assert_eq!(two.faults_write.count, pages / 2);
    cluster.report("quiet path");
}
