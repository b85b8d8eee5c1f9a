//! The ownership moves, step by step, and what happens when a node is lost on the way.

use super::cluster::{nodes, send, Cluster, Shape, SEGMENT};
use crate::ids::NodeId;
use crate::release::{Access, Action, Event, Message, Outcome, PageIndex, Term, Ticket};

const TERM: Term = Term(1);

fn transfer(cluster: &mut Cluster<8>, at: usize, to: u8) -> Vec<Action> {
    let event = Event::Transfer { segment: SEGMENT, to: NodeId(to) };
    cluster.step(0, at, event, None).expect("allowed");
    cluster.actions.clone()
}

fn deliver(cluster: &mut Cluster<8>, from: usize, to: usize) -> Vec<Action> {
    cluster.deliver(0, from, to).expect("allowed").expect("something is on its way");
    cluster.actions.clone()
}

fn settle(cluster: &mut Cluster<8>) -> Vec<Ticket> {
    cluster.settle(0).expect("allowed")
}

fn freeze(to: u8) -> Message {
    Message::Freeze { segment: SEGMENT, term: TERM, to: NodeId(to) }
}

fn frozen() -> Message {
    Message::Frozen { segment: SEGMENT, term: TERM }
}

fn hand(page: u32, copies: &[u8], bytes: bool) -> Message {
    Message::Hand { segment: SEGMENT, page: PageIndex(page), copies: nodes(copies), bytes }
}

fn handed_over() -> Message {
    Message::HandedOver { segment: SEGMENT, term: TERM }
}

fn thaw() -> Message {
    Message::Thaw { segment: SEGMENT, term: TERM }
}

fn owned(owner: u8) -> Action {
    Action::Owned { segment: SEGMENT, owner: NodeId(owner) }
}

/// Node 0 owns four pages: 0 it has written, of 1 node 1 has a copy, of 2 only node 2, 3 nobody has touched.
fn cluster(nodes: u8) -> Cluster<8> {
    let mut cluster = Cluster::new(&Shape::new(nodes, 4));
    for (page, reader) in [(0, 2), (1, 1), (2, 2)] {
        cluster.write(0, page, 0, 10 + page as u8);
        cluster.release(0, 0, 0).expect("allowed");
        settle(&mut cluster);
        cluster.read(reader, page);
    }
    cluster
}

/// The same up to the moment before the owner says that it has handed over everything.
fn almost_handed_over(nodes: u8) -> Cluster<8> {
    let mut cluster = cluster(nodes);
    transfer(&mut cluster, 0, 1);
    for node in 1..usize::from(nodes) {
        deliver(&mut cluster, 0, node);
        deliver(&mut cluster, node, 0);
    }
    (0..3).for_each(|_| drop(deliver(&mut cluster, 0, 1)));
    (0..2).for_each(|_| drop(deliver(&mut cluster, 1, 0)));
    cluster
}

#[test]
fn the_ownership_moves_with_the_pages_that_the_next_owner_lacks() {
    let mut cluster = cluster(3);
    assert_eq!(transfer(&mut cluster, 0, 1), [send(1, freeze(1)), send(2, freeze(1))]);
    assert_eq!(deliver(&mut cluster, 0, 1), [send(0, frozen())]);
    assert_eq!(deliver(&mut cluster, 0, 2), [send(0, frozen())]);
    assert_eq!(deliver(&mut cluster, 1, 0), []);
    let expected = [hand(0, &[0, 2], true), hand(1, &[0], false), hand(2, &[0, 2], true)];
    assert_eq!(deliver(&mut cluster, 2, 0), expected.map(|message| send(1, message)));
    for _ in 0..3 {
        deliver(&mut cluster, 0, 1);
    }
    assert_eq!([0, 0].map(|_| deliver(&mut cluster, 1, 0)), [[], []]);
    assert_eq!(deliver(&mut cluster, 1, 0), [send(1, handed_over())]);
    assert_eq!(deliver(&mut cluster, 0, 1), [send(0, thaw()), send(2, thaw()), owned(1)]);
    assert_eq!(deliver(&mut cluster, 1, 0), [owned(1)]);
    assert_eq!(deliver(&mut cluster, 1, 2), [owned(1)]);
    cluster.check_quiet().expect("quiet");
    assert_eq!((0..4).map(|page| cluster.read(2, page)[0]).collect::<Vec<_>>(), [10, 11, 12, 0]);
    assert_eq!((0..4).map(|page| cluster.read(0, page)[0]).collect::<Vec<_>>(), [10, 11, 12, 0]);
    cluster.check_quiet().expect("quiet");
}

