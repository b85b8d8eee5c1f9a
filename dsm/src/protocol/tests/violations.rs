//! What a peer may not do: each is refused with the reason, and leaves the node as it was.

use super::cluster::{Cluster, Shape};
use super::membership::Change;
use super::random::Random;
use crate::ids::{Extent, Gfn, NodeId, NodeSet};
use crate::protocol::{
    Access, Action, DirectoryState, Event, MergePolicy, Message, Node, Rights, Term, Turn, Txn, Violation,
};

use Access::{Read, Write};

const PAGE: Gfn = Gfn(0);
const TURN: Turn = Turn(0);

/// Node 0 is the home; `owner` touched the extent first.
fn owned_by(nodes: u8, owner: usize) -> Cluster {
    let mut cluster = Cluster::new(&Shape::new(nodes, &[0, 1], 4));
    make(&mut cluster, owner, Write);
    cluster
}

fn make(cluster: &mut Cluster, node: usize, access: Access) {
    ask(cluster, node, access);
    cluster.settle(0).expect("allowed");
}

fn ask(cluster: &mut Cluster, node: usize, access: Access) {
    cluster.step(0, node, Event::Fault { gfn: PAGE, access }, None).expect("allowed");
}

/// The violation; the node must be as before.
fn refuse(cluster: &Cluster, at: usize, from: u8, message: Message) -> Violation {
    refuse_event(&cluster.nodes[at], Event::Message { from: NodeId(from), message })
}

fn refuse_event(node: &Node, event: Event) -> Violation {
    let mut after = node.clone();
    let mut actions = vec![];
    let violation = after.handle(0, event, &mut actions).expect_err("not allowed");
    assert_eq!(actions, [], "{violation}");
    assert!(after == *node, "{violation}: but the state has changed");
    violation
}

fn is_unexpected(violation: &Violation, part: &str) {
    match violation {
        Violation::Unexpected { expected, .. } | Violation::Rights { expected, .. } => {
            assert!(expected.contains(part), "{violation}, not about {part:?}");
        }
        other => panic!("{other}"),
    }
}

fn request(access: Access) -> Message {
    Message::Request { gfn: PAGE, access, held: false, turn: TURN }
}

fn recall(requester: u8, access: Access, acks: u8) -> Message {
    Message::Recall { gfn: PAGE, txn: Txn(9), requester: NodeId(requester), turn: TURN, access, acks }
}

fn invalidate(requester: u8) -> Message {
    Message::Invalidate { gfn: PAGE, txn: Txn(9), requester: NodeId(requester), turn: TURN }
}

fn grant(txn: u32, rights: Access, page: bool, acks: u8) -> Message {
    Message::Grant { gfn: PAGE, txn: Txn(txn), rights, page, acks }
}

fn done(txn: u32) -> Message {
    Message::Done { gfn: PAGE, txn: Txn(txn) }
}

fn invalidated(txn: u32) -> Message {
    Message::Invalidated { gfn: PAGE, txn: Txn(txn) }
}

#[test]
fn frames_outside_ram_and_senders_outside_the_guest() {
    let cluster = owned_by(3, 1);
    let outside = Message::Done { gfn: Gfn(1 << 40), txn: Txn(0) };
    assert_eq!(refuse(&cluster, 0, 1, outside), Violation::NotRam { gfn: Gfn(1 << 40) });
    let fault = Event::Fault { gfn: Gfn(u64::MAX), access: Read };
    assert_eq!(refuse_event(&cluster.nodes[0], fault), Violation::NotRam { gfn: Gfn(u64::MAX) });
    for from in [0, 3, 255] {
        let expected = Violation::Sender { kind: "Request", gfn: PAGE, from: NodeId(from), nodes: 3 };
        assert_eq!(refuse(&cluster, 0, from, request(Read)), expected);
    }
}

