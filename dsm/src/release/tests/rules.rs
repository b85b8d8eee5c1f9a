//! The rules one by one: who says and does what, in which order.

use super::cluster::{nodes, send, Cluster, Shape, SEGMENT};
use crate::ids::NodeId;
use crate::release::{
    Access, Action, Contents, Event, Held, Message, Outcome, PageIndex, SegmentId, SegmentSpec, Ticket,
};

use Access::{Read, Write};

const PAGE: PageIndex = PageIndex(0);
const NEXT: PageIndex = PageIndex(1);

/// A cluster whose steps give their actions; node 0 owns the segment.
struct Bench {
    cluster: Cluster<8>,
}

impl Bench {
    fn new(nodes: u8) -> Self {
        Bench { cluster: Cluster::new(&Shape::new(nodes, 4)) }
    }

    fn fault(&mut self, at: usize, page: PageIndex, access: Access) -> Vec<Action> {
        self.cluster.fault_at(0, at, page.0, access).expect("allowed");
        self.cluster.actions.clone()
    }

    fn release(&mut self, at: usize, ticket: u64) -> Vec<Action> {
        self.cluster.release(0, at, ticket).expect("allowed");
        self.cluster.actions.clone()
    }

    fn event(&mut self, at: usize, event: Event) -> Vec<Action> {
        self.cluster.step(0, at, event, None).expect("allowed");
        self.cluster.actions.clone()
    }

    /// Delivers one parcel.
    fn deliver(&mut self, from: usize, to: usize) -> Vec<Action> {
        let effects = self.cluster.deliver(0, from, to).expect("allowed");
        effects.expect("something is on its way");
        self.cluster.actions.clone()
    }

    fn settle(&mut self) -> Vec<u64> {
        self.cluster.settle(0).expect("allowed").into_iter().map(|Ticket(ticket)| ticket).collect()
    }

    fn write(&mut self, at: usize, byte: usize, value: u8) {
        self.cluster.write(at, PAGE.0, byte, value);
    }

    fn read(&mut self, at: usize) -> [u8; 8] {
        self.cluster.read(at, PAGE.0)
    }

    /// The nodes have read copies.
    fn share(&mut self, readers: &[usize]) {
        for &reader in readers {
            self.read(reader);
        }
    }

    fn held(&self, at: usize) -> Held {
        self.cluster.nodes[at].held(SEGMENT, PAGE)
    }

    fn quiet(&self) {
        self.cluster.check_quiet().expect("quiet");
    }
}

fn fetch(page: PageIndex) -> Message {
    Message::Fetch { segment: SEGMENT, page }
}

fn diff() -> Message {
    Message::Diff { segment: SEGMENT, page: PAGE, changed: true }
}

fn applied() -> Message {
    Message::Applied { segment: SEGMENT, page: PAGE }
}

fn invalidate() -> Message {
    Message::Invalidate { segment: SEGMENT, page: PAGE }
}

fn invalidated() -> Message {
    Message::Invalidated { segment: SEGMENT, page: PAGE }
}

fn install(rights: Access, contents: Contents) -> Action {
    Action::Install { segment: SEGMENT, page: PAGE, rights, contents }
}

fn released(ticket: u64) -> Action {
    Action::Released { segment: SEGMENT, ticket: Ticket(ticket), outcome: Outcome::Visible }
}

fn on_page(action: fn(SegmentId, PageIndex) -> Action) -> Action {
    action(SEGMENT, PAGE)
}

fn protect() -> Action {
    on_page(|segment, page| Action::Protect { segment, page })
}

fn settled() -> Action {
    on_page(|segment, page| Action::Settle { segment, page })
}

fn allow_writes() -> Action {
    on_page(|segment, page| Action::AllowWrites { segment, page })
}

fn discard() -> Action {
    on_page(|segment, page| Action::Discard { segment, page })
}

fn apply() -> Action {
    on_page(|segment, page| Action::Apply { segment, page })
}

#[test]
fn the_owner_touches_its_segment_without_a_message() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.fault(0, PAGE, Read), [install(Read, Contents::Zero)]);
    assert_eq!(bench.fault(0, PAGE, Write), [allow_writes()]);
    assert_eq!(bench.release(0, 1), [protect(), settled(), released(1)], "nobody has a copy");
    bench.quiet();
}

