//! Leases and turns, as nodes keep them.

use super::cluster::{Cluster, Shape};
use crate::ids::{Gfn, NodeId};
use crate::protocol::{Access, Action, Event, LeasePolicy, Message, Micros, Rights, Turn, Txn};

use Access::{Read, Write};

const PAGE: Gfn = Gfn(0);
const OTHER: Gfn = Gfn(512);

/// Three nodes; the home of PAGE is node 0, of OTHER node 1. Both extents are split and belong to node 2.
fn cluster() -> Cluster {
    let mut shape = Shape::new(3, &[0, 1], 4);
    shape.lease = LeasePolicy { base_us: 50, max_us: 800 };
    let mut cluster = Cluster::new(&shape);
    for (now, node) in [(1_000, 2), (10_000, 1), (20_000, 2)] {
        for gfn in [PAGE, OTHER] {
            fault(&mut cluster, now, node, gfn, Write);
            cluster.settle(now).expect("allowed");
        }
    }
    cluster
}

fn fault(cluster: &mut Cluster, now: Micros, node: usize, gfn: Gfn, access: Access) {
    cluster.step(now, node, Event::Fault { gfn, access }, None).expect("allowed");
}

fn deliver(cluster: &mut Cluster, now: Micros, from: usize, to: usize) -> Vec<Action> {
    cluster.deliver(now, from, to).expect("allowed").expect("a message");
    cluster.actions.clone()
}

fn tick(cluster: &mut Cluster, now: Micros, node: usize) -> Vec<Action> {
    cluster.step(now, node, Event::Tick, None).expect("allowed");
    cluster.actions.clone()
}

#[test]
fn a_granted_page_is_kept_for_its_lease_and_given_up_at_its_end() {
    let mut cluster = cluster();
    fault(&mut cluster, 20_010, 0, PAGE, Write);
    assert_eq!(deliver(&mut cluster, 20_020, 0, 2), [], "granted at 20000 for 50 us");
    assert_eq!(cluster.nodes[2].next_deadline(), Some(20_050));
    assert_eq!(cluster.nodes[2].counters().lease_deferrals, 1);
    assert_eq!(tick(&mut cluster, 20_049, 2), []);
    let given = tick(&mut cluster, 20_050, 2);
    assert!(matches!(given[..], [Action::Protect { .. }, Action::Send { .. }, Action::Discard { .. }]));
    assert_eq!(cluster.nodes[2].next_deadline(), None);
    cluster.settle(20_060).expect("allowed");
    cluster.check_quiet().expect("quiet");
}

#[test]
fn a_whole_extent_is_on_lease_from_its_grant() {
    let mut shape = Shape::new(2, &[0], 1);
    shape.lease = LeasePolicy { base_us: 50, max_us: 800 };
    let mut cluster = Cluster::new(&shape);
    fault(&mut cluster, 1_000, 0, PAGE, Write);
    fault(&mut cluster, 1_010, 1, PAGE, Write);
    assert_eq!(deliver(&mut cluster, 1_020, 1, 0), []);
    assert_eq!(cluster.nodes[0].next_deadline(), Some(1_050));
    assert_eq!(tick(&mut cluster, 1_050, 0).len(), 4, "split, protect, send, discard");
    cluster.settle(1_060).expect("allowed");
    cluster.check_quiet().expect("quiet");
}

#[test]
fn a_read_copy_gives_copies_during_its_lease_and_a_downgrade_starts_no_new_one() {
    let mut cluster = cluster();
    fault(&mut cluster, 20_060, 0, PAGE, Read);
    cluster.settle(20_060).expect("allowed");
    assert_eq!(cluster.nodes[2].rights(PAGE), Rights::Read);
    fault(&mut cluster, 20_070, 1, PAGE, Read);
    cluster.settle(20_070).expect("allowed");
    assert_eq!(cluster.nodes[1].rights(PAGE), Rights::Read, "the home's lease of 20060 was no obstacle");
    fault(&mut cluster, 20_080, 1, PAGE, Write);
    deliver(&mut cluster, 20_080, 1, 0);
    deliver(&mut cluster, 20_080, 0, 2);
    assert_eq!(cluster.nodes[2].rights(PAGE), Rights::None, "its lease ended at 20050");
    assert_eq!(cluster.nodes[0].rights(PAGE), Rights::Read, "its lease ends at 20110");
    assert_eq!(cluster.nodes[0].next_deadline(), Some(20_110));
}