#[test]
fn only_the_home_is_asked_and_only_the_home_gives_orders() {
    let cluster = owned_by(3, 1);
    for message in [request(Read), done(0)] {
        let violation = refuse(&cluster, 1, 2, message);
        assert!(matches!(violation, Violation::NotHome { home: NodeId(0), .. }), "{violation}");
    }
    let hurry = Message::Hurry { gfn: PAGE, txn: Txn(0), turn: TURN };
    let extent = Message::GrantExtent { gfn: PAGE, txn: Txn(0) };
    let already = Message::AlreadyYours { gfn: PAGE };
    let upgrade = grant(0, Write, false, 0);
    let merge = Message::Merge { gfn: PAGE, txn: Txn(0) };
    for message in [recall(2, Write, 0), invalidate(2), hurry, extent, merge, already, upgrade] {
        let violation = refuse(&cluster, 1, 2, message);
        assert!(matches!(violation, Violation::NotFromHome { home: NodeId(0), .. }), "{violation}");
    }
}

#[test]
fn a_second_request_before_the_first_is_done() {
    let mut cluster = owned_by(4, 1);
    for node in [2, 3] {
        ask(&mut cluster, node, Write);
        cluster.deliver(0, node, 0).expect("allowed");
    }
    for from in [2, 3] {
        let expected = Violation::AskedTwice { gfn: PAGE, from: NodeId(from) };
        assert_eq!(refuse(&cluster, 0, from, request(Read)), expected);
    }
}

#[test]
fn answers_to_nothing() {
    let cluster = owned_by(3, 1);
    let extent = Message::GrantExtent { gfn: PAGE, txn: Txn(0) };
    for message in [extent, Message::AlreadyYours { gfn: PAGE }, grant(0, Read, true, 0), invalidated(0)] {
        let violation = refuse(&cluster, 2, 0, message);
        assert!(matches!(violation, Violation::Unasked { .. }), "{violation}");
    }
}

#[test]
fn done_by_another_node_or_of_another_transaction_or_too_early() {
    let mut cluster = owned_by(4, 0);
    make(&mut cluster, 2, Read);
    let (kind, gfn) = ("Done", PAGE);
    let none = |seen, from| Violation::Transaction { kind, gfn, from: NodeId(from), seen, expected: None };
    assert_eq!(refuse(&cluster, 0, 2, done(1)), none(Txn(1), 2), "it is done already");
    // The home has lent its read copy, and must give it up for node 3.
    cluster.step(0, 0, Event::Borrow { gfn: PAGE, access: Read }, None).expect("allowed");
    ask(&mut cluster, 3, Write);
    cluster.deliver(0, 3, 0).expect("allowed");
    let txn = cluster.nodes[0].directory.transaction(PAGE).expect("under way").txn;
    assert_eq!(refuse(&cluster, 0, 2, Message::Done { gfn, txn }), none(txn, 2));
    let violation = refuse(&cluster, 0, 3, done(txn.0 + 1));
    let (from, seen, expected) = (NodeId(3), Txn(txn.0 + 1), Some(txn));
    assert_eq!(violation, Violation::Transaction { kind, gfn, from, seen, expected });
    is_unexpected(&refuse(&cluster, 0, 3, Message::Done { gfn, txn }), "own part");
}

#[test]
fn orders_for_what_this_node_does_not_have() {
    let mut cluster = owned_by(4, 1);
    is_unexpected(&refuse(&cluster, 2, 0, recall(3, Read, 0)), "that it holds");
    is_unexpected(&refuse(&cluster, 2, 0, invalidate(3)), "that it holds");
    is_unexpected(&refuse(&cluster, 1, 0, invalidate(3)), "others hold too");
    is_unexpected(&refuse(&cluster, 1, 0, recall(3, Write, 1)), "nobody else has a copy");
    is_unexpected(&refuse(&cluster, 1, 0, recall(3, Read, 1)), "for a read");
    for requester in [1, 4, 200] {
        for message in [recall(requester, Write, 0), invalidate(requester)] {
            let violation = refuse(&cluster, 1, 0, message);
            assert!(matches!(violation, Violation::Requester { .. }), "{violation}");
        }
    }
    make(&mut cluster, 2, Read);
    is_unexpected(&refuse(&cluster, 1, 0, recall(3, Write, 4)), "than nodes");
}

