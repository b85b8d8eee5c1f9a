//! Whether the tests can fail: they see the reordering that there is, and a broken protocol.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_litmus::shapes;

use crate::cluster::ClusterSpec;
use crate::judged::{self, forbidden};
use crate::middle::Grants;
use crate::{alone, budget_ms, meddle, native, spec, started};

/// How long a test waits for what it is sure to see on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How late an order to give a copy up may come.
const LATE: Duration = Duration::from_millis(4);

/// The tests can see reordering: where two threads share a node, a load does overtake a store. It needs two processors at
/// a time; on a machine that is too busy to show it even to two threads of this process, nothing is claimed.
#[test]
fn store_buffering_is_seen_where_it_can_be() {
    let _alone = alone();
    for spread in [vec![0, 0], vec![0, 0, 1, 1]] {
        let (mut seen, mut native, began) = (0, 0, Instant::now());
        while seen == 0 && began.elapsed() < PATIENCE {
            let mut spec = spec("shapes=SB,R place=apart,together rounds=100000 ms=1000", 1, spread.len());
            spec.nodes = 1 + u8::from(spread.contains(&1));
            spec.vcpus.clone_from(&spread);
            let judged = judged::all(&started(spec).expect_pass(), &shapes::all());
            assert_eq!(forbidden(&judged), 0);
            seen += judged.iter().map(|one| one.judgement.asked).sum::<u64>();
            native += native::store_buffering();
        }
        println!("vCPUs on nodes {spread:?}: {seen} stores overtaken; by threads of this process {native}");
        assert!(seen > 0 || native == 0, "no store buffer was seen in a guest, but it was outside");
    }
}

/// Three nodes that learn late that they have to give a copy up.
fn three_nodes(grants: Grants, words: &str, seed: u64) -> (ClusterSpec, Arc<AtomicU64>) {
    let mut spec = spec(&format!("place=apart,homes,straddle {words} seed={seed}"), 3, 3);
    let early = meddle(&mut spec, grants, LATE, seed);
    (spec, early)
}

#[test]
fn copies_that_go_late_hold_writers_up_and_nothing_else() {
    let _alone = alone();
    let words = format!("shapes=MP,SB+mfences,2+2W,S,LB,WRC,ISA2 rounds=1000000 ms={}", 10 * budget_ms());
    let (spec, _) = three_nodes(Grants::InTime, &words, 1);
    let judged = judged::all(&started(spec).expect_pass(), &shapes::all());
    assert_eq!(forbidden(&judged), 0);
}

/// The tests can see a broken protocol: one that lets a node write before the other copies are gone. (CPUs without work
/// spin: one that halts on the news of yesterday would never be woken.)
#[test]
fn a_grant_that_comes_too_early_is_caught() {
    let _alone = alone();
    let (mut runs, mut grants) = (0, 0);
    for seed in 1..=20 {
        let (spec, early) =
            three_nodes(Grants::Early, "shapes=SB+mfences,MP idle=spin limit=60 rounds=240", seed);
        let (_, console) = started(spec).finish();
        let judged = judged::all(&console, &shapes::all());
        runs += judged.iter().map(|one| one.histogram.total()).sum::<u64>();
        grants += early.load(Ordering::Relaxed);
        if forbidden(&judged) > 0 {
            println!("caught within {runs} runs, in which {grants} grants came early");
            return;
        }
    }
    panic!("{runs} runs with {grants} early grants showed nothing");
}
