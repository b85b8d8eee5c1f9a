//! What peers and drivers may not do, and that refusing it changes nothing.

use super::cluster::{nodes, Cluster, Shape, SEGMENT};
use super::random::Random;
use crate::ids::NodeId;
use crate::release::{
    Access, Event, Held, Message, PageIndex, SegmentId, SegmentSpec, Term, Ticket, VcpuIndex, Violation,
    SEGMENTS_MAX, SEGMENT_PAGES_MAX,
};

const PAGE: PageIndex = PageIndex(0);

/// The violation; the node must be as before.
fn refuse_event(cluster: &Cluster<8>, at: usize, event: Event) -> Violation {
    let mut after = cluster.nodes[at].clone();
    let mut actions = vec![];
    let violation = after.handle(0, event, &mut actions).expect_err("not allowed");
    assert_eq!(actions, [], "{violation}");
    assert!(after == cluster.nodes[at], "{violation}: but the state has changed");
    violation
}

fn refuse(cluster: &Cluster<8>, at: usize, from: u8, message: Message) -> Violation {
    refuse_event(cluster, at, Event::Message { from: NodeId(from), message })
}

fn cluster() -> Cluster<8> {
    Cluster::new(&Shape::new(3, 2))
}

fn page() -> Message {
    Message::Page { segment: SEGMENT, page: PAGE }
}

fn diff() -> Message {
    Message::Diff { segment: SEGMENT, page: PAGE, changed: true }
}

fn freeze(term: u32, to: u8) -> Message {
    Message::Freeze { segment: SEGMENT, term: Term(term), to: NodeId(to) }
}

fn hand(page: u32, copies: &[u8], bytes: bool) -> Message {
    Message::Hand { segment: SEGMENT, page: PageIndex(page), copies: nodes(copies), bytes }
}

