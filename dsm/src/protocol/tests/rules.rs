//! The rules one by one: who says and does what, in which order.

use super::cluster::{Cluster, Shape};
use crate::ids::{Extent, Gfn, NodeId};
use crate::protocol::{
    Access, Action, Contents, Event, MergePolicy, Message, Micros, MigratoryPolicy, Rights, Turn, Txn,
};

use Access::{Read, Write};

const PAGE: Gfn = Gfn(0);
const NEIGHBOUR: Gfn = Gfn(1);

/// A cluster whose steps give their actions. All pages lie in extents with the homes given.
struct Bench {
    cluster: Cluster,
    now: Micros,
}

impl Bench {
    fn new(nodes: u8, homes: &[u8]) -> Self {
        Bench::with(&Shape::new(nodes, homes, 4))
    }

    fn with(shape: &Shape) -> Self {
        Bench { cluster: Cluster::new(shape), now: 1_000_000 }
    }

    fn event(&mut self, at: usize, event: Event) -> Vec<Action> {
        self.cluster.step(self.now, at, event, None).expect("allowed");
        self.cluster.actions.clone()
    }

    fn fault(&mut self, at: usize, gfn: Gfn, access: Access) -> Vec<Action> {
        self.event(at, Event::Fault { gfn, access })
    }

    fn borrow(&mut self, at: usize, gfn: Gfn, access: Access) -> Vec<Action> {
        self.event(at, Event::Borrow { gfn, access })
    }

    fn give_back(&mut self, at: usize, gfn: Gfn, access: Access) -> Vec<Action> {
        let index = self.cluster.pages.index(gfn).expect("a page of the test's");
        let mapping = &mut self.cluster.hosts[at].mappings[index];
        match access {
            Read => mapping.lent_read -= 1,
            Write => mapping.lent_write -= 1,
        }
        self.event(at, Event::Return { gfn })
    }

    /// Delivers one message.
    fn deliver(&mut self, from: usize, to: usize) -> Vec<Action> {
        let effects = self.cluster.deliver(self.now, from, to).expect("allowed");
        effects.expect("a message is on its way");
        self.cluster.actions.clone()
    }

    fn settle(&mut self) {
        self.cluster.settle(self.now).expect("allowed");
    }

    /// Makes `node` the page's owner or a reader, with everything done.
    fn make(&mut self, node: usize, gfn: Gfn, access: Access) {
        self.fault(node, gfn, access);
        self.settle();
        assert!(self.rights(node, gfn).allow(access));
    }

    /// Node `first` touches the page first, then `readers` read it.
    fn share(&mut self, first: usize, readers: &[usize], gfn: Gfn) {
        self.make(first, gfn, Write);
        readers.iter().for_each(|&reader| self.make(reader, gfn, Read));
    }

    fn rights(&self, node: usize, gfn: Gfn) -> Rights {
        self.cluster.nodes[node].rights(gfn)
    }

    fn quiet(&self) {
        self.cluster.check_quiet().expect("quiet");
    }

    fn txn(&self, home: usize, gfn: Gfn) -> Txn {
        self.cluster.nodes[home].directory.transaction(gfn).expect("under way").txn
    }
}

fn send(to: u8, message: Message) -> Action {
    Action::Send { to: NodeId(to), message }
}

fn request(gfn: Gfn, access: Access, held: bool) -> Message {
    Message::Request { gfn, access, held, turn: Turn(0) }
}

fn recall(gfn: Gfn, txn: Txn, requester: u8, access: Access, acks: u8) -> Message {
    Message::Recall { gfn, txn, requester: NodeId(requester), turn: Turn(0), access, acks }
}

fn invalidate(gfn: Gfn, txn: Txn, requester: u8) -> Message {
    Message::Invalidate { gfn, txn, requester: NodeId(requester), turn: Turn(0) }
}

fn grant(gfn: Gfn, txn: Txn, rights: Access, page: bool, acks: u8) -> Message {
    Message::Grant { gfn, txn, rights, page, acks }
}

fn install(gfn: Gfn, rights: Access, wake: bool) -> Action {
    Action::Install { gfn, rights, contents: Contents::Received, wake }
}