#[test]
fn a_second_order_before_the_first_is_obeyed_and_an_order_in_the_middle_of_ones_own_grant() {
    let mut cluster = owned_by(4, 1);
    cluster.step(0, 1, Event::Borrow { gfn: PAGE, access: Write }, None).expect("allowed");
    ask(&mut cluster, 2, Write);
    cluster.deliver(0, 2, 0).expect("allowed");
    cluster.deliver(0, 0, 1).expect("allowed");
    is_unexpected(&refuse(&cluster, 1, 0, recall(3, Write, 0)), "before the first is obeyed");

    let mut cluster = owned_by(4, 1);
    make(&mut cluster, 2, Read);
    ask(&mut cluster, 3, Write);
    cluster.deliver(0, 3, 0).expect("allowed");
    cluster.deliver(0, 0, 1).expect("allowed");
    cluster.deliver(0, 1, 3).expect("allowed");
    assert_eq!(cluster.nodes[3].rights(PAGE), Rights::Read, "the grant is in, an acknowledgement is not");
    is_unexpected(&refuse(&cluster, 3, 0, recall(2, Write, 0)), "own request is being served");
}

#[test]
fn answers_in_the_middle_of_an_order_that_is_not_obeyed_yet() {
    let mut cluster = owned_by(4, 1);
    make(&mut cluster, 2, Read);
    cluster.step(0, 2, Event::Borrow { gfn: PAGE, access: Read }, None).expect("allowed");
    ask(&mut cluster, 3, Write);
    cluster.deliver(0, 3, 0).expect("allowed");
    cluster.deliver(0, 0, 2).expect("allowed");
    ask(&mut cluster, 2, Write);
    is_unexpected(&refuse(&cluster, 2, 0, grant(5, Write, false, 0)), "not obeyed yet");
    is_unexpected(&refuse(&cluster, 2, 1, invalidated(5)), "not obeyed yet");
}

#[test]
fn grants_that_are_not_what_was_asked_for() {
    let mut cluster = owned_by(4, 1);
    ask(&mut cluster, 2, Write);
    is_unexpected(&refuse(&cluster, 2, 1, grant(1, Read, true, 0)), "asked for");
    is_unexpected(&refuse(&cluster, 2, 1, grant(1, Write, true, 4)), "other copies");
    is_unexpected(&refuse(&cluster, 2, 0, grant(1, Write, false, 0)), "without a read copy");
    let mut cluster = owned_by(4, 1);
    make(&mut cluster, 2, Read);
    ask(&mut cluster, 2, Write);
    is_unexpected(&refuse(&cluster, 2, 1, grant(2, Write, true, 0)), "without the page");
    let mut cluster = owned_by(4, 1);
    ask(&mut cluster, 2, Read);
    is_unexpected(&refuse(&cluster, 2, 0, grant(2, Read, false, 0)), "page's bytes");
    let already = Message::AlreadyYours { gfn: PAGE };
    is_unexpected(&refuse(&cluster, 2, 0, already), "rights that it asked for");
}

#[test]
fn messages_of_another_transaction_than_the_one_under_way() {
    let mut cluster = owned_by(5, 1);
    make(&mut cluster, 2, Read);
    make(&mut cluster, 4, Read);
    ask(&mut cluster, 3, Write);
    cluster.deliver(0, 3, 0).expect("allowed");
    cluster.deliver(0, 0, 2).expect("allowed");
    cluster.deliver(0, 2, 3).expect("allowed");
    let (gfn, expected) = (PAGE, Some(Txn(3)));
    let wrong = |kind, from, seen| Violation::Transaction { kind, gfn, from: NodeId(from), seen, expected };
    assert_eq!(refuse(&cluster, 3, 1, grant(2, Write, true, 2)), wrong("Grant", 1, Txn(2)));
    assert_eq!(refuse(&cluster, 3, 4, invalidated(7)), wrong("Invalidated", 4, Txn(7)));
    is_unexpected(&refuse(&cluster, 3, 2, invalidated(3)), "one acknowledgement of each");
    is_unexpected(&refuse(&cluster, 3, 1, grant(3, Write, true, 0)), "other copies");
    cluster.deliver(0, 0, 1).expect("allowed");
    cluster.deliver(0, 1, 3).expect("allowed");
    is_unexpected(&refuse(&cluster, 3, 1, grant(3, Write, true, 2)), "one grant in a transaction");
}