#[test]
fn while_a_page_is_lent_only_its_return_helps_and_the_lease_still_counts() {
    let mut cluster = cluster();
    cluster.step(20_010, 2, Event::Borrow { gfn: PAGE, access: Read }, None).expect("allowed");
    fault(&mut cluster, 20_010, 0, PAGE, Write);
    deliver(&mut cluster, 20_020, 0, 2);
    assert_eq!(cluster.nodes[2].next_deadline(), None);
    cluster.hosts[2].mappings[0].lent_read = 0;
    cluster.step(20_030, 2, Event::Return { gfn: PAGE }, None).expect("allowed");
    assert_eq!((cluster.actions.len(), cluster.nodes[2].next_deadline()), (0, Some(20_050)));
    assert_eq!(tick(&mut cluster, 20_050, 2).len(), 3);
}

/// Node 2 loses PAGE to node 0 while it waits for OTHER, and asks for it again.
fn torn() -> Cluster {
    let mut cluster = cluster();
    fault(&mut cluster, 20_100, 1, OTHER, Write);
    cluster.settle(20_100).expect("allowed");
    fault(&mut cluster, 20_110, 2, OTHER, Write);
    fault(&mut cluster, 20_120, 0, PAGE, Write);
    deliver(&mut cluster, 20_120, 0, 2);
    deliver(&mut cluster, 20_120, 2, 0);
    assert_eq!(cluster.nodes[2].rights(PAGE), Rights::None);
    fault(&mut cluster, 20_130, 2, PAGE, Write);
    assert_eq!(cluster.nodes[2].counters().lease_extensions, 1);
    cluster
}

#[test]
fn a_page_that_was_torn_from_a_collection_is_held_longer_against_later_turns() {
    let mut cluster = torn();
    deliver(&mut cluster, 20_180, 2, 0);
    tick(&mut cluster, 20_180, 0);
    deliver(&mut cluster, 20_180, 0, 2);
    assert_eq!(cluster.nodes[2].rights(PAGE), Rights::Write);
    // Node 2 still waits for OTHER. A later turn gets PAGE after twice 50 us, an earlier one after 50.
    let recall = |turn| Event::Message {
        from: NodeId(0),
        message: Message::Recall {
            gfn: PAGE,
            txn: Txn(99),
            requester: NodeId(1),
            turn,
            access: Write,
            acks: 0,
        },
    };
    for (turn, deadline) in [(Turn(1 << 20), 20_280), (Turn(0), 20_230)] {
        let mut node = cluster.nodes[2].clone();
        node.handle(20_190, recall(turn), &mut vec![]).expect("allowed");
        assert_eq!(node.next_deadline(), Some(deadline));
    }
    // A later turn, then word of an earlier one behind it.
    let mut node = cluster.nodes[2].clone();
    node.handle(20_190, recall(Turn(1 << 20)), &mut vec![]).expect("allowed");
    let hurry = |txn| Message::Hurry { gfn: PAGE, txn, turn: Turn(0) };
    let mut say = |message, now| {
        let mut actions = vec![];
        node.handle(now, Event::Message { from: NodeId(0), message }, &mut actions).expect("allowed");
        (actions.len(), node.next_deadline())
    };
    assert_eq!(say(hurry(Txn(98)), 20_200), (0, Some(20_280)), "about another transaction");
    assert_eq!(say(hurry(Txn(99)), 20_240), (3, None), "more than 50 us have gone: at once");
    assert_eq!(say(hurry(Txn(99)), 20_250), (0, None), "too late, and harmless");
}

#[test]
fn the_earliest_turn_is_served_first_and_holders_are_told_to_hurry() {
    let mut cluster = Cluster::new(&Shape::new(5, &[0], 1));
    fault(&mut cluster, 0, 1, PAGE, Write);
    cluster.settle(0).expect("allowed");
    let turns = [(2, 300), (3, 400), (4, 200)];
    let mut told = vec![];
    for (node, turn) in turns {
        let message = Message::Request { gfn: PAGE, access: Write, held: false, turn: Turn(turn) };
        cluster.nodes[node]
            .handle(0, Event::Fault { gfn: PAGE, access: Write }, &mut vec![])
            .expect("allowed");
        let event = Event::Message { from: NodeId(node as u8), message };
        cluster.step(0, 0, event, None).expect("allowed");
        told.push(cluster.actions.clone());
    }
    assert!(matches!(told[0][..], [Action::Send { message: Message::Recall { turn: Turn(300), .. }, .. }]));
    assert_eq!(told[1], []);
    let hurry = Message::Hurry { gfn: PAGE, txn: Txn(1), turn: Turn(200) };
    assert_eq!(told[2], [Action::Send { to: NodeId(1), message: hurry }]);
    let mut order = vec![];
    while let Some(transaction) = cluster.nodes[0].directory.transaction(PAGE) {
        if order.last() != Some(&transaction.requester) {
            order.push(transaction.requester);
        }
        let link = cluster.links.iter().position(|link| !link.is_empty()).expect("a message");
        deliver(&mut cluster, 0, link / 5, link % 5);
    }
    assert_eq!(order, [NodeId(2), NodeId(4), NodeId(3)]);
}
