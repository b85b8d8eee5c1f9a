//! Moves: registers survive ten thousand of them, and one that fails at any step leaves the vCPU running in one place.

mod cluster;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use cluster::{Cluster, ClusterSpec, Verdict};
use tessera_dsm::NodeId;
use tessera_migration::handover::{MoveMessage, Refusal};
use tessera_migration::VcpuId;
use tessera_vmm::machine::PeerMessage;

const MOVING: VcpuId = VcpuId(1);

#[test]
fn registers_survive_ten_thousand_moves() {
    const MOVES: usize = 10_000;
    /// Guests at most: on a busy machine one does not live long enough.
    const GUESTS: usize = 20;
    let mut made = 0;
    for _ in 0..GUESTS {
        let cluster = Cluster::start(ClusterSpec::payload("test=move_bench seconds=40", 2, 2));
        cluster.wait_for("TESSERA-READY");
        made += cluster.keep_moving(&[0, 1], MOVES - made);
        for node in &cluster.nodes {
            let stats = node.machine.stats();
            println!("{:?}", stats.arrivals);
            assert_eq!(stats.move_errors, 0);
        }
        cluster.expect_pass();
        if made == MOVES {
            return;
        }
    }
    panic!("only {made} moves in {GUESTS} guests");
}

#[test]
fn halted_vcpus_move_and_wake() {
    let cluster = Cluster::start(ClusterSpec::payload("test=move_halt seconds=10", 2, 2));
    cluster.wait_for("TESSERA-READY");
    let made = cluster.keep_moving(&[0, 1], usize::MAX);
    assert!(made > 100, "only {made} moves");
    cluster.expect_pass();
}

#[test]
fn vcpus_of_three_nodes_move_among_them() {
    let cluster = Cluster::start(ClusterSpec::payload("test=move_bench seconds=10", 3, 3));
    cluster.wait_for("TESSERA-READY");
    let made = cluster.keep_moving(&[0, 1, 2], usize::MAX);
    assert!(made > 500, "only {made} moves");
    cluster.expect_pass();
}

/// A guest in which the first move message that `picked` names meets a link that is down.
fn with_cut(picked: fn(&PeerMessage) -> bool) -> (Cluster, Arc<AtomicUsize>) {
    let armed = Arc::new(AtomicBool::new(true));
    let cuts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&cuts);
    let spec = ClusterSpec::payload("test=move_bench seconds=6", 2, 2).meddle(move |_, _, message| {
        if picked(message) && armed.swap(false, Ordering::SeqCst) {
            seen.fetch_add(1, Ordering::SeqCst);
            return Verdict::Cut;
        }
        Verdict::Pass
    });
    let cluster = Cluster::start(spec);
    cluster.wait_for("TESSERA-READY");
    (cluster, cuts)
}

#[test]
fn a_link_that_is_down_for_the_question_leaves_the_vcpu_at_the_source() {
    let (cluster, cuts) =
        with_cut(|message| matches!(message, PeerMessage::Move(_, MoveMessage::Prepare(_))));
    assert_eq!(cluster.move_vcpu(MOVING, NodeId(0)), Err(Refusal::DestinationLost));
    assert_eq!((cluster.place(MOVING), cuts.load(Ordering::SeqCst)), (NodeId(1), 1));
    cluster.move_vcpu(MOVING, NodeId(0)).expect("the next move succeeds");
    cluster.expect_pass();
}

#[test]
fn a_destination_that_never_answers_leaves_the_vcpu_at_the_source() {
    let (cluster, cuts) = with_cut(|message| matches!(message, PeerMessage::Move(_, MoveMessage::Ready(_))));
    assert_eq!(cluster.move_vcpu(MOVING, NodeId(0)), Err(Refusal::NoAnswer));
    assert_eq!((cluster.place(MOVING), cuts.load(Ordering::SeqCst)), (NodeId(1), 1));
    cluster.move_vcpu(MOVING, NodeId(0)).expect("the next move succeeds");
    cluster.expect_pass();
}

#[test]
fn a_context_that_cannot_be_sent_is_taken_back() {
    let (cluster, cuts) =
        with_cut(|message| matches!(message, PeerMessage::Move(_, MoveMessage::Commit(..))));
    assert_eq!(cluster.move_vcpu(MOVING, NodeId(0)), Err(Refusal::DestinationLost));
    assert_eq!((cluster.place(MOVING), cuts.load(Ordering::SeqCst)), (NodeId(1), 1));
    cluster.expect_pass();
}

#[test]
fn an_arrival_that_cannot_be_reported_still_runs_at_the_destination_only() {
    let (cluster, cuts) = with_cut(|message| matches!(message, PeerMessage::Move(_, MoveMessage::Done(..))));
    assert_eq!(cluster.move_vcpu(MOVING, NodeId(0)), Err(Refusal::NoAnswer));
    assert_eq!((cluster.place(MOVING), cuts.load(Ordering::SeqCst)), (NodeId(0), 1));
    cluster.expect_pass();
}

#[test]
fn a_closed_destination_refuses_and_the_vcpu_runs_on() {
    let cluster = Cluster::start(ClusterSpec::payload("test=move_bench seconds=4", 2, 2));
    cluster.wait_for("TESSERA-READY");
    cluster.nodes[0].machine.close(Some("draining"));
    let refusal = cluster.move_vcpu(MOVING, NodeId(0));
    assert_eq!(refusal, Err(Refusal::Closed("draining".into())));
    assert_eq!(cluster.place(MOVING), NodeId(1));
    cluster.nodes[0].machine.close(None);
    cluster.move_vcpu(MOVING, NodeId(0)).expect("open again");
    cluster.expect_pass();
}

#[test]
fn nonsense_orders_are_refused() {
    let cluster = Cluster::start(ClusterSpec::payload("test=move_bench seconds=2", 2, 2));
    cluster.wait_for("TESSERA-READY");
    let first = &cluster.nodes[0].machine;
    assert_eq!(first.move_vcpu(VcpuId(0), NodeId(9)), Err(Refusal::NoSuchNode));
    assert_eq!(first.move_vcpu(VcpuId(0), NodeId(0)), Err(Refusal::AlreadyThere));
    assert_eq!(first.move_vcpu(MOVING, NodeId(0)), Err(Refusal::NotHere));
    assert_eq!(first.move_vcpu(VcpuId(7), NodeId(1)), Err(Refusal::NotHere));
    cluster.expect_pass();
}