#[test]
fn the_home_touches_its_own_extent_without_a_message() {
    let mut bench = Bench::new(2, &[0]);
    assert_eq!(bench.fault(0, NEIGHBOUR, Read), [Action::OwnExtent { extent: Extent(0) }]);
    assert_eq!(bench.cluster.nodes[0].counters().first_touches_local, 1);
    assert_eq!(bench.cluster.nodes[0].holdings().whole_extents, 1);
    bench.quiet();
}

#[test]
fn another_node_gets_an_untouched_extent_for_two_messages() {
    let mut bench = Bench::new(2, &[0]);
    assert_eq!(bench.fault(1, PAGE, Read), [send(0, request(PAGE, Read, false))]);
    assert_eq!(bench.deliver(1, 0), [send(1, Message::GrantExtent { gfn: PAGE, txn: Txn(0) })]);
    assert_eq!(bench.deliver(0, 1), [Action::OwnExtent { extent: Extent(0) }]);
    assert_eq!(bench.cluster.nodes[1].counters().first_touches_remote, 1);
    bench.quiet();
}

#[test]
fn a_preloaded_extent_belongs_to_its_home_from_the_start() {
    let mut shape = Shape::new(2, &[0, 0, 1], 4);
    shape.preloaded = vec![(Gfn(100), 1), (Gfn(511), 2)];
    let mut bench = Bench::with(&shape);
    let whole = |node: usize| bench.cluster.nodes[node].whole_extents().collect::<Vec<_>>();
    assert_eq!(whole(0), [Extent(0), Extent(1)]);
    assert_eq!(whole(1), []);
    bench.quiet();
    bench.make(1, Gfn(512), Write);
    assert_eq!(bench.rights(0, Gfn(512)), Rights::None);
    assert_eq!(bench.rights(0, Gfn(513)), Rights::Write);
    bench.quiet();
}

#[test]
fn the_first_conflict_splits_an_extent_and_moves_one_page() {
    let mut bench = Bench::new(3, &[0]);
    bench.make(2, PAGE, Write);
    bench.fault(1, PAGE, Write);
    assert_eq!(bench.deliver(1, 0), [send(2, recall(PAGE, Txn(1), 1, Write, 0))]);
    let given = [
        Action::SplitExtent { extent: Extent(0) },
        Action::Protect { gfn: PAGE },
        send(1, grant(PAGE, Txn(1), Write, true, 0)),
        Action::Discard { gfn: PAGE },
    ];
    assert_eq!(bench.deliver(0, 2), given);
    let done = Message::Done { gfn: PAGE, txn: Txn(1) };
    assert_eq!(bench.deliver(2, 1), [install(PAGE, Write, true), send(0, done)]);
    bench.settle();
    bench.quiet();
    let counters = bench.cluster.nodes[2].counters();
    assert_eq!((counters.splits, counters.recalls), (1, 1));
    let holdings = bench.cluster.nodes[2].holdings();
    assert_eq!((holdings.whole_extents, holdings.writable_pages), (0, 511));
    // The rest of the extent stays where it is, and nothing splits twice.
    assert_eq!(bench.fault(2, NEIGHBOUR, Write), [Action::Wake { gfn: NEIGHBOUR, rights: Write }]);
    bench.make(1, NEIGHBOUR, Write);
    assert_eq!(bench.cluster.nodes[2].counters().splits, 1);
}

#[test]
fn the_home_knows_which_pages_only_one_node_has() {
    let mut bench = Bench::new(3, &[0]);
    let only_at = |bench: &Bench, node: u8| bench.cluster.nodes[0].pages_only_at(NodeId(node));
    assert_eq!([only_at(&bench, 0), only_at(&bench, 1)], [0, 0], "nobody has touched anything");
    bench.fault(1, PAGE, Write);
    bench.settle();
    assert_eq!([only_at(&bench, 0), only_at(&bench, 1)], [0, 512], "the extent as a whole");
    bench.fault(2, PAGE, Read);
    bench.settle();
    assert_eq!([1, 2].map(|node| only_at(&bench, node)), [511, 0], "one page is shared");
    bench.fault(2, PAGE, Write);
    bench.settle();
    assert_eq!([0, 1, 2].map(|node| only_at(&bench, node)), [0, 511, 1]);
    assert_eq!(bench.cluster.nodes[1].pages_only_at(NodeId(2)), 0, "not its home");
}