#[test]
fn a_reader_fetches_from_the_owner() {
    let mut bench = Bench::new(2);
    bench.write(0, 0, 5);
    bench.release(0, 1);
    assert_eq!(bench.fault(1, PAGE, Read), [send(0, fetch(PAGE))]);
    assert_eq!(bench.fault(1, PAGE, Read), [], "it joins");
    assert_eq!(bench.deliver(1, 0), [send(1, Message::Page { segment: SEGMENT, page: PAGE })]);
    assert_eq!(bench.deliver(0, 1), [install(Read, Contents::Received)]);
    let wake = Action::Wake { segment: SEGMENT, page: PAGE, rights: Read };
    assert_eq!(bench.fault(1, PAGE, Read), [wake], "a late report of the same fault");
    assert_eq!(bench.read(1)[0], 5);
    bench.quiet();
}

#[test]
fn a_page_that_nobody_wrote_reads_as_zeros_everywhere() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.read(1), [0; 8]);
    bench.write(2, 1, 3);
    assert_eq!(bench.held(0), Held::None, "the owner keeps nothing for it");
    bench.release(2, 1);
    bench.settle();
    assert_eq!(bench.held(0), Held::Read);
    assert_eq!(bench.read(1)[1], 3);
    bench.quiet();
}

#[test]
fn the_first_write_keeps_a_twin_and_sends_nothing() {
    let mut bench = Bench::new(2);
    bench.share(&[1]);
    assert_eq!(bench.fault(1, PAGE, Write), [allow_writes()]);
    bench.write(1, 0, 1);
    bench.write(1, 0, 2);
    bench.quiet();
    // Without a copy: one fetch, and the page comes writable.
    let mut bench = Bench::new(2);
    assert_eq!(bench.fault(1, PAGE, Write), [send(0, fetch(PAGE))]);
    bench.deliver(1, 0);
    assert_eq!(bench.deliver(0, 1), [install(Write, Contents::Received)]);
    bench.quiet();
}

#[test]
fn a_write_that_joins_a_read_comes_with_it() {
    let mut bench = Bench::new(2);
    bench.fault(1, PAGE, Read);
    assert_eq!(bench.fault(1, PAGE, Write), []);
    bench.deliver(1, 0);
    assert_eq!(bench.deliver(0, 1), [install(Write, Contents::Received)]);
}

#[test]
fn a_release_sends_the_differences_and_ends_when_the_owner_says_so() {
    let mut bench = Bench::new(2);
    bench.write(1, 3, 9);
    assert_eq!(bench.release(1, 4), [protect(), send(0, diff()), settled()]);
    assert_eq!(bench.held(1), Held::Read, "the copy stays");
    let zero = install(Read, Contents::Zero);
    assert_eq!(bench.deliver(1, 0), [zero, apply(), send(1, applied())]);
    assert_eq!(bench.deliver(0, 1), [released(4)]);
    assert_eq!(bench.read(0)[3], 9);
    bench.quiet();
}

#[test]
fn a_release_of_nothing_is_over_at_once() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.release(1, 1), [released(1)]);
    bench.share(&[1]);
    assert_eq!(bench.release(1, 2), [released(2)]);
    assert_eq!(bench.cluster.nodes[1].counters().releases_empty, 2);
}

#[test]
fn the_owner_answers_when_all_other_copies_are_gone() {
    let mut bench = Bench::new(4);
    bench.share(&[1, 2, 3]);
    bench.write(1, 0, 7);
    bench.release(1, 1);
    let zero = install(Read, Contents::Zero);
    assert_eq!(bench.deliver(1, 0), [zero, apply(), send(2, invalidate()), send(3, invalidate())]);
    assert_eq!(bench.deliver(0, 2), [discard(), send(0, invalidated())]);
    assert_eq!(bench.deliver(2, 0), [], "one is still there");
    bench.deliver(0, 3);
    assert_eq!(bench.deliver(3, 0), [send(1, applied())]);
    assert_eq!(bench.deliver(0, 1), [released(1)]);
    assert_eq!([bench.read(2)[0], bench.read(3)[0]], [7, 7]);
    bench.quiet();
}