#[test]
fn the_home_knows_who_was_told_to_give_what() {
    let mut cluster = owned_by(5, 1);
    make(&mut cluster, 2, Read);
    ask(&mut cluster, 0, Write);
    let txn = cluster.nodes[0].directory.transaction(PAGE).expect("under way").txn.0;
    is_unexpected(&refuse(&cluster, 0, 3, grant(txn, Write, true, 1)), "told to supply");
    is_unexpected(&refuse(&cluster, 0, 1, grant(txn, Write, true, 0)), "told to supply");
    is_unexpected(&refuse(&cluster, 0, 3, invalidated(txn)), "told to give its copy up");
    is_unexpected(&refuse(&cluster, 0, 1, invalidated(txn)), "told to give its copy up");
    let violation = refuse(&cluster, 0, 1, grant(txn + 1, Write, true, 1));
    assert!(matches!(violation, Violation::Transaction { .. }), "{violation}");
    cluster.settle(0).expect("allowed");
    cluster.check_quiet().expect("quiet");
}

#[test]
fn an_extent_is_not_granted_where_something_is_held() {
    let mut cluster = owned_by(3, 1);
    make(&mut cluster, 2, Write);
    let ask_neighbour = Event::Fault { gfn: Gfn(1), access: Write };
    cluster.step(0, 2, ask_neighbour, None).expect("allowed");
    let extent = Message::GrantExtent { gfn: Gfn(1), txn: Txn(5) };
    is_unexpected(&refuse(&cluster, 2, 0, extent), "of which this node has nothing");
}

#[test]
fn an_extent_is_not_merged_where_a_page_is_missing_or_to_be_given_up() {
    let merge = Message::Merge { gfn: PAGE, txn: Txn(5) };
    let cluster = owned_by(3, 1);
    is_unexpected(&refuse(&cluster, 1, 0, merge), "has every page");
    is_unexpected(&refuse(&cluster, 2, 0, merge), "has every page");
    let mut cluster = owned_by(3, 1);
    make(&mut cluster, 2, Read);
    is_unexpected(&refuse(&cluster, 1, 0, merge), "has every page");
    make(&mut cluster, 1, Write);
    cluster.step(0, 1, Event::Borrow { gfn: PAGE, access: Write }, None).expect("allowed");
    ask(&mut cluster, 2, Write);
    cluster.deliver(0, 2, 0).expect("allowed");
    cluster.deliver(0, 0, 1).expect("allowed");
    is_unexpected(&refuse(&cluster, 1, 0, merge), "shall give none");
}

#[test]
fn a_home_that_is_not_the_next_or_not_complete_is_refused() {
    let cluster = owned_by(3, 1);
    let new_home = |term, home| Message::NewHome { gfn: PAGE, term: Term(term), home: NodeId(home) };
    let directory = |term, state| Message::Directory { gfn: PAGE, term: Term(term), state };
    let known = |term| Message::HomeKnown { gfn: PAGE, term: Term(term) };
    for message in [new_home(0, 2), new_home(2, 2), directory(0, DirectoryState::Untouched), known(5)] {
        let violation = refuse(&cluster, 1, 0, message);
        assert!(matches!(violation, Violation::WrongTerm { known: Term(0), .. }), "{violation}");
    }
    is_unexpected(&refuse(&cluster, 1, 0, new_home(1, 0)), "another member");
    is_unexpected(&refuse(&cluster, 1, 0, new_home(1, 7)), "another member");
    is_unexpected(&refuse(&cluster, 2, 0, new_home(1, 2)), "behind a Directory");
    is_unexpected(&refuse(&cluster, 2, 0, directory(1, DirectoryState::Whole(NodeId(9)))), "about members");
    let entry = Message::DirectoryEntry { gfn: PAGE, holders: NodeSet::only(NodeId(1)) };
    is_unexpected(&refuse(&cluster, 2, 0, entry), "behind the Directory");
    for message in [new_home(1, 2), directory(1, DirectoryState::Untouched), entry] {
        let violation = refuse(&cluster, 1, 2, message);
        assert!(matches!(violation, Violation::NotFromHome { home: NodeId(0), .. }), "{violation}");
    }
    let from_home = |message| Event::Message { from: NodeId(0), message };
    let mut told = cluster.nodes[1].clone();
    told.handle(0, from_home(directory(1, DirectoryState::Untouched)), &mut vec![]).expect("allowed");
    is_unexpected(&refuse_event(&told, from_home(new_home(1, 1))), "true of this node");
    is_unexpected(&refuse_event(&told, from_home(new_home(1, 2))), "which got the Directory");
    is_unexpected(&refuse_event(&told, from_home(directory(1, DirectoryState::Untouched))), "one for each");
}