#[test]
fn a_read_leaves_the_owner_a_read_copy() {
    let mut bench = Bench::new(3, &[0]);
    bench.make(1, NEIGHBOUR, Write);
    bench.make(2, NEIGHBOUR, Write);
    bench.fault(0, NEIGHBOUR, Read);
    let txn = bench.txn(0, NEIGHBOUR);
    assert_eq!(
        bench.deliver(0, 2),
        [Action::Protect { gfn: NEIGHBOUR }, send(0, grant(NEIGHBOUR, txn, Read, true, 0))]
    );
    assert_eq!(bench.deliver(2, 0), [install(NEIGHBOUR, Read, true)]);
    assert_eq!((bench.rights(0, NEIGHBOUR), bench.rights(2, NEIGHBOUR)), (Rights::Read, Rights::Read));
    assert_eq!(bench.cluster.nodes[0].counters().remote_reads, 1);
    bench.quiet();
}

/// Node 0 is the home; the page has been handed over from node 1 to node 2 by a read and an upgrade.
fn migratory() -> Bench {
    let mut shape = Shape::new(4, &[0], 4);
    shape.habits.migratory = Some(MigratoryPolicy { after: 1, probe_every: 3 });
    let mut bench = Bench::with(&shape);
    bench.make(1, PAGE, Write);
    bench.make(2, PAGE, Read);
    bench.make(2, PAGE, Write);
    bench
}

#[test]
fn a_reader_of_a_page_that_migrates_gets_it_to_write() {
    let mut bench = migratory();
    bench.fault(3, PAGE, Read);
    let given = bench.deliver(3, 0);
    let txn = bench.txn(0, PAGE);
    assert_eq!(given, [send(2, recall(PAGE, txn, 3, Write, 0))]);
    let grant = grant(PAGE, txn, Write, true, 0);
    let given = bench.deliver(0, 2);
    assert_eq!(given, [Action::Protect { gfn: PAGE }, send(3, grant), Action::Discard { gfn: PAGE }]);
    let done = send(0, Message::Done { gfn: PAGE, txn });
    assert_eq!(bench.deliver(2, 3), [install(PAGE, Write, true), done]);
    bench.settle();
    assert_eq!(bench.cluster.nodes[0].counters().reads_given_to_write, 1);
    // A second guess, and then a probe, which finds that node 2 only reads.
    bench.make(1, PAGE, Read);
    assert_eq!(bench.rights(1, PAGE), Rights::Write);
    bench.make(2, PAGE, Read);
    assert_eq!([1, 2].map(|node| bench.rights(node, PAGE)), [Rights::Read; 2]);
    bench.make(3, PAGE, Read);
    bench.make(1, PAGE, Write);
    bench.make(2, PAGE, Read);
    assert_eq!([1, 2].map(|node| bench.rights(node, PAGE)), [Rights::Read; 2], "no guess any more");
    bench.quiet();
}

#[test]
fn a_write_that_joins_a_read_of_a_page_that_migrates_has_been_served_by_it() {
    let mut bench = migratory();
    bench.fault(3, PAGE, Read);
    assert_eq!(bench.fault(3, PAGE, Write), []);
    assert_eq!(bench.borrow(3, PAGE, Write), []);
    bench.deliver(3, 0);
    bench.deliver(0, 2);
    let answered = bench.deliver(2, 3);
    assert_eq!(answered[0], install(PAGE, Write, true));
    assert_eq!(answered[2..], [Action::Lend { gfn: PAGE, access: Write }]);
    bench.settle();
    bench.give_back(3, PAGE, Write);
    bench.quiet();
}

/// Node 0 is the home; node 1 touched the extent first, lost a page to node 2 and has it back. 100 us of quiet make an
/// extent whole again.
fn come_back() -> Bench {
    let mut shape = Shape::new(3, &[0], 4);
    shape.habits.merge = Some(MergePolicy { quiet_us: 100 });
    let mut bench = Bench::with(&shape);
    bench.make(1, PAGE, Write);
    bench.make(2, PAGE, Write);
    bench.make(1, PAGE, Write);
    bench
}