#[test]
fn guests_write_their_copies_meanwhile_and_releases_end_afterwards() {
    let mut cluster = cluster(3);
    transfer(&mut cluster, 0, 1);
    cluster.fault_at(0, 0, 0, Access::Write).expect("allowed");
    cluster.hosts[0].mappings[0].bytes[1] = 5;
    assert!(cluster.release(0, 0, 1).expect("allowed").released.is_empty());
    deliver(&mut cluster, 0, 2);
    cluster.fault_at(0, 2, 0, Access::Write).expect("allowed");
    cluster.hosts[2].mappings[0].bytes[2] = 6;
    assert!(cluster.release(0, 2, 2).expect("allowed").released.is_empty());
    cluster.fault_at(0, 2, 3, Access::Read).expect("allowed");
    assert_eq!(cluster.actions, [], "a question waits");
    let mut ended = settle(&mut cluster);
    ended.sort_unstable();
    assert_eq!(ended, [Ticket(1), Ticket(2)]);
    assert_eq!(cluster.owner(), Some(1));
    assert_eq!(cluster.read(1, 0)[..3], [10, 5, 6]);
    cluster.check_quiet().expect("quiet");
}

#[test]
fn changes_that_the_next_owner_has_set_aside_are_made_in_what_it_is_handed() {
    let mut cluster = cluster(3);
    cluster.write(1, 0, 1, 5);
    cluster.write(2, 0, 2, 6);
    cluster.release(0, 2, 1).expect("allowed");
    settle(&mut cluster);
    transfer(&mut cluster, 0, 1);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(1));
    assert_eq!(cluster.read(0, 0)[..3], [10, 0, 6]);
    cluster.release(0, 1, 2).expect("allowed");
    settle(&mut cluster);
    assert_eq!(cluster.read(0, 0)[..3], [10, 5, 6]);
    cluster.check_quiet().expect("quiet");
}

#[test]
fn a_node_with_a_question_under_way_freezes_when_it_is_answered() {
    let mut cluster = cluster(3);
    cluster.fault_at(0, 2, 3, Access::Read).expect("allowed");
    transfer(&mut cluster, 0, 1);
    assert_eq!(deliver(&mut cluster, 0, 2), []);
    deliver(&mut cluster, 2, 0);
    assert_eq!(deliver(&mut cluster, 0, 2).last(), Some(&send(0, frozen())));
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(1));
    cluster.check_quiet().expect("quiet");
}

#[test]
fn what_is_not_there_does_not_appear_while_pages_are_handed_over() {
    let mut cluster = almost_handed_over(3);
    cluster.fault_at(0, 0, 3, Access::Read).expect("allowed");
    assert_eq!(cluster.actions, [], "the next owner would not know of this copy");
    settle(&mut cluster);
    assert_eq!(cluster.read(0, 3), [0; 8]);
    cluster.write(1, 3, 0, 9);
    cluster.release(0, 1, 1).expect("allowed");
    settle(&mut cluster);
    assert_eq!(cluster.read(0, 3)[0], 9);
    cluster.check_quiet().expect("quiet");
}

#[test]
fn no_more_pages_are_on_their_way_than_the_window_holds() {
    let mut cluster: Cluster<8> = Cluster::new(&Shape { dirty_max: 500, ..Shape::new(2, 200) });
    (0..200).for_each(|page| cluster.write(0, page, 0, page as u8));
    cluster.release(0, 0, 0).expect("allowed");
    transfer(&mut cluster, 0, 1);
    let mut most = 0;
    while cluster.links.iter().any(|link| !link.is_empty()) {
        for (from, to) in [(0, 1), (1, 0)] {
            most = most.max(cluster.links[cluster.link(0, 1)].len());
            cluster.deliver(0, from, to).expect("allowed");
        }
    }
    assert_eq!(most, 64);
    assert_eq!(cluster.owner(), Some(1));
    assert!((0..200).all(|page| cluster.read(1, page)[0] == page as u8));
    cluster.check_quiet().expect("quiet");
}

#[test]
fn orders_that_do_not_apply_change_nothing() {
    let mut cluster = cluster(3);
    assert_eq!(transfer(&mut cluster, 0, 0), [], "it is the owner");
    assert_eq!(transfer(&mut cluster, 1, 2), [], "it is not");
    assert_eq!(transfer(&mut cluster, 0, 9), [], "there is no such node");
    transfer(&mut cluster, 0, 1);
    assert_eq!(transfer(&mut cluster, 0, 2), [], "one at a time");
    assert_eq!(cluster.nodes[0].counters().transfers_refused, 3);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(1));
    // And again, and back.
    transfer(&mut cluster, 1, 2);
    settle(&mut cluster);
    transfer(&mut cluster, 2, 0);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(0));
    cluster.check_quiet().expect("quiet");
}

