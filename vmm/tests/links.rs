//! Guests whose data connections break all the time: what they compute is right all the same.
//!
//! `TESSERA_SEED` sets where and when they break.

mod cluster;

use std::time::Duration;

use cluster::network::Network;
use cluster::{Cluster, ClusterSpec};

/// Runs a payload while the connections between all nodes break, each time after up to `pause`. The payload must pass,
/// and some connections must have broken.
fn pass_with_cuts(cmdline: &str, nodes: u8, vcpus: usize, pause: Duration, moving: &[u16]) {
    pass_of(ClusterSpec::payload(cmdline, nodes, vcpus), pause, moving);
}

fn pass_of(spec: ClusterSpec, pause: Duration, moving: &[u16]) {
    let seed = std::env::var("TESSERA_SEED").ok().map_or(0xcafe, |text| text.parse().expect("a number"));
    let network = Network::new(seed);
    let cluster = Cluster::start(spec.over(&network));
    let moves = std::thread::scope(|scope| {
        scope.spawn(|| network.keep_cutting(pause, || !cluster.ended()));
        match moving {
            [] => {
                cluster.await_end();
                0
            }
            moving => {
                cluster.wait_for("TESSERA-READY");
                cluster.keep_moving(moving, usize::MAX)
            }
        }
    });
    let resumed: u64 = cluster.nodes.iter().map(|node| node.pager.stats().links.resumed).sum();
    println!("{} connections broken, {resumed} times resumed, {moves} moves", network.cuts());
    assert!(resumed > 0 && network.cuts() > 5, "too little broke");
    assert!(moving.is_empty() || moves > 0);
    cluster.expect_pass();
}

#[test]
fn locked_additions_are_never_lost() {
    pass_with_cuts("test=xadd,xadd_straddle rounds=600000", 2, 2, Duration::from_millis(100), &[]);
    pass_with_cuts("test=xadd,xadd_straddle rounds=200000", 3, 3, Duration::from_millis(100), &[]);
}

#[test]
fn messages_are_seen_after_their_flags() {
    pass_with_cuts(
        "test=litmus shapes=MP,SB+mfences,WRC place=apart,homes rounds=2000",
        3,
        3,
        Duration::from_millis(60),
        &[],
    );
}

#[test]
fn nothing_is_lost_with_three_pagers_on_each_node() {
    let words =
        "test=xadd,xadd_straddle,mem_touch,litmus shapes=MP,SB+mfences place=apart,homes mb=8 rounds=400";
    let spec = ClusterSpec::payload(words, 3, 3).with_pagers(3);
    pass_of(spec, Duration::from_millis(60), &[0]);
}

#[test]
fn pages_all_over_memory_keep_what_was_written() {
    pass_with_cuts("test=mem_touch mb=16", 2, 2, Duration::from_millis(40), &[]);
}

#[test]
fn locked_additions_are_never_lost_while_vcpus_move() {
    pass_with_cuts("test=xadd,xadd_straddle rounds=600000", 2, 2, Duration::from_millis(60), &[0, 1]);
}
