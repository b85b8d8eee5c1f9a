//! Litmus programs: all that a few lines on several nodes can see, over every interleaving, whoever owns the segment.
//!
//! Locks are not part of the segment (they could not be): `Signal` and `Wait` stand for giving a lock and getting it, over
//! memory that is strictly coherent.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::cluster::{Cluster, Parcel, Shape, SEGMENT};
use super::host::Effects;
use crate::ids::NodeId;
use crate::release::{Access, Event, Node, PageIndex, Ticket, VcpuIndex};

use Op::{Load, MoveTo, Release, Signal, Store, Wait};

/// A place in the segment: page and byte.
type Place = (u32, usize);

/// Two bytes of one page, and one of another.
const X: Place = (0, 0);
const Y: Place = (0, 1);
const Z: Place = (1, 0);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Op {
    Load(Place),
    Store(Place, u8),
    Release,
    Signal(usize),
    Wait(usize),
    /// The vCPU goes on at another node: a release, and then the move.
    MoveTo(usize),
}

/// What one vCPU does, and on which node it begins.
type Thread<'a> = (usize, &'a [Op]);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Waits {
    No,
    Page(PageIndex),
    /// For a release, after which it goes on at a node.
    Release(usize),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Progress {
    node: usize,
    at: usize,
    waits: Waits,
    loads: Vec<u8>,
}

#[derive(Clone)]
struct State {
    cluster: Cluster<2>,
    threads: Vec<Progress>,
    signals: [bool; 3],
    transfers: u8,
}

#[derive(Clone, Copy)]
enum Step {
    Run(usize),
    Deliver(usize, usize),
    Transfer(usize),
}

impl State {
    fn event(&mut self, node: usize, event: Event) {
        let effects = self.cluster.step(0, node, event, None).expect("allowed");
        self.wake(node, &effects);
    }

    fn wake(&mut self, node: usize, effects: &Effects) {
        for thread in self.threads.iter_mut().filter(|thread| thread.node == node) {
            if matches!(thread.waits, Waits::Page(page) if effects.woken.contains(&page)) {
                thread.waits = Waits::No;
            }
        }
        for (Ticket(thread), _) in &effects.released {
            let thread = &mut self.threads[*thread as usize];
            let Waits::Release(node) = thread.waits else { panic!("{thread:?} waits for no release") };
            (thread.node, thread.at, thread.waits) = (node, thread.at + 1, Waits::No);
        }
    }

    fn run(&mut self, thread: usize, op: Op) {
        let progress = &mut self.threads[thread];
        let node = progress.node;
        match op {
            Load((page, byte)) | Store((page, byte), _) => {
                let access = if matches!(op, Load(_)) { Access::Read } else { Access::Write };
                let mapping = &mut self.cluster.hosts[node].mappings[page as usize];
                if mapping.allows(access) {
                    progress.at += 1;
                    match op {
                        Store(_, value) => mapping.bytes[byte] = value,
                        _ => progress.loads.push(mapping.bytes[byte]),
                    }
                    return;
                }
                let (page, vcpu) = (PageIndex(page), VcpuIndex(thread as u16));
                progress.waits = Waits::Page(page);
                self.event(node, Event::Fault { segment: SEGMENT, page, access, vcpu });
            }
            Release | MoveTo(_) => {
                progress.waits = Waits::Release(if let MoveTo(node) = op { node } else { node });
                self.event(node, Event::Release { segment: SEGMENT, ticket: Ticket(thread as u64) });
            }
            Signal(signal) => {
                self.signals[signal] = true;
                progress.at += 1;
            }
            Wait(_) => progress.at += 1,
        }
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let State { cluster, threads, signals, transfers } = self;
        (&cluster.nodes, &cluster.hosts, threads, signals, transfers).hash(&mut hasher);
        let parcels: Vec<Vec<&Parcel>> = cluster.links.iter().map(|link| link.iter().collect()).collect();
        parcels.hash(&mut hasher);
        hasher.finish()
    }
}

#[derive(Clone, Copy)]
struct Program<'a> {
    threads: &'a [Thread<'a>],
    owner: u8,
    transfers: u8,
}

