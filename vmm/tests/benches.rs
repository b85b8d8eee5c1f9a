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
    // Not 512: with a page come others of its block.
    assert!(reads >= 64 && writes < 64, "{reads} read faults, {writes} write faults");
}

#[test]
fn three_parties_take_a_message_of_each() {
    let stats = run("test=bench_fault kind=write stripe=6 from=1 rounds=512", 3, 3);
    let home = stats[2].links.messages_out;
    assert!(stats[0].faults_write.count >= 512 && home >= 512, "the home has sent {home} messages");
    assert!(stats[1].protocol.recalls >= 512, "the owner has obeyed {} recalls", stats[1].protocol.recalls);
}

#[test]
fn an_upgrade_takes_the_copies_of_all_sharers() {
    let stats = run("test=bench_fault kind=upgrade stripe=1 from=1 sharers=3 rounds=512", 4, 4);
    let given_up: Vec<u64> = stats[1..].iter().map(|node| node.protocol.invalidations).collect();
    assert!(given_up.iter().all(|&count| count >= 450), "copies given up: {given_up:?}");
}

#[test]
fn scans_rates_and_private_memory_find_the_right_bytes() {
    run("test=bench_scan mb=8", 2, 2);
    run("test=bench_private mb=4 passes=4", 2, 2);
    run("test=bench_rate readers=3 rounds=256", 2, 4);
    run("test=bench_pingpong rounds=64", 2, 2);
    run("test=bench_touch rounds=256", 1, 1);
    run("test=bench_fill", 2, 2);
}