fn is_unexpected(violation: &Violation, part: &str) {
    match violation {
        Violation::Unexpected { expected, .. } | Violation::Holds { expected, .. } => {
            assert!(expected.contains(part), "{violation}, not about {part:?}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn segments_and_pages_that_do_not_exist() {
    let cluster = cluster();
    let (segment, access, vcpu) = (SegmentId(9), Access::Read, VcpuIndex(0));
    let no_segment = Violation::NoSegment { segment };
    let fault = |segment, page| Event::Fault { segment, page, access, vcpu };
    assert_eq!(refuse_event(&cluster, 0, fault(segment, PAGE)), no_segment);
    assert_eq!(refuse_event(&cluster, 0, Event::Release { segment, ticket: Ticket(0) }), no_segment);
    assert_eq!(refuse_event(&cluster, 0, Event::Close { segment }), no_segment);
    assert_eq!(refuse(&cluster, 0, 1, Message::Fetch { segment, page: PAGE }), no_segment);
    let page = PageIndex(2);
    let no_page = Violation::NoPage { segment: SEGMENT, page, pages: 2 };
    assert_eq!(refuse_event(&cluster, 0, fault(SEGMENT, page)), no_page);
    assert_eq!(refuse(&cluster, 0, 1, Message::Fetch { segment: SEGMENT, page }), no_page);
    assert_eq!(refuse_event(&cluster, 0, Event::Prefetch { segment: SEGMENT, page }), no_page);
}

#[test]
fn segments_that_cannot_be_opened() {
    let mut cluster = cluster();
    let good = SegmentSpec { segment: SegmentId(8), pages: 1, owner: NodeId(0), dirty_max: 1 };
    let wrong = |spec: SegmentSpec| match refuse_event(&cluster, 0, Event::Open(spec)) {
        Violation::Spec { expected, .. } => expected,
        other => panic!("{other}"),
    };
    assert!(wrong(SegmentSpec { pages: 0, ..good }).contains("size"));
    assert!(wrong(SegmentSpec { pages: SEGMENT_PAGES_MAX + 1, ..good }).contains("size"));
    assert!(wrong(SegmentSpec { dirty_max: 0, ..good }).contains("dirty"));
    assert!(wrong(SegmentSpec { owner: NodeId(3), ..good }).contains("owner"));
    let twice = SegmentSpec { segment: SEGMENT, ..good };
    assert_eq!(refuse_event(&cluster, 0, Event::Open(twice)), Violation::OpenTwice { segment: SEGMENT });
    for segment in 0..SEGMENTS_MAX as u32 - 1 {
        let spec = SegmentSpec { segment: SegmentId(1000 + segment), ..good };
        cluster.step(0, 0, Event::Open(spec), None).expect("allowed");
    }
    let violation = refuse_event(&cluster, 0, Event::Open(good));
    assert_eq!(violation, Violation::TooManySegments { segment: SegmentId(8), limit: SEGMENTS_MAX });
}

#[test]
fn a_segment_in_use_is_not_closed() {
    let close = Event::Close { segment: SEGMENT };
    let why = |cluster: &Cluster<8>, at| match refuse_event(cluster, at, close) {
        Violation::InUse { why, .. } => why,
        other => panic!("{other}"),
    };
    let mut cluster = cluster();
    cluster.read(2, 0);
    cluster.write(1, 0, 0, 1);
    assert!(why(&cluster, 1).contains("unreleased"));
    cluster.release(0, 1, 1).expect("allowed");
    assert!(why(&cluster, 1).contains("release"));
    cluster.deliver(0, 1, 0).expect("allowed");
    assert!(why(&cluster, 0).contains("copies"));
    cluster.settle(0).expect("allowed");
    cluster.fault_at(0, 2, 1, Access::Read).expect("allowed");
    assert!(why(&cluster, 2).contains("exchange"));
    cluster.settle(0).expect("allowed");
    let transfer = Event::Transfer { segment: SEGMENT, to: NodeId(1) };
    cluster.step(0, 0, transfer, None).expect("allowed");
    assert!(why(&cluster, 0).contains("move"));
}

#[test]
fn senders_that_are_no_peers() {
    let mut cluster = cluster();
    for from in [0, 3, 255] {
        let expected = Violation::NoPeer { node: NodeId(from), nodes: 3 };
        assert_eq!(refuse(&cluster, 0, from, diff()), expected);
        assert_eq!(refuse_event(&cluster, 0, Event::Lost { node: NodeId(from) }), expected);
    }
    cluster.crash(2, |_| 0);
    cluster.settle(0).expect("allowed");
    let expected = Violation::NoPeer { node: NodeId(2), nodes: 3 };
    assert_eq!(refuse(&cluster, 0, 2, diff()), expected, "the dead say nothing");
}

#[test]
fn only_the_owner_is_asked_and_only_the_owner_answers() {
    let cluster = cluster();
    let (segment, page_index, term) = (SEGMENT, PAGE, Term(1));
    let to_owner = [
        Message::Fetch { segment, page: page_index },
        diff(),
        Message::Invalidated { segment, page: page_index },
        Message::Frozen { segment, term },
        Message::Taken { segment, page: page_index },
    ];
    for message in to_owner {
        let violation = refuse(&cluster, 1, 2, message);
        assert!(matches!(violation, Violation::NotOwner { owner: NodeId(0), .. }), "{violation}");
    }
    let from_owner = [
        page(),
        Message::Applied { segment, page: page_index },
        Message::Invalidate { segment, page: page_index },
        freeze(1, 1),
        hand(0, &[], true),
        Message::HandedOver { segment, term },
    ];
    for message in from_owner {
        let violation = refuse(&cluster, 1, 2, message);
        assert!(matches!(violation, Violation::NotFromOwner { owner: NodeId(0), .. }), "{violation}");
    }
}

#[test]
fn answers_to_nothing_and_orders_about_nothing() {
    let mut cluster = cluster();
    let unasked = |violation| assert!(matches!(violation, Violation::Unasked { .. }), "{violation}");
    unasked(refuse(&cluster, 1, 0, Message::Applied { segment: SEGMENT, page: PAGE }));
    unasked(refuse(&cluster, 0, 1, Message::Invalidated { segment: SEGMENT, page: PAGE }));
    is_unexpected(&refuse(&cluster, 1, 0, Message::Invalidate { segment: SEGMENT, page: PAGE }), "a copy");
    is_unexpected(&refuse(&cluster, 0, 1, Message::Taken { segment: SEGMENT, page: PAGE }), "handed over");
    unasked(refuse(&cluster, 1, 0, page()));
    cluster.read(1, 0);
    let fetch = Message::Fetch { segment: SEGMENT, page: PAGE };
    is_unexpected(&refuse(&cluster, 0, 1, fetch), "without a copy");
    unasked(refuse(&cluster, 0, 1, Message::Invalidated { segment: SEGMENT, page: PAGE }));
}

#[test]
fn a_second_difference_before_the_first_is_acknowledged() {
    let mut cluster = cluster();
    cluster.read(2, 0);
    cluster.write(1, 0, 0, 1);
    cluster.release(0, 1, 1).expect("allowed");
    cluster.deliver(0, 1, 0).expect("allowed");
    is_unexpected(&refuse(&cluster, 0, 1, diff()), "acknowledged");
    let unchanged = Message::Diff { segment: SEGMENT, page: PAGE, changed: false };
    is_unexpected(&refuse(&cluster, 0, 1, unchanged), "acknowledged");
}

#[test]
fn moves_of_the_ownership_that_cannot_be() {
    let mut cluster = cluster();
    let term = |violation| assert!(matches!(violation, Violation::WrongTerm { .. }), "{violation}");
    term(refuse(&cluster, 1, 0, freeze(2, 1)));
    term(refuse(&cluster, 1, 0, freeze(0, 1)));
    is_unexpected(&refuse(&cluster, 1, 0, freeze(1, 0)), "another node");
    term(refuse(&cluster, 1, 0, Message::Thaw { segment: SEGMENT, term: Term(0) }));
    term(refuse(&cluster, 1, 0, Message::HandedOver { segment: SEGMENT, term: Term(1) }));
    is_unexpected(&refuse(&cluster, 1, 0, hand(0, &[], true)), "only at the node");
    let transfer = Event::Transfer { segment: SEGMENT, to: NodeId(1) };
    cluster.step(0, 0, transfer, None).expect("allowed");
    is_unexpected(&refuse(&cluster, 0, 1, Message::Thaw { segment: SEGMENT, term: Term(1) }), "other nodes");
    cluster.deliver(0, 0, 2).expect("allowed");
    is_unexpected(&refuse(&cluster, 2, 0, freeze(2, 1)), "one move at a time");
    is_unexpected(
        &refuse(&cluster, 2, 0, Message::HandedOver { segment: SEGMENT, term: Term(1) }),
        "only at",
    );
    cluster.deliver(0, 0, 1).expect("allowed");
    is_unexpected(&refuse(&cluster, 1, 0, hand(0, &[1], true)), "copies of others");
    is_unexpected(&refuse(&cluster, 1, 0, hand(0, &[0], false)), "a copy");
    is_unexpected(&refuse(&cluster, 1, 2, Message::Thaw { segment: SEGMENT, term: Term(1) }), "owner");
    let fresh = self::cluster();
    let mut other = fresh.clone();
    other.fault_at(0, 2, 0, Access::Read).expect("allowed");
    other.step(0, 0, transfer, None).expect("allowed");
    other.deliver(0, 0, 2).expect("allowed");
    let thaw = Message::Thaw { segment: SEGMENT, term: Term(1) };
    is_unexpected(&refuse(&other, 2, 1, thaw), "owner");
}

#[test]
fn pages_are_handed_over_in_order() {
    let mut cluster = cluster();
    let transfer = Event::Transfer { segment: SEGMENT, to: NodeId(1) };
    cluster.step(0, 0, transfer, None).expect("allowed");
    cluster.deliver(0, 0, 1).expect("allowed");
    let event = |message| Event::Message { from: NodeId(0), message };
    cluster.step(0, 1, event(hand(1, &[0], true)), Some(&[1; 8])).expect("allowed");
    for page in [0, 1] {
        is_unexpected(&refuse(&cluster, 1, 0, hand(page, &[0], true)), "in order");
    }
}

#[test]
fn only_so_many_releases_at_a_time() {
    let mut cluster = cluster();
    cluster.write(1, 0, 0, 1);
    for ticket in 0..4096 {
        cluster.release(0, 1, ticket).expect("allowed");
    }
    let event = Event::Release { segment: SEGMENT, ticket: Ticket(1) };
    let expected = Violation::TooManyReleases { segment: SEGMENT, limit: 4096 };
    assert_eq!(refuse_event(&cluster, 1, event), expected);
    assert_eq!(cluster.settle(0).expect("allowed").len(), 4096);
}

/// Some message, about what there is more often than not.
fn some_message(random: &mut Random) -> Message {
    let segment = if random.percent(97) { SEGMENT } else { SegmentId(8) };
    let page = PageIndex(random.between(0, 2) as u32 + u32::from(random.percent(3)));
    let term = Term(random.between(0, 3) as u32);
    let flag = random.percent(50);
    let node = NodeId(random.between(0, 4) as u8);
    match random.between(0, 12) {
        0 => Message::Fetch { segment, page },
        1 => Message::Page { segment, page },
        2 => Message::Diff { segment, page, changed: flag },
        3 => Message::Applied { segment, page },
        4 => Message::Invalidate { segment, page },
        5 => Message::Invalidated { segment, page },
        6 => Message::Freeze { segment, term, to: node },
        7 => Message::Frozen { segment, term },
        8 => Message::Hand { segment, page, copies: nodes(&[node.0 % 4]), bytes: flag },
        9 => Message::Taken { segment, page },
        10 => Message::HandedOver { segment, term },
        11 => Message::Thaw { segment, term },
        _ if random.percent(5) => Message::Broken { segment },
        _ => Message::Fetch { segment, page },
    }
}

fn some_event(random: &mut Random) -> Event {
    let (segment, page) = (SEGMENT, PageIndex(random.between(0, 2) as u32));
    let to = NodeId(random.between(0, 4) as u8);
    match random.between(0, 99) {
        0..=39 => {
            let access = random.pick(&[Access::Read, Access::Write]);
            Event::Fault { segment, page, access, vcpu: VcpuIndex(0) }
        }
        40..=59 => Event::Release { segment, ticket: Ticket(0) },
        60..=69 => Event::Prefetch { segment, page },
        70..=72 => Event::Transfer { segment, to },
        73 => Event::Close { segment },
        74 => Event::Lost { node: to },
        _ => Event::Message { from: to, message: some_message(random) },
    }
}

/// A cluster in the middle of things.
fn some_cluster(random: &mut Random) -> Cluster<8> {
    let mut cluster = Cluster::new(&Shape { dirty_max: random.between(1, 3) as u32, ..Shape::new(4, 3) });
    for _ in 0..random.between(0, 150) {
        let at = random.next() as usize % 4;
        let page = random.between(0, 2) as u32;
        match random.between(0, 19) {
            0..=4 => drop(cluster.fault_at(0, at, page, random.pick(&[Access::Read, Access::Write]))),
            5..=6 => drop(cluster.release(0, at, 0)),
            7 => {
                let to = NodeId(random.between(0, 3) as u8);
                drop(cluster.step(0, at, Event::Transfer { segment: SEGMENT, to }, None));
            }
            _ => drop(cluster.deliver(0, at, random.next() as usize % 4).expect("allowed")),
        }
        for mapping in cluster.hosts.iter_mut().flat_map(|host| &mut host.mappings) {
            if mapping.allows(Access::Write) && random.percent(30) {
                mapping.bytes[at] = mapping.bytes[at].wrapping_add(1);
            }
        }
    }
    cluster
}

#[test]
fn whatever_a_peer_says_no_node_panics_or_changes_by_what_it_refuses() {
    let (mut refused, mut taken) = (0, 0);
    for seed in 0..3_000 {
        let mut random = Random::new(seed);
        let cluster = some_cluster(&mut random);
        let mut node = cluster.nodes[random.next() as usize % 4].clone();
        for _ in 0..60 {
            let event = some_event(&mut random);
            let before = node.clone();
            let mut actions = vec![];
            match node.handle(0, event, &mut actions) {
                Ok(()) => taken += 1,
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

#[test]
fn what_is_held_is_what_the_guest_may_do() {
    let rights = [Held::None, Held::Read, Held::Dirty, Held::Aside].map(Held::rights);
    assert_eq!(rights, [None, Some(Access::Read), Some(Access::Write), None]);
}