#[test]
fn an_extent_whose_pages_have_all_come_back_is_whole_again_after_a_quiet_time() {
    let mut bench = come_back();
    let began = bench.now;
    assert_eq!(bench.cluster.nodes[0].next_deadline(), Some(began + 100));
    bench.now = began + 99;
    assert_eq!(bench.event(0, Event::Tick), []);
    bench.now = began + 100;
    let told = bench.event(0, Event::Tick);
    let [Action::Send { to: NodeId(1), message: Message::Merge { gfn: PAGE, .. } }] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(bench.deliver(0, 1), [Action::OwnExtent { extent: Extent(0) }]);
    assert_eq!(bench.cluster.nodes[0].next_deadline(), None);
    assert_eq!(bench.cluster.nodes[1].counters().merges, 1);
    let holdings = bench.cluster.nodes[1].holdings();
    assert_eq!((holdings.whole_extents, holdings.writable_pages), (1, 0));
    bench.quiet();
    // The next conflict splits it again, and the next quiet time is twice as long.
    bench.make(2, NEIGHBOUR, Read);
    assert_eq!(bench.cluster.nodes[1].counters().splits, 2);
    bench.make(1, NEIGHBOUR, Write);
    bench.now += 100;
    assert_eq!(bench.event(0, Event::Tick), []);
    bench.now += 100;
    assert_eq!(bench.event(0, Event::Tick).len(), 1);
    bench.settle();
    bench.quiet();
}

#[test]
fn a_request_in_the_quiet_time_begins_it_anew_and_one_behind_the_merge_splits_the_extent() {
    let mut bench = come_back();
    bench.now += 50;
    bench.make(2, PAGE, Read);
    bench.now += 50;
    assert_eq!(bench.event(0, Event::Tick), [], "node 2 has a copy");
    assert_eq!(bench.cluster.nodes[0].next_deadline(), None);
    bench.make(1, PAGE, Write);
    bench.now += 100;
    assert_eq!(bench.event(0, Event::Tick).len(), 1);
    bench.fault(2, PAGE, Write);
    assert_eq!(bench.deliver(2, 0).len(), 1, "the recall follows the merge");
    assert_eq!(bench.deliver(0, 1), [Action::OwnExtent { extent: Extent(0) }]);
    assert_eq!(bench.deliver(0, 1)[0], Action::SplitExtent { extent: Extent(0) });
    bench.settle();
    bench.quiet();
}

#[test]
fn an_extent_stays_split_while_one_page_is_shared_or_another_nodes() {
    let mut bench = come_back();
    bench.make(2, NEIGHBOUR, Read);
    bench.now += 1_000;
    assert_eq!(bench.event(0, Event::Tick), []);
    bench.make(2, NEIGHBOUR, Write);
    bench.now += 1_000;
    assert_eq!(bench.event(0, Event::Tick), []);
    assert_eq!(bench.cluster.nodes[0].next_deadline(), None, "nothing is looked at for nothing");
    bench.quiet();
}

#[test]
fn a_page_that_is_lent_does_not_keep_an_extent_apart_and_stays_lent() {
    let mut bench = come_back();
    bench.borrow(1, PAGE, Write);
    bench.now += 100;
    bench.event(0, Event::Tick);
    bench.settle();
    bench.fault(2, PAGE, Read);
    bench.settle();
    assert_eq!(bench.rights(2, PAGE), Rights::None);
    bench.give_back(1, PAGE, Write);
    bench.settle();
    assert_eq!(bench.rights(2, PAGE), Rights::Read);
    bench.quiet();
}

#[test]
fn few_extents_are_looked_at_in_one_tick() {
    let mut shape = Shape::new(2, &[0; 20], 1);
    shape.habits.merge = Some(MergePolicy { quiet_us: 100 });
    let mut bench = Bench::with(&shape);
    for extent in 0..20 {
        let page = Extent(extent).first();
        [1, 0, 1].into_iter().for_each(|node| bench.make(node, page, Write));
    }
    bench.now += 100;
    let mut merged = vec![];
    while bench.cluster.nodes[0].next_deadline().is_some() {
        merged.push(bench.event(0, Event::Tick).len());
        bench.now += 1;
    }
    assert_eq!(merged, [8, 8, 4]);
    bench.settle();
    bench.quiet();
}

