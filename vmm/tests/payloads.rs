//! The bare-metal payloads over several nodes: locked instructions, interrupts, time. (Memory order: `litmus`.)

mod cluster;

use cluster::{Cluster, ClusterSpec};

/// Runs a payload; the vCPUs are spread over the nodes.
fn pass(cmdline: &str, nodes: u8, vcpus: usize) -> String {
    Cluster::start(ClusterSpec::payload(cmdline, nodes, vcpus)).expect_pass()
}

/// Runs a payload while `which` vCPUs move all the time; gives how many moves were made.
fn pass_moving(cmdline: &str, nodes: u8, vcpus: usize, which: &[u16]) -> usize {
    let cluster = Cluster::start(ClusterSpec::payload(cmdline, nodes, vcpus));
    cluster.wait_for("TESSERA-READY");
    let made = cluster.keep_moving(which, usize::MAX);
    println!("{made} moves");
    cluster.expect_pass();
    made
}

#[test]
fn a_payload_says_hello_on_one_node() {
    assert!(pass("test=hello", 1, 1).contains("TESSERA-RESULT"));
}

#[test]
fn all_vcpus_start_across_nodes() {
    pass("test=smp", 1, 2);
    pass("test=smp", 2, 2);
    pass("test=smp", 3, 6);
}

#[test]
fn locked_additions_are_never_lost() {
    pass("test=xadd,xadd_straddle rounds=600000", 2, 2);
    pass("test=xadd,xadd_straddle rounds=200000", 3, 3);
}

#[test]
fn locked_additions_are_never_lost_while_vcpus_move() {
    let made = pass_moving("test=xadd,xadd_straddle rounds=2000000", 2, 2, &[0, 1]);
    assert!(made > 3, "only {made} moves");
}

#[test]
fn a_hundred_thousand_interrupts_reach_a_vcpu_that_moves_all_the_time() {
    let made = pass_moving("test=ipi_count rounds=100000 limit=250", 2, 2, &[1]);
    assert!(made > 1000, "only {made} moves");
}

#[test]
fn every_kind_of_interrupt_crosses_nodes() {
    pass("test=ipi_all,nmi,initsipi,timer", 2, 2);
    pass("test=ipi_all,nmi", 3, 3);
}

#[test]
fn nmis_and_timers_survive_moves() {
    let made = pass_moving("test=nmi,timer", 2, 2, &[1]);
    assert!(made > 10, "only {made} moves");
}

#[test]
fn the_time_never_steps_back_across_nodes_and_moves() {
    pass("test=tsc rounds=2000", 2, 2);
    pass_moving("test=tsc rounds=2000", 2, 2, &[0, 1]);
}

/// Any payload by hand: `NODES=3 VCPUS=3 CMDLINE='test=xadd rounds=100' MOVES=1000 cargo test ... by_hand -- --ignored`
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
