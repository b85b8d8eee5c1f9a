//! Memory order across nodes: litmus tests, made from their cycles, run by the bare-metal payload, judged by the x86-TSO
//! oracle. See `docs/litmus.md`.
//!
//! `TESSERA_LITMUS_MS` is the time for each test in each placement of its variables, in
//! milliseconds (20); `TESSERA_SEED` (1) makes the runs differ.

#[path = "../cluster/mod.rs"]
mod cluster;

mod by_hand;
mod code;
mod judged;
mod middle;
mod native;
mod soak;
mod teeth;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::{Cluster, ClusterSpec};
use judged::{forbidden, Judged};
use middle::Grants;
use tessera_dsm::pager::AskAhead;
use tessera_dsm::protocol::LeasePolicy;
use tessera_litmus::encode::straddles;
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

/// Leads the connections of a guest through a [`middle`]; gives the count of early grants.
fn meddle(spec: &mut ClusterSpec, grants: Grants, late: Duration, seed: u64) -> Arc<AtomicU64> {
    let layout = layout_for(spec.memory_mib << 20, usize::from(spec.nodes)).expect("as the guest's");
    let (connect, early) = middle::connector(layout, spec.nodes, (grants, late, seed));
    spec.connect = Some(connect);
    early
}
