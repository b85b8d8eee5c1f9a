//! The bare-metal payloads over several nodes: memory order, interrupts, moves.

mod cluster;

use cluster::{Cluster, ClusterSpec};

#[test]
fn a_payload_says_hello_on_one_node() {
    let console = Cluster::start(ClusterSpec::payload("test=hello", 1, 1)).expect_pass();
    assert!(console.contains("TESSERA-RESULT"), "{console}");
}

#[test]
fn all_vcpus_start_across_nodes() {
    Cluster::start(ClusterSpec::payload("test=smp", 1, 2)).expect_pass();
    Cluster::start(ClusterSpec::payload("test=smp", 2, 2)).expect_pass();
    Cluster::start(ClusterSpec::payload("test=smp", 3, 6)).expect_pass();
}

/// Any payload by hand: `NODES=3 VCPUS=3 CMDLINE='test=mp rounds=100' MOVES=1000 cargo test ... by_hand -- --ignored`
#[test]
#[ignore = "a tool for whoever looks for a fault"]
fn by_hand() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
    };
    let cmdline = std::env::var("CMDLINE").unwrap_or_else(|_| "test=smp".into());
    let spec = ClusterSpec::payload(&cmdline, number("NODES", 2) as u8, number("VCPUS", 2));
    let cluster = Cluster::start(spec);
    cluster.wait_for("TESSERA-READY");
    let vcpus: Vec<u16> = (0..number("VCPUS", 2) as u16).collect();
    let made = cluster.keep_moving(&vcpus, number("MOVES", 0));
    for node in &cluster.nodes {
        println!("{:?}", node.machine.stats());
    }
    println!("{made} moves");
    cluster.expect_pass();
}
