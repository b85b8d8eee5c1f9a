//! Extents that become whole again, on the real kernel.

use std::time::{Duration, Instant};

use tessera_dsm::pager::PagerConfig;
use tessera_dsm::protocol::{Access, HabitPolicy, MergePolicy};
use tessera_dsm::EXTENT_PAGES;

use crate::support::{Cluster, Guest, Wires, HANG};

/// Two nodes whose extents merge after a millisecond.
fn cluster() -> Cluster {
    let merge = Some(MergePolicy { quiet_us: 1_000 });
    let habits = HabitPolicy { merge, ..HabitPolicy::OFF };
    Cluster::with(2, 1, Wires::Tcp, |_, config| PagerConfig { habits, ..config })
}

/// Waits until node 1 has had an extent made whole again `times` times.
fn wait_for_merges(cluster: &Cluster, times: u64) {
    let began = Instant::now();
    while cluster.stats(1).protocol.merges < times {
        assert!(began.elapsed() < HANG, "no merge: {:?}", cluster.stats(1).protocol);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn run(cluster: &mut Cluster, node: usize, work: impl FnOnce(Guest) + Send + 'static) {
    cluster.spawn(node, work);
    cluster.join();
}

#[test]
fn an_extent_that_has_come_back_costs_nothing_and_keeps_its_contents() {
    let mut cluster = cluster();
    run(&mut cluster, 1, |guest| (0..8).for_each(|page| guest.store(page, 10 + page)));
    // The conflict: one page is written elsewhere, one is only read there, one nobody has touched.
    run(&mut cluster, 0, |guest| {
        guest.store(3, 33);
        assert_eq!((guest.load(4), guest.load(100)), (14, 0));
    });
    run(&mut cluster, 1, |guest| {
        assert_eq!(guest.load(3), 33);
        [3, 4, 100].into_iter().for_each(|page| guest.store(page, 50 + page));
    });
    wait_for_merges(&cluster, 1);
    let before = cluster.stats(1);
    assert_eq!((before.holdings.whole_extents, before.holdings.writable_pages), (1, 0));
    run(&mut cluster, 1, |guest| {
        for page in 0..EXTENT_PAGES {
            let expected = match page {
                3 | 4 | 100 => 50 + page,
                0..8 => 10 + page,
                _ => 0,
            };
            assert_eq!(guest.load(page), expected, "page {page}");
            guest.store(page, 1_000 + page);
        }
    });
    let faults = |stats: tessera_dsm::pager::PagerStats| {
        stats.faults_local.count + stats.faults_read.count + stats.faults_write.count
    };
    assert_eq!(faults(cluster.stats(1)), faults(before), "a whole extent faults no more");
    // The next conflict splits it again, and every page is the latest.
    run(&mut cluster, 0, |guest| {
        (0..EXTENT_PAGES).for_each(|page| assert_eq!(guest.load(page), 1_000 + page));
    });
    assert_eq!(cluster.stats(1).protocol.splits, 2);
}

#[test]
fn extents_that_split_and_merge_all_the_time_lose_no_store() {
    const ROUNDS: u64 = 20;
    let mut cluster = cluster();
    for round in 0..ROUNDS {
        for node in [1, 0] {
            run(&mut cluster, node, move |guest| {
                for page in 0..16 {
                    let before = guest.load(page);
                    assert_eq!(before, 2 * round + u64::from(node == 0), "page {page}");
                    guest.store(page, before + 1);
                }
            });
        }
        // Some rounds find the extent whole, some in the middle of it.
        std::thread::sleep(Duration::from_millis(round % 5));
    }
    println!("{:?}", cluster.stats(1).protocol);
}

#[test]
fn a_page_that_a_device_holds_stays_lent_when_its_extent_merges() {
    let mut cluster = cluster();
    run(&mut cluster, 1, |guest| guest.store(7, 1));
    run(&mut cluster, 0, |guest| guest.store(7, 2));
    let pager = cluster.nodes[1].pager.clone();
    let lent = pager.borrow(7 << 12, 8, Access::Write).expect("RAM");
    wait_for_merges(&cluster, 1);
    lent.write_at(0, &3u64.to_le_bytes()).expect("inside");
    drop(lent);
    run(&mut cluster, 0, |guest| assert_eq!(guest.load(7), 3));
}