impl Program<'_> {
    fn start(&self) -> State {
        let shape = Shape { owner: self.owner, ..Shape::new(3, 2) };
        let progress =
            |(node, _): &Thread<'_>| Progress { node: *node, at: 0, waits: Waits::No, loads: vec![] };
        State {
            cluster: Cluster::new(&shape),
            threads: self.threads.iter().map(progress).collect(),
            signals: [false; 3],
            transfers: 0,
        }
    }

    /// What comes next for a vCPU.
    fn next(&self, state: &State, thread: usize) -> Option<Op> {
        self.threads[thread].1.get(state.threads[thread].at).copied()
    }

    fn steps(&self, state: &State) -> Vec<Step> {
        let can = |thread: &usize| match self.next(state, *thread) {
            None => false,
            Some(Wait(signal)) => state.signals[signal],
            Some(_) => state.threads[*thread].waits == Waits::No,
        };
        let mut steps: Vec<Step> = (0..self.threads.len()).filter(can).map(Step::Run).collect();
        let count = state.cluster.nodes.len();
        let links = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let busy = links.filter(|&(from, to)| !state.cluster.links[state.cluster.link(from, to)].is_empty());
        steps.extend(busy.map(|(from, to)| Step::Deliver(from, to)));
        if state.transfers < self.transfers && state.cluster.owner().is_some() {
            steps.extend((0..count).map(Step::Transfer));
        }
        steps
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Run(thread) => {
                if let Some(op) = self.next(state, thread) {
                    state.run(thread, op);
                }
            }
            Step::Deliver(from, to) => {
                let effects = state.cluster.deliver(0, from, to).expect("allowed").expect("on its way");
                state.wake(to, &effects);
            }
            Step::Transfer(to) => {
                state.transfers += 1;
                let owner = state.cluster.owner().expect("there is one");
                state.event(owner, Event::Transfer { segment: SEGMENT, to: NodeId(to as u8) });
            }
        }
        state.cluster.nodes.iter_mut().for_each(Node::normalise);
    }

    /// All that the loads can see: the values, of all vCPUs in order, and how many states were gone through.
    fn outcomes(&self) -> (BTreeSet<Vec<u8>>, usize) {
        let (mut seen, mut ends, mut open) = (HashSet::new(), BTreeSet::new(), vec![self.start()]);
        while let Some(state) = open.pop() {
            let steps = self.steps(&state);
            if steps.iter().all(|step| matches!(step, Step::Transfer(_))) {
                let done = (0..state.threads.len()).all(|thread| self.next(&state, thread).is_none());
                assert!(done, "stuck: {:?}", state.threads);
                state.cluster.check_quiet().expect("quiet");
                ends.insert(state.threads.iter().flat_map(|thread| thread.loads.clone()).collect());
            }
            for step in steps {
                let mut next = state.clone();
                self.take(&mut next, step);
                if seen.insert(next.digest()) {
                    open.push(next);
                }
            }
        }
        (ends, seen.len())
    }
}

