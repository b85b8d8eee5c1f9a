//! Memory order across nodes: litmus tests, made from their cycles, run by the bare-metal payload, judged by the x86-TSO
//! oracle. See `docs/litmus.md`.
//!
//! `TESSERA_LITMUS_MS` is the time for each test in each placement of its variables, in
//! milliseconds (20); `TESSERA_SEED` (1) makes the runs differ.

#[path = "../cluster/mod.rs"]
mod cluster;
mod judged;
mod middle;
mod native;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::{Cluster, ClusterSpec};
use judged::{forbidden, Judged};
use middle::Grants;
use tessera_dsm::pager::AskAhead;
use tessera_dsm::protocol::LeasePolicy;
use tessera_litmus::corpus;
use tessera_litmus::encode::{encode, straddles};
use tessera_litmus::generate;
use tessera_litmus::placement::Placement;
use tessera_litmus::shapes;
use tessera_litmus::test::Test;
use tessera_vmm::boot::layout_for;

/// One guest at a time: two would keep each other's threads from meeting.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Time for each test in each placement.
fn budget_ms() -> u64 {
    number("TESSERA_LITMUS_MS", 20)
}

/// A guest that runs litmus tests. Pages that come before they are asked for are off: they leave nobody with a copy to
/// give up.
fn spec(words: &str, nodes: u8, vcpus: usize) -> ClusterSpec {
    let seed = number("TESSERA_SEED", 1);
    println!("litmus: TESSERA_SEED={seed}");
    let cmdline = format!("test=litmus limit=600 seed={seed} {words}");
    let mut spec = ClusterSpec::payload(&cmdline, nodes, vcpus);
    spec.ahead = AskAhead::Off;
    spec
}

fn started(spec: ClusterSpec) -> Cluster {
    let cluster = Cluster::start(spec);
    cluster.real_time();
    cluster.wait_for("TESSERA-READY");
    cluster
}

/// Every test that so many vCPUs can run must have run, in every placement that makes sense.
fn expect_complete(judged: &[Judged], tests: &[Test], vcpus: usize) {
    let ran = |test: &Test, placement: Placement| {
        judged.iter().any(|one| one.histogram.test == test.name && one.histogram.placement == placement)
    };
    for test in tests.iter().filter(|test| test.threads().len() <= vcpus) {
        for placement in Placement::ALL {
            let wanted = match placement {
                Placement::Apart => true,
                Placement::Homes | Placement::Together | Placement::Table => test.variables() > 1,
                Placement::Straddle => straddles(test),
            };
            assert!(!wanted || ran(test, placement), "{} did not run {}", test.name, placement.name());
        }
    }
}

/// All named tests in all placements.
fn all_shapes(mut spec: ClusterSpec) {
    let _alone = alone();
    spec.cmdline.push_str(&format!(" rounds=1000000 ms={}", budget_ms()));
    let vcpus = spec.vcpus.len();
    let tests = shapes::all();
    let judged = judged::all(&started(spec).expect_pass(), &tests);
    assert_eq!(forbidden(&judged), 0);
    expect_complete(&judged, &tests, vcpus);
}

#[test]
fn two_nodes_show_only_what_x86_tso_allows() {
    all_shapes(spec("", 2, 2));
}

#[test]
fn two_nodes_with_two_vcpus_each_show_only_what_x86_tso_allows() {
    let mut spec = spec("", 2, 4);
    spec.ahead = AskAhead::On;
    all_shapes(spec);
}

#[test]
fn three_nodes_show_only_what_x86_tso_allows() {
    let mut spec = spec("", 3, 3);
    // Copies go later than they are asked for.
    spec.lease = LeasePolicy { base_us: 300, ..LeasePolicy::default() };
    all_shapes(spec);
}

#[test]
fn four_nodes_show_only_what_x86_tso_allows() {
    all_shapes(spec("", 4, 4));
}

#[test]
fn vcpus_that_move_see_only_what_x86_tso_allows() {
    let _alone = alone();
    for (nodes, vcpus, which) in [(2, 2, &[0u16, 1][..]), (3, 3, &[0, 1, 2])] {
        let shapes_of = "MP,SB,SB+mfences,SB+xchgs,2+2W,S,CoWR0,CoWW,WRC,ISA2,XCHG3";
        let words = format!("shapes={shapes_of} rounds=1000000 ms={}", 4 * budget_ms());
        let cluster = started(spec(&words, nodes, vcpus));
        let made = cluster.keep_moving(which, usize::MAX);
        let judged = judged::all(&cluster.expect_pass(), &shapes::all());
        assert_eq!(forbidden(&judged), 0);
        println!("{made} moves");
        assert!(made > 0, "nothing moved");
    }
}

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

