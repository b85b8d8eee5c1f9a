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
