//! Threads that go through another node's memory: what is asked for ahead comes, and goes, in runs.

use std::time::Instant;

use tessera_dsm::pager::{AskAhead, PagerConfig};
use tessera_dsm::protocol::HabitPolicy;
use tessera_dsm::{EXTENT_PAGES, PAGE_BYTES};

use crate::support::{Cluster, Guest, Wires};

/// Extents of each node.
const EXTENTS: u64 = 16;
const PAGES: u64 = EXTENTS * EXTENT_PAGES;

/// Has a thread of `node` do something with each page of node 1, in order; prints how fast that was.
fn scan(cluster: &mut Cluster, node: usize, what: &str, mut each: impl FnMut(&Guest, u64) + Send + 'static) {
    let start = Instant::now();
    cluster.spawn(node, move |guest| (PAGES..2 * PAGES).for_each(|gfn| each(&guest, gfn)));
    cluster.join();
    let mib = (PAGES * PAGE_BYTES as u64) as f64 / f64::from(1 << 20);
    println!("{what}: {:.0} MiB/s", mib / start.elapsed().as_secs_f64());
}

#[test]
fn a_scan_finds_every_page_as_it_was_left_and_pages_move_in_runs() {
    let mut cluster = Cluster::with(2, EXTENTS, Wires::Tcp, |_, config| PagerConfig {
        ahead: AskAhead::On,
        habits: HabitPolicy::OFF,
        ..config
    });
    scan(&mut cluster, 1, "first touch", |guest, gfn| guest.store(gfn, gfn));
    scan(&mut cluster, 0, "scan, loads", |guest, gfn| assert_eq!(guest.load(gfn), gfn));
    let (owner, reader) = (cluster.stats(1).uffd, cluster.stats(0).uffd);
    assert!(owner.protect < PAGES / 2, "{} pages were protected in {} steps", PAGES, owner.protect);
    println!("{PAGES} pages: protected in {} steps, put in in {}", owner.protect, reader.copy);

    scan(&mut cluster, 0, "scan, stores to what both have", |guest, gfn| guest.store(gfn, gfn + 1));
    scan(&mut cluster, 1, "scan, stores to what the other has", |guest, gfn| {
        assert_eq!(guest.load(gfn), gfn + 1);
        guest.store(gfn, gfn + 2);
    });
    scan(&mut cluster, 0, "scan, stores to what the other has written", |guest, gfn| {
        guest.store(gfn, gfn + 3);
    });
    scan(&mut cluster, 1, "scan, loads of it", |guest, gfn| assert_eq!(guest.load(gfn), gfn + 3));
    cluster.report("scan");
}