#[test]
fn a_second_reader_is_served_by_the_home_if_it_has_a_copy() {
    let mut bench = Bench::new(4, &[0]);
    bench.share(1, &[0], PAGE);
    bench.fault(2, PAGE, Read);
    let txn = Txn(2);
    assert_eq!(bench.deliver(2, 0), [send(2, grant(PAGE, txn, Read, true, 0))]);
    bench.settle();
    bench.quiet();
}

#[test]
fn a_second_reader_is_served_by_a_sharer_if_the_home_has_no_copy() {
    let mut bench = Bench::new(4, &[0]);
    bench.share(2, &[1], PAGE);
    bench.fault(3, PAGE, Read);
    let txn = Txn(2);
    assert_eq!(bench.deliver(3, 0), [send(1, recall(PAGE, txn, 3, Read, 0))]);
    // A read copy stays as it is.
    assert_eq!(bench.deliver(0, 1), [send(3, grant(PAGE, txn, Read, true, 0))]);
    bench.settle();
    bench.quiet();
}

#[test]
fn a_write_takes_every_copy_and_all_acknowledgements_before_it_is_allowed() {
    let mut bench = Bench::new(5, &[0]);
    bench.share(1, &[2, 3], PAGE);
    bench.fault(4, PAGE, Write);
    let txn = Txn(3);
    let told = [
        send(1, recall(PAGE, txn, 4, Write, 2)),
        send(2, invalidate(PAGE, txn, 4)),
        send(3, invalidate(PAGE, txn, 4)),
    ];
    assert_eq!(bench.deliver(4, 0), told);
    let given = [send(4, grant(PAGE, txn, Write, true, 2)), Action::Discard { gfn: PAGE }];
    assert_eq!(bench.deliver(0, 1), given);
    let gone = Message::Invalidated { gfn: PAGE, txn };
    assert_eq!(bench.deliver(0, 2), [Action::Discard { gfn: PAGE }, send(4, gone)]);
    assert_eq!(bench.deliver(0, 3), [Action::Discard { gfn: PAGE }, send(4, gone)]);
    // One acknowledgement before the grant, one after.
    assert_eq!(bench.deliver(2, 4), []);
    assert_eq!(bench.deliver(1, 4), [install(PAGE, Read, false)], "readable, but nobody is woken");
    assert_eq!(bench.rights(4, PAGE), Rights::Read);
    assert_eq!(bench.fault(4, PAGE, Read), [Action::Wake { gfn: PAGE, rights: Read }]);
    assert_eq!(bench.fault(4, PAGE, Write), [], "still waits");
    let done = Message::Done { gfn: PAGE, txn };
    assert_eq!(bench.deliver(3, 4), [Action::Unprotect { gfn: PAGE }, send(0, done)]);
    bench.settle();
    bench.quiet();
    assert_eq!(bench.cluster.nodes[4].counters().remote_writes, 1);
    assert_eq!(bench.cluster.nodes[2].counters().invalidations, 1);
}

#[test]
fn when_the_last_acknowledgement_is_there_first_the_grant_installs_for_writing() {
    let mut bench = Bench::new(4, &[0]);
    bench.share(1, &[2], PAGE);
    bench.fault(3, PAGE, Write);
    bench.deliver(3, 0);
    bench.deliver(0, 2);
    assert_eq!(bench.deliver(2, 3), []);
    bench.deliver(0, 1);
    let done = Message::Done { gfn: PAGE, txn: Txn(2) };
    assert_eq!(bench.deliver(1, 3), [install(PAGE, Write, true), send(0, done)]);
    bench.settle();
    bench.quiet();
}