#[test]
fn the_owner_releases_without_differences() {
    let mut bench = Bench::new(3);
    bench.share(&[0, 1, 2]);
    bench.write(0, 0, 7);
    assert_eq!(bench.release(0, 1), [protect(), settled(), send(1, invalidate()), send(2, invalidate())]);
    assert_eq!(bench.settle(), [1]);
    assert_eq!(bench.read(2)[0], 7);
    bench.quiet();
}

#[test]
fn nobody_reads_what_the_owner_has_not_released() {
    let mut bench = Bench::new(2);
    bench.write(0, 0, 7);
    assert_eq!(bench.read(1)[0], 0);
    bench.release(0, 1);
    bench.settle();
    assert_eq!(bench.read(1)[0], 7);
    bench.quiet();
}

#[test]
fn changes_of_an_invalidated_page_are_set_aside_and_made_again() {
    let mut bench = Bench::new(3);
    bench.write(1, 0, 1);
    bench.write(2, 1, 2);
    bench.release(1, 1);
    bench.deliver(1, 0);
    let set_aside = on_page(|segment, page| Action::SetAside { segment, page });
    assert_eq!(bench.deliver(0, 2), [protect(), set_aside, discard(), send(0, invalidated())]);
    assert_eq!(bench.settle(), [1]);
    assert_eq!(bench.fault(2, PAGE, Read), [send(0, fetch(PAGE))]);
    bench.deliver(2, 0);
    let merge = on_page(|segment, page| Action::Merge { segment, page });
    assert_eq!(bench.deliver(0, 2), [merge]);
    assert_eq!(bench.read(2)[..2], [1, 2], "both its own changes and the other's");
    assert_eq!(bench.read(0)[..2], [1, 0], "not released yet");
    bench.release(2, 2);
    assert_eq!(bench.settle(), [2]);
    assert_eq!(bench.read(1)[..2], [1, 2]);
    bench.quiet();
}

#[test]
fn changes_set_aside_are_released_without_fetching_the_page() {
    let mut bench = Bench::new(3);
    bench.write(1, 0, 1);
    bench.write(2, 1, 2);
    bench.release(1, 1);
    bench.settle();
    assert_eq!(bench.held(2), Held::Aside);
    assert_eq!(bench.release(2, 2), [send(0, diff()), settled()]);
    assert_eq!(bench.settle(), [2]);
    assert_eq!(bench.held(2), Held::None);
    assert_eq!(bench.read(1)[..2], [1, 2]);
    bench.quiet();
}

#[test]
fn a_release_waits_for_an_earlier_one_that_carried_its_writes() {
    let mut bench = Bench::new(3);
    bench.share(&[2]);
    bench.write(1, 0, 1);
    bench.release(1, 1);
    assert_eq!(bench.release(1, 2), [], "nothing is dirty any more, but node 2 still reads the old byte");
    assert_eq!(bench.settle(), [1, 2]);
    bench.quiet();
}

#[test]
fn a_page_has_one_difference_on_its_way_and_the_next_waits() {
    let mut bench = Bench::new(2);
    bench.write(1, 0, 1);
    bench.release(1, 1);
    assert_eq!(bench.fault(1, PAGE, Write), [allow_writes()]);
    bench.cluster.hosts[1].mappings[0].bytes[0] = 2;
    assert_eq!(bench.release(1, 2), []);
    bench.deliver(1, 0);
    assert_eq!(bench.deliver(0, 1), [protect(), send(0, diff()), settled(), released(1)]);
    assert_eq!(bench.settle(), [2]);
    assert_eq!(bench.read(0)[0], 2);
    bench.quiet();
}

#[test]
fn changes_wait_for_a_page_that_is_on_its_way() {
    let mut bench = Bench::new(3);
    bench.write(1, 0, 1);
    bench.write(2, 1, 2);
    bench.release(1, 1);
    bench.settle();
    bench.fault(2, PAGE, Read);
    assert_eq!(
        bench.release(2, 2),
        [],
        "the page that comes lacks the changes: they must not be gone by then"
    );
    bench.deliver(2, 0);
    let merge = on_page(|segment, page| Action::Merge { segment, page });
    assert_eq!(bench.deliver(0, 2), [merge, protect(), send(0, diff()), settled()]);
    assert_eq!(bench.settle(), [2]);
    assert_eq!(bench.read(0)[..2], [1, 2]);
    bench.quiet();
}