#[test]
fn who_knows_a_home_that_there_is_not_is_refused() {
    let cluster = owned_by(3, 1);
    let known = Message::HomeKnown { gfn: PAGE, term: Term(1) };
    is_unexpected(&refuse(&cluster, 0, 2, known), "has handed the extent over");
    // Node 1 could be the next home, until it hears that another is.
    let mut told = cluster.nodes[1].clone();
    told.handle(0, Event::Message { from: NodeId(2), message: known }, &mut vec![]).expect("allowed");
    let new_home = Message::NewHome { gfn: PAGE, term: Term(1), home: NodeId(2) };
    let event = Event::Message { from: NodeId(0), message: new_home };
    is_unexpected(&refuse_event(&told, event), "of which others know");
}

#[test]
fn a_request_is_sent_back_only_by_the_home_that_was_asked() {
    let mut cluster = owned_by(3, 1);
    let moved = Message::Moved { gfn: PAGE };
    assert!(matches!(refuse(&cluster, 2, 0, moved), Violation::Unasked { .. }));
    ask(&mut cluster, 2, Read);
    is_unexpected(&refuse(&cluster, 2, 1, moved), "old home");
    // It has not said who is the home now: the two would ask and answer for ever.
    is_unexpected(&refuse(&cluster, 2, 0, moved), "old home");
}

#[test]
fn homes_and_members_change_only_as_far_as_they_can() {
    let cluster = owned_by(3, 1);
    let extent = Extent(0);
    for (at, to) in [(1, 2), (0, 0), (0, 9)] {
        let event = Event::HandOver { extent, to: NodeId(to) };
        let violation = refuse_event(&cluster.nodes[at], event);
        assert!(matches!(violation, Violation::NotHandedOver { .. }), "{violation}");
    }
    for event in [
        Event::Dismiss { node: NodeId(1) },
        Event::Dismiss { node: NodeId(0) },
        Event::Drain { node: NodeId(0) },
        Event::Drain { node: NodeId(5) },
        Event::Admit { node: NodeId(3) },
    ] {
        let violation = refuse_event(&cluster.nodes[0], event);
        assert!(matches!(violation, Violation::Member { .. }), "{violation}");
    }
}

#[test]
fn what_was_not_lent_cannot_be_returned() {
    let cluster = owned_by(2, 0);
    let give_back = Event::Return { gfn: PAGE };
    assert_eq!(refuse_event(&cluster.nodes[0], give_back), Violation::NotLent { gfn: PAGE });
}

#[test]
fn a_page_is_lent_only_so_often() {
    let mut cluster = owned_by(2, 0);
    let borrow = Event::Borrow { gfn: PAGE, access: Read };
    let node = &mut cluster.nodes[0];
    let mut actions = vec![];
    for _ in 0..u16::MAX {
        node.handle(0, borrow, &mut actions).expect("allowed");
    }
    assert_eq!(refuse_event(node, borrow), Violation::TooManyBorrows { gfn: PAGE, limit: u16::MAX });
    let node = &mut cluster.nodes[1];
    for access in [Read, Write].into_iter().cycle().take(usize::from(u16::MAX)) {
        node.handle(0, Event::Borrow { gfn: PAGE, access }, &mut actions).expect("allowed");
    }
    assert_eq!(refuse_event(node, borrow), Violation::TooManyBorrows { gfn: PAGE, limit: u16::MAX });
}