#[test]
fn an_upgrade_moves_no_page() {
    let mut bench = Bench::new(4, &[0]);
    bench.share(1, &[2, 3], PAGE);
    assert_eq!(bench.fault(2, PAGE, Write), [send(0, request(PAGE, Write, true))]);
    let txn = Txn(3);
    let told = [
        send(2, grant(PAGE, txn, Write, false, 2)),
        send(1, invalidate(PAGE, txn, 2)),
        send(3, invalidate(PAGE, txn, 2)),
    ];
    assert_eq!(bench.deliver(2, 0), told);
    assert_eq!(bench.deliver(0, 2), []);
    bench.deliver(0, 1);
    bench.deliver(0, 3);
    assert_eq!(bench.deliver(1, 2), []);
    let done = Message::Done { gfn: PAGE, txn };
    assert_eq!(bench.deliver(3, 2), [Action::Unprotect { gfn: PAGE }, send(0, done)]);
    bench.settle();
    bench.quiet();
    assert_eq!(bench.cluster.nodes[2].counters().upgrades, 1);
}

#[test]
fn an_upgrade_that_comes_second_gets_the_page() {
    let mut bench = Bench::new(4, &[0]);
    bench.share(1, &[2], PAGE);
    bench.fault(1, PAGE, Write);
    bench.fault(2, PAGE, Write);
    bench.deliver(1, 0);
    assert_eq!(bench.deliver(2, 0), [], "waits at the home");
    bench.settle();
    bench.quiet();
    assert_eq!((bench.rights(1, PAGE), bench.rights(2, PAGE)), (Rights::None, Rights::Write));
    let counters = bench.cluster.nodes[2].counters();
    assert_eq!((counters.upgrades, counters.remote_writes), (0, 1));
}

#[test]
fn the_home_as_requester_and_as_sharer_tells_itself_nothing_over_a_link() {
    let mut bench = Bench::new(3, &[0]);
    bench.share(1, &[2, 0], PAGE);
    // The home upgrades its own copy.
    let txn = Txn(3);
    let told = [send(1, invalidate(PAGE, txn, 0)), send(2, invalidate(PAGE, txn, 0))];
    assert_eq!(bench.fault(0, PAGE, Write), told);
    bench.settle();
    bench.quiet();
    assert_eq!(bench.rights(0, PAGE), Rights::Write);
    // The home is the owner and gives up.
    bench.fault(2, PAGE, Write);
    let given = [
        Action::Protect { gfn: PAGE },
        send(2, grant(PAGE, Txn(4), Write, true, 0)),
        Action::Discard { gfn: PAGE },
    ];
    assert_eq!(bench.deliver(2, 0), given);
    bench.settle();
    // The home is one of the sharers of an upgrade.
    bench.make(0, PAGE, Read);
    bench.fault(2, PAGE, Write);
    let given = [
        send(2, grant(PAGE, Txn(6), Write, false, 1)),
        Action::Discard { gfn: PAGE },
        send(2, Message::Invalidated { gfn: PAGE, txn: Txn(6) }),
    ];
    assert_eq!(bench.deliver(2, 0), given);
    bench.settle();
    bench.quiet();
}

#[test]
fn faults_join_the_request_that_is_out() {
    let mut bench = Bench::new(2, &[0]);
    bench.make(0, PAGE, Write);
    assert_eq!(bench.fault(1, PAGE, Write).len(), 1);
    assert_eq!(bench.fault(1, PAGE, Write), []);
    assert_eq!(bench.fault(1, PAGE, Read), []);
    assert_eq!(bench.cluster.nodes[1].counters().joined, 2);
    bench.settle();
    bench.quiet();
}

#[test]
fn a_write_that_joins_a_read_is_asked_for_after_it() {
    let mut bench = Bench::new(2, &[0]);
    bench.make(0, PAGE, Write);
    bench.fault(1, PAGE, Read);
    assert_eq!(bench.fault(1, PAGE, Write), []);
    bench.deliver(1, 0);
    let done = Message::Done { gfn: PAGE, txn: Txn(1) };
    let then = [install(PAGE, Read, true), send(0, done), send(0, request(PAGE, Write, true))];
    assert_eq!(bench.deliver(0, 1), then);
    bench.settle();
    bench.quiet();
    assert_eq!(bench.rights(1, PAGE), Rights::Write);
}

#[test]
fn a_fault_on_what_is_there_wakes_with_the_rights_that_are_there() {
    let mut bench = Bench::new(2, &[0]);
    bench.share(0, &[1], PAGE);
    assert_eq!(bench.fault(1, PAGE, Read), [Action::Wake { gfn: PAGE, rights: Read }]);
    assert_eq!(bench.fault(0, NEIGHBOUR, Read), [Action::Wake { gfn: NEIGHBOUR, rights: Write }]);
    assert_eq!(bench.cluster.nodes[1].counters().spurious, 1);
}

