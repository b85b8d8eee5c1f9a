//! The payloads that measure: that they run over several nodes, and that what they measure is what it is called.

mod cluster;

use cluster::{Cluster, ClusterSpec};

/// Runs a payload to its result, and gives what each node's pager has counted until then.
fn run(cmdline: &str, nodes: u8, vcpus: usize) -> Vec<tessera_dsm::pager::PagerStats> {
    let cluster = Cluster::start(ClusterSpec::payload(cmdline, nodes, vcpus));
    cluster.wait_for("\"ok\":true}");
    let stats = cluster.nodes.iter().map(|node| node.pager.stats()).collect();
    cluster.expect_pass();
    stats
}

#[test]
fn a_load_of_a_remote_page_brings_a_copy_and_leaves_the_page_where_it_is() {
    // KVM's own workers, if they were to fetch the pages, would ask to write.
    let stats = run("test=bench_fault kind=read rounds=512", 2, 2);
    let (reads, writes) = (stats[0].faults_read.count, stats[0].faults_write.count);
    assert!(reads >= 512 && writes < 64, "{reads} read faults, {writes} write faults");
}