#[test]
fn copies_on_their_way_out_are_waited_for_by_every_later_release() {
    let mut bench = Bench::new(4);
    bench.share(&[3]);
    bench.write(1, 0, 1);
    bench.write(2, 1, 2);
    bench.release(1, 1);
    bench.release(2, 2);
    bench.deliver(1, 0);
    // Node 2's copy goes on node 1's account, and node 3's on both.
    assert_eq!(bench.deliver(2, 0), [apply(), send(1, invalidate())]);
    bench.deliver(0, 1);
    assert_eq!(bench.deliver(1, 0), [], "node 3 may still read what was before node 2's release");
    bench.deliver(0, 3);
    assert_eq!(bench.deliver(3, 0), [send(2, applied())]);
    assert_eq!(bench.settle(), [1, 2]);
    assert_eq!(bench.read(3)[..2], [1, 2]);
    bench.quiet();
}

#[test]
fn a_page_that_turns_out_unchanged_costs_nobody_a_copy() {
    let mut bench = Bench::new(3);
    bench.share(&[2]);
    bench.write(1, 0, 0);
    bench.release(1, 1);
    assert_eq!(bench.deliver(1, 0), [send(1, applied())]);
    assert_eq!(bench.settle(), [1]);
    assert_eq!(bench.held(2), Held::Read);
    bench.quiet();
}

#[test]
fn the_owners_own_changes_survive_others() {
    let mut bench = Bench::new(2);
    bench.write(0, 0, 1);
    bench.write(1, 1, 2);
    bench.release(1, 1);
    assert_eq!(bench.deliver(1, 0), [apply(), send(1, applied())]);
    assert_eq!(bench.read(0)[..2], [1, 2]);
    bench.settle();
    assert_eq!(bench.read(1)[..2], [0, 2], "released are only node 1's");
    bench.release(0, 2);
    bench.settle();
    assert_eq!(bench.read(1)[..2], [1, 2]);
    bench.quiet();
}

#[test]
fn a_node_with_too_many_twins_releases_by_itself() {
    let mut bench = Bench::new(2);
    bench.cluster = Cluster::new(&Shape { dirty_max: 2, ..Shape::new(2, 4) });
    bench.cluster.write(1, 0, 0, 1);
    bench.cluster.write(1, 1, 0, 1);
    bench.cluster.read(1, 2);
    let actions = bench.fault(1, PageIndex(2), Write);
    let allow = Action::AllowWrites { segment: SEGMENT, page: PageIndex(2) };
    assert_eq!(actions.last(), Some(&allow), "it need not wait: {actions:?}");
    assert_eq!(bench.cluster.nodes[1].dirty_pages(SEGMENT), 1);
    assert_eq!(bench.settle(), [0; 0], "nobody is told");
    assert_eq!([bench.cluster.read(0, 0)[0], bench.cluster.read(0, 1)[0]], [1, 1]);
    assert_eq!(bench.cluster.nodes[1].counters().relieved, 1);
    bench.quiet();
}

#[test]
fn a_writer_waits_for_room_while_all_twins_are_needed() {
    let mut bench = Bench::new(2);
    bench.cluster = Cluster::new(&Shape { dirty_max: 1, ..Shape::new(2, 4) });
    bench.write(1, 0, 1);
    bench.release(1, 1);
    bench.fault(1, PAGE, Write);
    bench.cluster.hosts[1].mappings[0].bytes[0] = 2;
    bench.fault(1, NEXT, Write);
    bench.settle();
    assert_eq!(bench.cluster.nodes[1].held(SEGMENT, NEXT), Held::Dirty);
    assert_eq!(bench.read(0)[0], 2, "what was in the way has been released");
    bench.quiet();
}

#[test]
fn a_page_is_fetched_ahead_of_the_vcpu_that_will_want_it() {
    let mut bench = Bench::new(2);
    bench.write(0, 0, 4);
    bench.release(0, 1);
    let prefetch = Event::Prefetch { segment: SEGMENT, page: PAGE };
    assert_eq!(bench.event(1, prefetch), [send(0, fetch(PAGE))]);
    assert_eq!(bench.event(1, prefetch), [], "it is asked for");
    assert_eq!(bench.fault(1, PAGE, Read), [], "the vCPU joins");
    bench.settle();
    assert_eq!(bench.event(1, prefetch), [], "it is here");
    assert_eq!(bench.event(0, prefetch), [], "the owner needs nothing");
    assert_eq!(bench.read(1)[0], 4);
    bench.quiet();
}