/// What the loads can see is exactly this, whoever owns the segment.
fn sees(name: &str, threads: &[Thread<'_>], expected: &[&[u8]]) {
    let expected: BTreeSet<Vec<u8>> = expected.iter().map(|values| values.to_vec()).collect();
    for owner in 0..3 {
        let (outcomes, states) = Program { threads, owner, transfers: 0 }.outcomes();
        println!("{name}, owner {owner}: {outcomes:?} ({states} states)");
        assert_eq!(outcomes, expected, "{name}, owner {owner}");
    }
}

#[test]
fn whoever_acquires_after_the_release_sees_the_write() {
    let writer: Thread<'_> = (0, &[Store(X, 1), Release, Signal(0)]);
    sees("message passing", &[writer, (1, &[Wait(0), Load(X)])], &[&[1]]);
    sees("with an old copy", &[writer, (1, &[Load(X), Wait(0), Load(X)])], &[&[0, 1], &[1, 1]]);
}

#[test]
fn without_acquiring_old_and_new_may_be_seen() {
    sees("no lock", &[(0, &[Store(X, 1), Release]), (1, &[Load(X)])], &[&[0], &[1]]);
}

#[test]
fn what_is_not_released_is_not_seen_elsewhere() {
    sees("no release", &[(0, &[Store(X, 1), Signal(0)]), (1, &[Wait(0), Load(X)])], &[&[0]]);
    let early: Thread<'_> = (0, &[Store(X, 1), Release, Store(X, 2), Signal(0)]);
    sees("only the first", &[early, (1, &[Wait(0), Load(X)])], &[&[1]]);
}

#[test]
fn writers_of_one_page_do_not_lose_each_others_writes() {
    let threads: [Thread<'_>; 3] = [
        (0, &[Store(X, 1), Release, Signal(0)]),
        (1, &[Store(Y, 2), Release, Signal(1)]),
        (2, &[Wait(0), Wait(1), Load(X), Load(Y)]),
    ];
    sees("false sharing", &threads, &[&[1, 2]]);
}

#[test]
fn a_writer_sees_its_own_unreleased_writes_whatever_happens_to_its_copy() {
    let threads: [Thread<'_>; 2] = [(0, &[Store(X, 1), Release]), (1, &[Store(Y, 2), Load(Y), Load(Y)])];
    sees("own writes", &threads, &[&[2, 2]]);
}

#[test]
fn what_one_has_seen_its_release_passes_on() {
    let threads: [Thread<'_>; 3] = [
        (0, &[Store(X, 1), Release, Signal(0)]),
        (1, &[Wait(0), Load(X), Store(Z, 2), Release, Signal(1)]),
        (2, &[Wait(1), Load(Z), Load(X)]),
    ];
    sees("a chain", &threads, &[&[1, 2, 1]]);
}

#[test]
fn pages_of_one_release_are_seen_one_by_one_without_the_lock_and_all_with_it() {
    let writer: Thread<'_> = (0, &[Store(X, 1), Store(Z, 1), Release, Signal(0)]);
    let old_and_new: &[u8] = &[0, 1];
    sees("two pages, no lock", &[writer, (1, &[Load(Z), Load(X)])], &[&[0, 0], old_and_new, &[1, 1]]);
    sees("two pages", &[writer, (1, &[Wait(0), Load(Z), Load(X)])], &[&[1, 1]]);
}

#[test]
fn a_counter_under_a_lock_loses_nothing() {
    let threads: [Thread<'_>; 3] = [
        (0, &[Load(X), Store(X, 1), Release, Signal(0), Wait(2), Load(X)]),
        (1, &[Wait(0), Load(X), Store(X, 2), Release, Signal(1)]),
        (2, &[Wait(1), Load(X), Store(X, 3), Release, Signal(2)]),
    ];
    sees("a counter", &threads, &[&[0, 3, 1, 2]]);
}

#[test]
fn a_release_covers_what_other_vcpus_of_its_node_wrote_before() {
    // The vCPUs of one node share its copies: what one has seen of another's writes, its release must pass on.
    let threads: [Thread<'_>; 3] = [
        (0, &[Store(X, 1), Signal(0)]),
        (0, &[Wait(0), Load(X), Release, Signal(1)]),
        (1, &[Load(X), Wait(1), Load(X)]),
    ];
    sees("another's write", &threads, &[&[1, 0, 1], &[1, 1, 1]]);
    // Also if that other's release is under way, so that this one finds nothing to send.
    let threads: [Thread<'_>; 3] = [
        (0, &[Store(X, 1), Signal(0), Release]),
        (0, &[Wait(0), Release, Signal(1)]),
        (1, &[Load(X), Wait(1), Load(X)]),
    ];
    sees("another's release", &threads, &[&[0, 1], &[1, 1]]);
}

#[test]
fn a_vcpu_that_moves_in_a_critical_section_takes_its_writes_along() {
    let threads: [Thread<'_>; 2] = [
        (0, &[Store(X, 1), MoveTo(1), Load(X), Store(Z, 2), Release, Signal(0)]),
        (2, &[Load(X), Wait(0), Load(X), Load(Z)]),
    ];
    sees("a move", &threads, &[&[1, 0, 1, 2], &[1, 1, 1, 2]]);
}

#[test]
fn nothing_changes_when_the_ownership_moves_meanwhile() {
    let threads: &[Thread<'_>] =
        &[(0, &[Store(X, 1), Release, Signal(0)]), (1, &[Store(Y, 2), Wait(0), Load(X), Load(Y)])];
    let expected = BTreeSet::from([vec![1, 2]]);
    for owner in 0..3 {
        let (outcomes, states) = Program { threads, owner, transfers: 1 }.outcomes();
        println!("ownership moves from {owner}: {outcomes:?} ({states} states)");
        assert_eq!(outcomes, expected, "owner {owner}");
    }
}