/// How long a test waits for what it is sure to see on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How late an order to give a copy up may come.
const LATE: Duration = Duration::from_millis(4);

/// Three nodes that learn late that they have to give a copy up.
fn three_nodes(grants: Grants, words: &str, seed: u64) -> (ClusterSpec, Arc<AtomicU64>) {
    let mut spec = spec(&format!("place=apart,homes,straddle {words} seed={seed}"), 3, 3);
    let early = meddle(&mut spec, grants, LATE, seed);
    (spec, early)
}

/// Leads the connections of a guest through a [`middle`]; gives the count of early grants.
fn meddle(spec: &mut ClusterSpec, grants: Grants, late: Duration, seed: u64) -> Arc<AtomicU64> {
    let layout = layout_for(spec.memory_mib << 20, usize::from(spec.nodes)).expect("as the guest's");
    let (connect, early) = middle::connector(layout, spec.nodes, (grants, late, seed));
    spec.connect = Some(connect);
    early
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

/// All published tests, or the `n`th of `m` pieces of them (`TESSERA_LITMUS_PIECE=n/m`, from 1), on `NODES` nodes (4)
/// with four vCPUs.
#[test]
#[ignore = "takes hours"]
fn published_tests_show_only_what_x86_tso_allows() {
    let _alone = alone();
    let piece = std::env::var("TESSERA_LITMUS_PIECE").unwrap_or_else(|_| "1/1".into());
    let (piece, pieces) = piece.split_once('/').expect("n/m");
    let (piece, pieces): (usize, usize) = (piece.parse().expect("n"), pieces.parse().expect("m"));
    let mut tests: Vec<Test> = corpus::parse(corpus::TABLE)
        .expect("the table")
        .iter()
        .filter_map(|entry| Some(generate::test(&entry.name, entry.cycle.as_ref()?).expect("a test")))
        .collect();
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    tests.dedup_by(|a, b| a.name == b.name);
    let tests: Vec<Test> = tests.into_iter().skip(piece - 1).step_by(pieces).collect();
    let mut table = tempfile::NamedTempFile::new().expect("a file");
    table.write_all(&encode(&tests).expect("small enough")).expect("writes");
    let words = format!("rounds=1000000 ms={}", budget_ms());
    let mut spec = spec(&words, number("NODES", 4) as u8, 4);
    spec.initramfs = Some(table.path().to_owned());
    let judged = judged::all(&started(spec).expect_pass(), &tests);
    assert_eq!(forbidden(&judged), 0);
    expect_complete(&judged, &tests, 4);
}

/// Any run by hand: `NODES=3 VCPUS=3 CMDLINE='shapes=MP rounds=10000' EARLY=1 LATE_US=500 LEASE_US=500 MOVES=10 cargo test
/// -p tessera --test litmus by_hand -- --ignored --nocapture`
#[test]
#[ignore = "a tool for whoever looks for a fault"]
fn by_hand() {
    let words = std::env::var("CMDLINE").unwrap_or_default();
    let vcpus = number("VCPUS", 2) as usize;
    let mut spec = spec(&words, number("NODES", 2) as u8, vcpus);
    spec.lease = LeasePolicy { base_us: number("LEASE_US", 50), ..LeasePolicy::default() };
    let late = Duration::from_micros(number("LATE_US", 0));
    let grants = if number("EARLY", 0) > 0 { Grants::Early } else { Grants::InTime };
    let early = match grants == Grants::Early || !late.is_zero() {
        true => meddle(&mut spec, grants, late, 1),
        false => Arc::default(),
    };
    let cluster = started(spec);
    let which: Vec<u16> = (0..vcpus as u16).collect();
    println!("{} moves", cluster.keep_moving(&which, number("MOVES", 0) as usize));
    cluster.wait_for("TESSERA-RESULT");
    for node in &cluster.nodes {
        println!("{:?}", node.pager.stats().protocol);
    }
    let (_, console) = cluster.finish();
    judged::all(&console, &shapes::all());
    println!("{} early grants", early.load(Ordering::Relaxed));
}