#[test]
fn a_lost_reader_holds_no_release_up() {
    let mut bench = Bench::new(4);
    bench.share(&[2, 3]);
    bench.write(1, 0, 1);
    bench.release(1, 1);
    bench.deliver(1, 0);
    bench.cluster.crash(2, |_| 0);
    bench.deliver(0, 3);
    bench.deliver(3, 0);
    assert_eq!(bench.deliver(2, 0), [send(1, applied())], "the loss is the last acknowledgement");
    assert_eq!(bench.settle(), [1]);
    bench.quiet();
}

#[test]
fn a_lost_writers_changes_are_in_the_page_or_not_and_its_round_still_counts() {
    // Lost before the difference arrived.
    let mut bench = Bench::new(3);
    bench.write(1, 0, 1);
    bench.write(1, 1, 1);
    bench.release(1, 1);
    bench.cluster.crash(1, |_| 0);
    bench.settle();
    assert_eq!(bench.read(0)[..2], [0, 0]);
    bench.quiet();
    // Lost before the acknowledgement: node 3 must still throw its copy away before node 2's release is over.
    let mut bench = Bench::new(4);
    bench.share(&[3]);
    bench.write(1, 0, 1);
    bench.write(2, 1, 2);
    bench.release(1, 1);
    bench.release(2, 2);
    bench.deliver(1, 0);
    bench.cluster.crash(1, |_| 0);
    bench.deliver(1, 0);
    assert_eq!(bench.deliver(2, 0), [apply()]);
    assert_eq!(bench.settle(), [2]);
    assert_eq!(bench.read(3)[..2], [1, 2]);
    bench.quiet();
}

#[test]
fn a_segment_is_lost_with_its_owner() {
    let mut bench = Bench::new(3);
    bench.write(1, 0, 1);
    bench.release(1, 1);
    bench.fault(2, NEXT, Read);
    bench.cluster.crash(0, |_| 0);
    let broken = Action::Broken { segment: SEGMENT };
    let ticket =
        |ticket| Action::Released { segment: SEGMENT, ticket: Ticket(ticket), outcome: Outcome::Broken };
    let told = send(2, Message::Broken { segment: SEGMENT });
    assert_eq!(bench.deliver(0, 1), [told, broken, ticket(1)]);
    assert_eq!(bench.deliver(1, 2), [broken]);
    assert_eq!(bench.deliver(0, 2), [], "it knows");
    assert_eq!(bench.fault(2, NEXT, Read), [broken]);
    assert_eq!(bench.release(2, 5), [ticket(5)]);
    bench.quiet();
}

#[test]
fn segments_do_not_touch_each_other() {
    let mut bench = Bench::new(2);
    let other = SegmentSpec { segment: SegmentId(8), pages: 1, owner: NodeId(1), dirty_max: 8 };
    for at in 0..2 {
        bench.event(at, Event::Open(other));
    }
    bench.write(1, 0, 1);
    let release = Event::Release { segment: SegmentId(8), ticket: Ticket(9) };
    let done = Action::Released { segment: SegmentId(8), ticket: Ticket(9), outcome: Outcome::Visible };
    assert_eq!(bench.event(1, release), [done]);
    assert_eq!(bench.cluster.nodes[1].dirty_pages(SEGMENT), 1, "a release is of one segment");
    assert_eq!(bench.cluster.nodes[0].owner(SegmentId(8)), Some(NodeId(1)));
    bench.event(0, Event::Close { segment: SegmentId(8) });
    assert_eq!(bench.cluster.nodes[0].owner(SegmentId(8)), None);
}

#[test]
fn the_copies_that_an_owner_lists_are_those_that_are_there() {
    let mut bench = Bench::new(4);
    bench.share(&[1, 2, 3]);
    let crate::release::segment::Role::Owner(served) = &bench.cluster.segment(0).role else { panic!() };
    assert_eq!(served.copies[0], nodes(&[1, 2, 3]));
}