/// Some message, often one that fits the node's state.
fn some_message(random: &mut Random, cluster: &Cluster, at: usize) -> Message {
    let gfn = match random.percent(95) {
        true => cluster.pages.gfn(random.next() as usize % cluster.pages.len()),
        false => Gfn(random.between(0, 4096)),
    };
    let home = cluster.nodes.iter().find(|node| node.is_home(gfn)).unwrap_or(&cluster.nodes[at]);
    let guess = home.directory.transaction(gfn).map_or(Txn(0), |transaction| transaction.txn);
    let txn = if random.percent(80) { guess } else { Txn(random.between(0, 40) as u32) };
    let requester = NodeId(random.between(0, 5) as u8);
    let access = random.pick(&[Read, Write]);
    let acks = random.between(0, 3) as u8;
    let turn = Turn(random.next() as u32);
    let flag = random.percent(50);
    let (first, term) = (gfn.extent().first(), Term(random.between(0, 2) as u32));
    match random.between(0, 14) {
        9 => Message::Merge { gfn, txn },
        10 => {
            let whole = DirectoryState::Whole(requester);
            let state = random.pick(&[DirectoryState::Untouched, whole, DirectoryState::Split(requester)]);
            Message::Directory { gfn: first, term, state }
        }
        11 => Message::DirectoryEntry { gfn, holders: NodeSet::from_bits(random.between(0, 31) as u32) },
        12 => Message::NewHome { gfn: first, term, home: requester },
        13 => Message::HomeKnown { gfn: first, term },
        14 => Message::Moved { gfn },
        0 => Message::Request { gfn, access, held: flag, turn },
        1 => Message::GrantExtent { gfn, txn },
        2 => Message::AlreadyYours { gfn },
        3 => Message::Recall { gfn, txn, requester, turn, access, acks },
        4 => Message::Invalidate { gfn, txn, requester, turn },
        5 => Message::Hurry { gfn, txn, turn },
        6 => Message::Grant { gfn, txn, rights: access, page: flag, acks },
        7 => Message::Invalidated { gfn, txn },
        _ => Message::Done { gfn, txn },
    }
}

/// A cluster in the middle of things.
fn some_cluster(random: &mut Random) -> Cluster {
    let mut shape = Shape::new(4, &[0, 1], 2);
    if random.percent(50) {
        shape.lease = crate::protocol::LeasePolicy::default();
    }
    if random.percent(50) {
        shape.habits.merge = Some(MergePolicy { quiet_us: 100 });
    }
    let mut cluster = Cluster::new(&shape);
    for now in 0..random.between(0, 200) {
        let at = random.next() as usize % 4;
        let gfn = cluster.pages.gfn(random.next() as usize % cluster.pages.len());
        let access = random.pick(&[Read, Write]);
        let hand_over = Change::HandOver { node: at, extent: gfn.extent(), to: (at + 1) % 4 };
        match random.between(0, 9) {
            0..=2 => cluster.step(now * 20, at, Event::Fault { gfn, access }, None).map(drop),
            4 if random.percent(10) && cluster.may_change(hand_over) => {
                cluster.change(now * 20, hand_over).map(drop)
            }
            3 => cluster.step(now * 20, at, Event::Tick, None).map(drop),
            _ => cluster.deliver(now * 20, at, random.next() as usize % 4).map(drop),
        }
        .expect("allowed");
    }
    cluster
}

#[test]
fn whatever_a_peer_says_no_node_panics_contradicts_itself_or_changes_by_what_it_refuses() {
    let (mut refused, mut taken) = (0, 0);
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let cluster = some_cluster(&mut random);
        let at = random.next() as usize % 4;
        let mut node = cluster.nodes[at].clone();
        for now in 4_000..4_060 {
            let gfn = cluster.pages.gfn(random.next() as usize % cluster.pages.len());
            let event = match random.between(0, 19) {
                0 => Event::Fault { gfn, access: random.pick(&[Read, Write]) },
                1 => Event::Borrow { gfn, access: random.pick(&[Read, Write]) },
                2 => Event::Return { gfn },
                3 => Event::Tick,
                4 => Event::HandOver { extent: gfn.extent(), to: NodeId(random.between(0, 4) as u8) },
                5 if random.percent(20) => Event::Drain { node: NodeId(random.between(0, 4) as u8) },
                5 if random.percent(20) => Event::Dismiss { node: NodeId(random.between(0, 4) as u8) },
                _ => {
                    let from = NodeId(random.between(0, 4) as u8);
                    Event::Message { from, message: some_message(&mut random, &cluster, at) }
                }
            };
            let before = node.clone();
            let mut actions: Vec<Action> = vec![];
            match node.handle(now * 20, event, &mut actions) {
                Ok(()) => taken += 1,
                Err(Violation::Internal(why)) => panic!("seed {seed}: {event:?}: {why}"),
                Err(violation) => {
                    refused += 1;
                    assert!(actions.is_empty() && node == before, "seed {seed}: {event:?}: {violation}");
                }
            }
        }
    }
    println!("{taken} events taken, {refused} refused");
    assert!(taken > 10_000 && refused > 10_000, "{taken} events taken, {refused} refused: one-sided");
}