#[test]
fn the_owner_goes_on_when_the_next_one_is_lost_before_it_has_everything() {
    let mut cluster = almost_handed_over(3);
    cluster.crash(1, |_| 0);
    assert_eq!(deliver(&mut cluster, 1, 0), [send(2, thaw()), owned(0)]);
    assert_eq!(deliver(&mut cluster, 1, 2), []);
    assert_eq!(deliver(&mut cluster, 0, 2), [owned(0)]);
    cluster.check_quiet().expect("quiet");
    assert_eq!((0..4).map(|page| cluster.read(2, page)[0]).collect::<Vec<_>>(), [10, 11, 12, 0]);
    // A word about the move that was abandoned may still come; the next move is not confused by it.
    transfer(&mut cluster, 0, 2);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(2));
    cluster.check_quiet().expect("quiet");
}

#[test]
fn a_late_word_about_an_abandoned_move_says_nothing() {
    let mut cluster = cluster(4);
    transfer(&mut cluster, 0, 1);
    deliver(&mut cluster, 0, 3);
    cluster.crash(1, |_| 0);
    deliver(&mut cluster, 1, 0);
    // Node 3's `Frozen` is still under way, and names the old term.
    transfer(&mut cluster, 0, 2);
    assert_eq!(deliver(&mut cluster, 3, 0), []);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(2));
    cluster.check_quiet().expect("quiet");
}

#[test]
fn the_segment_is_lost_with_its_owner_also_when_the_next_one_waits() {
    let mut cluster = almost_handed_over(3);
    cluster.fault_at(0, 2, 0, Access::Write).expect("allowed");
    cluster.release(0, 2, 2).expect("allowed");
    cluster.crash(0, |_| 0);
    assert_eq!(deliver(&mut cluster, 0, 2), [], "the next owner will say how it ended");
    let broken = Action::Broken { segment: SEGMENT };
    let told = send(2, Message::Broken { segment: SEGMENT });
    assert_eq!(deliver(&mut cluster, 0, 1), [told, broken]);
    let ticket = Action::Released { segment: SEGMENT, ticket: Ticket(2), outcome: Outcome::Broken };
    assert_eq!(deliver(&mut cluster, 1, 2), [broken, ticket]);
    cluster.check_quiet().expect("broken everywhere");
}

#[test]
fn whom_the_lost_owner_named_as_the_next_one_need_not_know_it() {
    let mut cluster = cluster(3);
    transfer(&mut cluster, 0, 1);
    // Node 2 hears of the move, node 1 does not.
    let unsent = cluster.link(0, 1);
    cluster.links[unsent].clear();
    cluster.crash(0, |sent| sent);
    deliver(&mut cluster, 0, 2);
    assert_eq!(deliver(&mut cluster, 0, 2), [], "node 1 will say how it ended");
    settle(&mut cluster);
    cluster.check_quiet().expect("broken everywhere");
}

#[test]
fn the_next_owner_goes_on_when_the_last_one_is_lost_after_its_last_word() {
    let mut cluster = almost_handed_over(3);
    deliver(&mut cluster, 1, 0);
    // `HandedOver` still arrives.
    cluster.crash(0, |sent| sent);
    assert_eq!(deliver(&mut cluster, 0, 2), []);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(1));
    assert_eq!((0..4).map(|page| cluster.read(2, page)[0]).collect::<Vec<_>>(), [10, 11, 12, 0]);
    cluster.check_quiet().expect("quiet");
}

#[test]
fn after_its_last_word_the_last_owner_does_not_go_on() {
    let mut cluster = almost_handed_over(4);
    deliver(&mut cluster, 1, 0);
    deliver(&mut cluster, 0, 1);
    // Node 2 hears of the new owner and releases to it; the others never do.
    deliver(&mut cluster, 1, 2);
    cluster.fault_at(0, 2, 0, Access::Write).expect("allowed");
    cluster.release(0, 2, 1).expect("allowed");
    cluster.crash(1, |_| 0);
    let broken = Action::Broken { segment: SEGMENT };
    let told = [2, 3].map(|node| send(node, Message::Broken { segment: SEGMENT }));
    assert_eq!(deliver(&mut cluster, 1, 0), [told[0], told[1], broken]);
    settle(&mut cluster);
    cluster.check_quiet().expect("broken everywhere");
}

#[test]
fn a_reader_that_is_lost_is_not_handed_on_as_a_holder() {
    let mut cluster = almost_handed_over(3);
    cluster.crash(2, |_| 0);
    settle(&mut cluster);
    assert_eq!(cluster.owner(), Some(1));
    cluster.write(1, 2, 0, 1);
    cluster.release(0, 1, 1).expect("allowed");
    assert_eq!(settle(&mut cluster), [Ticket(1)]);
    cluster.check_quiet().expect("quiet");
}