#[test]
fn requests_that_an_extent_grant_overtakes_are_answered_without_a_transaction() {
    let mut bench = Bench::new(2, &[0]);
    bench.fault(1, PAGE, Read);
    bench.fault(1, NEIGHBOUR, Write);
    bench.deliver(1, 0);
    assert_eq!(bench.deliver(1, 0), [send(1, Message::AlreadyYours { gfn: NEIGHBOUR })]);
    assert_eq!(bench.deliver(0, 1), [Action::OwnExtent { extent: Extent(0) }]);
    assert_eq!(bench.deliver(0, 1), [Action::Wake { gfn: NEIGHBOUR, rights: Write }]);
    assert_eq!(bench.cluster.nodes[1].counters().overtaken, 1);
    bench.quiet();
}

#[test]
fn an_overtaken_request_whose_page_has_moved_on_is_served_as_any_other() {
    let mut bench = Bench::new(3, &[0]);
    bench.fault(1, PAGE, Read);
    bench.fault(1, NEIGHBOUR, Write);
    bench.deliver(1, 0);
    bench.fault(2, NEIGHBOUR, Write);
    bench.deliver(2, 0);
    bench.deliver(0, 1);
    bench.deliver(0, 1);
    assert_eq!(bench.deliver(1, 0), [], "waits behind node 2");
    assert_eq!(bench.rights(1, NEIGHBOUR), Rights::None);
    bench.settle();
    bench.quiet();
    assert_eq!(bench.rights(1, NEIGHBOUR), Rights::Write);
}

#[test]
fn an_overtaken_read_that_became_a_shared_copy_is_answered_at_once() {
    let mut bench = Bench::new(3, &[0]);
    bench.fault(1, PAGE, Read);
    bench.fault(1, NEIGHBOUR, Read);
    bench.deliver(1, 0);
    bench.deliver(0, 1);
    bench.fault(2, NEIGHBOUR, Read);
    bench.deliver(2, 0);
    bench.deliver(0, 1);
    bench.deliver(1, 2);
    bench.deliver(2, 0);
    assert_eq!(bench.rights(1, NEIGHBOUR), Rights::Read);
    assert_eq!(bench.deliver(1, 0), [send(1, Message::AlreadyYours { gfn: NEIGHBOUR })]);
    assert_eq!(bench.deliver(0, 1), [Action::Wake { gfn: NEIGHBOUR, rights: Read }]);
    bench.quiet();
}

#[test]
fn a_write_that_joined_an_overtaken_read_has_been_served_by_the_extent() {
    let mut bench = Bench::new(3, &[0]);
    bench.fault(1, PAGE, Read);
    bench.fault(1, NEIGHBOUR, Read);
    bench.fault(1, NEIGHBOUR, Write);
    bench.deliver(1, 0);
    bench.deliver(0, 1);
    bench.fault(2, NEIGHBOUR, Read);
    bench.deliver(2, 0);
    bench.deliver(0, 1);
    bench.deliver(1, 2);
    bench.deliver(2, 0);
    bench.deliver(1, 0);
    // Not followed by a request to write, which nobody waits for any more.
    assert_eq!(bench.deliver(0, 1), [Action::Wake { gfn: NEIGHBOUR, rights: Read }]);
    bench.quiet();
}

#[test]
fn waiting_requests_are_served_first_come_first_served_within_one_turn() {
    let mut bench = Bench::new(5, &[0]);
    bench.make(0, PAGE, Write);
    for node in [3, 1, 4, 2] {
        bench.fault(node, PAGE, Write);
        bench.deliver(node, 0);
    }
    assert_eq!(bench.cluster.nodes[0].counters().queued, 3);
    let mut served = vec![];
    for _ in 0..4 {
        let owner = (1..5).find(|&node| bench.txn(0, PAGE) == latest_requester(&bench, node));
        served.push(owner.expect("someone is served"));
        finish_one(&mut bench);
    }
    assert_eq!(served, [3, 1, 4, 2]);
    bench.quiet();
}

fn latest_requester(bench: &Bench, node: usize) -> Txn {
    let transaction = bench.cluster.nodes[0].directory.transaction(PAGE).expect("under way");
    if transaction.requester == NodeId(node as u8) {
        transaction.txn
    } else {
        Txn(u32::MAX)
    }
}

/// Delivers until the present transaction is done.
fn finish_one(bench: &mut Bench) {
    let txn = bench.txn(0, PAGE);
    let under_way =
        |bench: &Bench| bench.cluster.nodes[0].directory.transaction(PAGE).map(|t| t.txn) == Some(txn);
    while under_way(bench) {
        let link = bench.cluster.links.iter().position(|link| !link.is_empty()).expect("a message");
        bench.deliver(link / 5, link % 5);
    }
}

#[test]
fn a_borrow_of_a_page_that_is_here_is_lent_at_once_and_keeps_it() {
    let mut bench = Bench::new(2, &[0]);
    bench.make(0, PAGE, Write);
    let lend = |access| Action::Lend { gfn: PAGE, access };
    assert_eq!(bench.borrow(0, PAGE, Write), [lend(Write)]);
    assert_eq!(bench.borrow(0, PAGE, Read), [lend(Read)]);
    bench.fault(1, PAGE, Read);
    assert_eq!(bench.deliver(1, 0), [], "lent twice");
    assert_eq!(bench.cluster.nodes[0].next_deadline(), None, "no time will help");
    assert_eq!(bench.cluster.nodes[0].counters().lend_deferrals, 1);
    assert_eq!(bench.event(0, Event::Tick), []);
    assert_eq!(bench.give_back(0, PAGE, Write), [], "still lent");
    let given = bench.give_back(0, PAGE, Read);
    assert_eq!(given[0], Action::SplitExtent { extent: Extent(0) });
    bench.settle();
    bench.quiet();
}

#[test]
fn a_borrow_of_a_page_that_is_elsewhere_asks_for_it_and_lends_each_borrow_once() {
    let mut bench = Bench::new(2, &[0]);
    bench.make(0, PAGE, Write);
    assert_eq!(bench.borrow(1, PAGE, Read), [send(0, request(PAGE, Read, false))]);
    assert_eq!(bench.borrow(1, PAGE, Write), []);
    assert_eq!(bench.borrow(1, PAGE, Read), []);
    bench.deliver(1, 0);
    let lend = |access| Action::Lend { gfn: PAGE, access };
    let done = Message::Done { gfn: PAGE, txn: Txn(1) };
    let then = [
        install(PAGE, Read, true),
        send(0, done),
        lend(Read),
        lend(Read),
        send(0, request(PAGE, Write, true)),
    ];
    assert_eq!(bench.deliver(0, 1), then);
    bench.settle();
    assert_eq!(bench.cluster.hosts[1].mappings[0].lent_write, 1);
    for access in [Read, Read, Write] {
        bench.give_back(1, PAGE, access);
    }
    bench.quiet();
}

#[test]
fn a_borrow_is_lent_when_its_extent_is_granted() {
    let mut bench = Bench::new(2, &[0]);
    bench.borrow(1, PAGE, Write);
    bench.borrow(1, NEIGHBOUR, Read);
    bench.deliver(1, 0);
    let lent = [
        Action::OwnExtent { extent: Extent(0) },
        Action::Lend { gfn: PAGE, access: Write },
        Action::Lend { gfn: NEIGHBOUR, access: Read },
    ];
    assert_eq!(bench.deliver(0, 1), lent);
    bench.settle();
    bench.give_back(1, PAGE, Write);
    bench.give_back(1, NEIGHBOUR, Read);
    bench.quiet();
}

#[test]
fn a_reader_of_a_lent_read_copy_need_not_wait() {
    let mut bench = Bench::new(3, &[0]);
    bench.share(1, &[2], PAGE);
    bench.borrow(1, PAGE, Read);
    bench.fault(0, PAGE, Read);
    bench.settle();
    assert_eq!(bench.rights(0, PAGE), Rights::Read);
    bench.give_back(1, PAGE, Read);
    bench.quiet();
}
