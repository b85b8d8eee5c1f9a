//! Every interleaving of small systems: the same [`Node`]s under a model checker.
//!
//! Each node has two bytes of each page, and always writes both: so bytes of every page that can be seen must come in
//! equal pairs, or a page is a mixture of old and new. A node may touch, write and release at any time, as often as its
//! budget allows; links deliver in order, but each at its own pace; a node may be lost at any moment, with what it last
//! sent; the ownership may move; pages may be fetched ahead.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::cluster::{check_agreement, handle, Fault, Parcel, Shape, SEGMENT};
use super::host::{Effects, Host, Packet};
use crate::ids::NodeId;
use crate::release::segment::Role;
use crate::release::{Access, Action, Event, Node, Outcome, PageIndex, Ticket, VcpuIndex};

use Access::{Read, Write};

/// More steps than this: some number in a node grows without end.
const STEPS_MAX: usize = 6_000_000;
/// Two bytes for each of three nodes.
const BYTES: usize = 6;

/// What may happen, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub shape: Shape,
    /// The nodes that write and release; all read.
    pub writers: &'static [usize],
    /// Writes by each of them.
    pub writes: u8,
    /// Releases by each of them.
    pub releases: u8,
    /// Nodes that are lost.
    pub losses: u8,
    /// Orders to move the ownership.
    pub transfers: u8,
    /// Pages fetched ahead.
    pub prefetches: u8,
}

impl Bounds {
    pub const fn new(shape: Shape, writes: u8, releases: u8) -> Self {
        Bounds { shape, writers: &[0, 1, 2], writes, releases, losses: 0, transfers: 0, prefetches: 0 }
    }
}

/// One node's guest.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Guest {
    writes: u8,
    releases: u8,
    /// By page, the value that it wrote last.
    written: Vec<u8>,
    /// By page, the value that its last release that ended has made visible.
    visible: Vec<u8>,
    /// By release under way, in order, what it will make visible.
    releasing: VecDeque<Vec<u8>>,
    /// By page, whether it waits to read, to write.
    waits: Vec<(bool, bool)>,
}

/// Nodes, their guests and the links between them. What a step does not change is shared with the state before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct System {
    nodes: Vec<Arc<Node>>,
    hosts: Vec<Arc<Host<BYTES>>>,
    guests: Vec<Arc<Guest>>,
    alive: Vec<bool>,
    links: Vec<VecDeque<Arc<Parcel>>>,
    losses: u8,
    transfers: u8,
    prefetches: u8,
    failure: Option<String>,
}

impl Hash for System {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let System { nodes, hosts, guests, alive, links, losses, transfers, prefetches, failure } = self;
        (nodes, hosts, guests, alive, links).hash(hasher);
        (losses, transfers, prefetches, failure).hash(hasher);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The guest touches a page that it may not, and waits.
    Touch { node: usize, page: u32, access: Access },
    /// The guest writes its bytes of a page that it may write.
    Store { node: usize, page: u32 },
    /// The guest releases.
    Release { node: usize },
    /// The first parcel of a link arrives.
    Deliver { from: usize, to: usize },
    /// A node is lost, and of each link from it all but so many of the last parcels still arrive.
    Lose { node: usize, unsent: usize },
    /// The policy orders the ownership to move.
    Transfer { node: usize, to: u8 },
    /// The policy has a page fetched ahead.
    Prefetch { node: usize, page: u32 },
}

#[derive(Clone, Copy)]
pub struct Protocol {
    bounds: Bounds,
    fault: Option<Fault>,
}

impl Protocol {
    pub const fn new(bounds: Bounds) -> Self {
        Protocol { bounds, fault: None }
    }

    pub const fn with_fault(self, fault: Fault) -> Self {
        Protocol { fault: Some(fault), ..self }
    }

    fn feed(&self, system: &mut System, at: usize, event: Event, data: Option<&[u8]>) -> Result<(), String> {
        let mut actions: Vec<Action> = vec![];
        let node = Arc::make_mut(&mut system.nodes[at]);
        handle(node, 0, event, self.fault, &mut actions).map_err(|why| format!("node {at}: {why}"))?;
        node.normalise();
        let mut effects = Effects::default();
        let result = Arc::make_mut(&mut system.hosts[at]).carry_out(&actions, data, &mut effects);
        result.map_err(|why| format!("node {at} on {event:?}: {why} (all: {actions:?})"))?;
        for (to, packet) in effects.sent {
            if system.alive[to.index()] {
                let link = at * system.nodes.len() + to.index();
                system.links[link].push_back(Arc::new(Parcel::Packet(packet)));
            }
        }
        let guest = Arc::make_mut(&mut system.guests[at]);
        effects.woken.iter().for_each(|page| guest.waits[page.index()] = (false, false));
        if effects.broken {
            guest.waits.iter_mut().for_each(|waits| *waits = (false, false));
        }
        for (_, outcome) in effects.released {
            let ended =
                guest.releasing.pop_front().ok_or(format!("node {at} ends a release that is none"))?;
            if outcome == Outcome::Visible {
                guest.visible = ended;
            }
        }
        Ok(())
    }

    fn take(&self, system: &mut System, step: Step) -> Result<(), String> {
        let count = system.nodes.len();
        match step {
            Step::Touch { node, page, access } => {
                let waits = &mut Arc::make_mut(&mut system.guests[node]).waits[page as usize];
                *(if access == Read { &mut waits.0 } else { &mut waits.1 }) = true;
                let vcpu = VcpuIndex(node as u16);
                let event = Event::Fault { segment: SEGMENT, page: PageIndex(page), access, vcpu };
                self.feed(system, node, event, None)
            }
            Step::Store { node, page } => {
                let guest = Arc::make_mut(&mut system.guests[node]);
                (guest.writes, guest.written[page as usize]) = (guest.writes + 1, guest.writes + 1);
                let bytes = &mut Arc::make_mut(&mut system.hosts[node]).mappings[page as usize].bytes;
                bytes[2 * node..2 * node + 2].fill(guest.writes);
                Ok(())
            }
            Step::Release { node } => {
                let guest = Arc::make_mut(&mut system.guests[node]);
                guest.releases += 1;
                guest.releasing.push_back(guest.written.clone());
                self.feed(system, node, Event::Release { segment: SEGMENT, ticket: Ticket(0) }, None)
            }
            Step::Deliver { from, to } => {
                let node = NodeId(from as u8);
                let Some(parcel) = system.links[from * count + to].pop_front() else { return Ok(()) };
                match &*parcel {
                    Parcel::Lost => self.feed(system, to, Event::Lost { node }, None),
                    Parcel::Packet(Packet { message, data }) => {
                        let event = Event::Message { from: node, message: *message };
                        self.feed(system, to, event, data.as_deref())
                    }
                }
            }
            Step::Lose { node, unsent } => {
                self.lose(system, node, unsent);
                Ok(())
            }
            Step::Transfer { node, to } => {
                system.transfers += 1;
                self.feed(system, node, Event::Transfer { segment: SEGMENT, to: NodeId(to) }, None)
            }
            Step::Prefetch { node, page } => {
                system.prefetches += 1;
                self.feed(system, node, Event::Prefetch { segment: SEGMENT, page: PageIndex(page) }, None)
            }
        }
    }

    fn lose(&self, system: &mut System, node: usize, unsent: usize) {
        let count = system.nodes.len();
        system.losses += 1;
        system.alive[node] = false;
        for other in 0..count {
            system.links[other * count + node].clear();
            let alive = system.alive[other];
            let out = &mut system.links[node * count + other];
            out.truncate(out.len().saturating_sub(unsent));
            match alive {
                true => out.push_back(Arc::new(Parcel::Lost)),
                false => out.clear(),
            }
        }
        // What is left of it cannot be told apart.
        system.nodes[node] = Arc::new(self.bounds.shape.node(node as u8));
        system.hosts[node] = Arc::new(Host::new(self.bounds.shape.pages as usize));
        let guest = Arc::make_mut(&mut system.guests[node]);
        (guest.writes, guest.releases) = (self.bounds.writes, self.bounds.releases);
        guest.releasing.clear();
        guest.waits.iter_mut().for_each(|waits| *waits = (false, false));
    }

    /// What must hold at every moment.
    fn check(&self, system: &System) -> Result<(), String> {
        let living = |at: &usize| system.alive[*at];
        for at in (0..system.nodes.len()).filter(living) {
            let segment = &system.nodes[at].segments[&SEGMENT];
            if segment.role == Role::Broken {
                continue;
            }
            for (page, mapping) in system.hosts[at].mappings.iter().enumerate() {
                let seen = mapping.rights.map(|_| &mapping.bytes);
                let kept = matches!(segment.role, Role::Owner(_)).then(|| mapping.released());
                for bytes in seen.into_iter().chain(kept) {
                    if bytes.chunks(2).any(|pair| pair[0] != pair[1]) {
                        return Err(format!("node {at} has {bytes:?} of page {page}: old and new"));
                    }
                }
                let Some(seen) = seen else { continue };
                for (by, guest) in system.guests.iter().enumerate() {
                    let least = if by == at { guest.written[page] } else { guest.visible[page] };
                    if seen[2 * by] < least {
                        let why = "at least what was released, or written here, is";
                        return Err(format!(
                            "node {at} reads {seen:?} of page {page}: {why} {least} of {by}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// In quiet, everybody has been served, and all agree.
    fn check_quiet(&self, system: &System) -> Result<(), String> {
        let living: Vec<usize> = (0..system.nodes.len()).filter(|at| system.alive[*at]).collect();
        for &at in &living {
            let guest = &system.guests[at];
            if guest.waits.iter().any(|&(read, write)| read || write) || !guest.releasing.is_empty() {
                return Err(format!("node {at} waits for ever"));
            }
        }
        let segment = |at: usize| &system.nodes[at].segments[&SEGMENT];
        let broken = living.iter().filter(|&&at| segment(at).role == Role::Broken).count();
        if broken > 0 {
            let all = broken == living.len();
            return all.then_some(()).ok_or_else(|| format!("only {broken} nodes know that it is broken"));
        }
        let owner = living.iter().find(|&&at| matches!(segment(at).role, Role::Owner(_)));
        let owner = *owner.ok_or("nobody is the owner")?;
        for &at in &living {
            let theirs = (owner, segment(owner), &*system.hosts[owner]);
            check_agreement(at, segment(at), &system.hosts[at], theirs)?;
        }
        Ok(())
    }

    fn guest_steps(&self, system: &System, node: usize, steps: &mut Vec<Step>) {
        let (guest, bounds) = (&system.guests[node], &self.bounds);
        let is_writer = bounds.writers.contains(&node);
        let may_write = is_writer && guest.writes < bounds.writes;
        for page in 0..bounds.shape.pages {
            let mapping = &system.hosts[node].mappings[page as usize];
            let (reads, writes) = guest.waits[page as usize];
            if !mapping.allows(Read) && !reads {
                steps.push(Step::Touch { node, page, access: Read });
            }
            if !mapping.allows(Write) && !writes && may_write {
                steps.push(Step::Touch { node, page, access: Write });
            }
            if mapping.allows(Write) && may_write {
                steps.push(Step::Store { node, page });
            }
        }
        if is_writer && guest.releases < bounds.releases {
            steps.push(Step::Release { node });
        }
    }

    fn policy_steps(&self, system: &System, node: usize, steps: &mut Vec<Step>) {
        let (bounds, count) = (&self.bounds, system.nodes.len() as u8);
        let others = || (0..count).filter(|to| usize::from(*to) != node && system.alive[usize::from(*to)]);
        let is_owner = matches!(system.nodes[node].segments[&SEGMENT].role, Role::Owner(_));
        if is_owner && system.transfers < bounds.transfers {
            steps.extend(others().map(|to| Step::Transfer { node, to }));
        }
        if system.prefetches < bounds.prefetches {
            steps.extend((0..bounds.shape.pages).map(|page| Step::Prefetch { node, page }));
        }
        if system.losses < bounds.losses {
            let longest = others().map(|to| system.links[node * usize::from(count) + usize::from(to)].len());
            let longest = longest.max().unwrap_or(0);
            steps.extend((0..=longest).map(|unsent| Step::Lose { node, unsent }));
        }
    }
}

impl Model for Protocol {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        let Shape { nodes, pages, .. } = self.bounds.shape;
        let (count, pages) = (usize::from(nodes), pages as usize);
        let host = Arc::new(Host::new(pages));
        let guest = Arc::new(Guest {
            writes: 0,
            releases: 0,
            written: vec![0; pages],
            visible: vec![0; pages],
            releasing: VecDeque::new(),
            waits: vec![(false, false); pages],
        });
        vec![System {
            nodes: (0..nodes).map(|me| Arc::new(self.bounds.shape.node(me))).collect(),
            hosts: vec![host; count],
            guests: vec![guest; count],
            alive: vec![true; count],
            links: vec![VecDeque::new(); count * count],
            losses: 0,
            transfers: 0,
            prefetches: 0,
            failure: None,
        }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        if system.failure.is_some() {
            return;
        }
        let count = system.nodes.len();
        for node in (0..count).filter(|node| system.alive[*node]) {
            self.guest_steps(system, node, steps);
            self.policy_steps(system, node, steps);
        }
        for (link, parcels) in system.links.iter().enumerate() {
            if !parcels.is_empty() {
                steps.push(Step::Deliver { from: link / count, to: link % count });
            }
        }
    }

    fn next_state(&self, system: &System, step: Step) -> Option<System> {
        let mut next = system.clone();
        let result = self.take(&mut next, step).and_then(|()| self.check(&next));
        let quiet = next.links.iter().all(VecDeque::is_empty);
        let result = result.and_then(|()| if quiet { self.check_quiet(&next) } else { Ok(()) });
        next.failure = result.err();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("whoever acquires sees what was released", |_, system: &System| {
                system.failure.is_none()
            }),
            Property::sometimes("two nodes write one page at a time", |_, system: &System| {
                let writers = |host: &&Arc<Host<BYTES>>| host.mappings[0].allows(Write);
                system.hosts.iter().filter(writers).count() > 1
            }),
            Property::sometimes("changes are set aside", |_, system: &System| {
                let aside =
                    |node: &Arc<Node>| node.held(SEGMENT, PageIndex(0)) == crate::release::Held::Aside;
                system.nodes.iter().any(aside)
            }),
        ]
    }
}

/// What a run of the checker found.
pub struct Verdict {
    pub states: usize,
    pub failure: Option<String>,
}

/// Explores all of a model, or until something is wrong.
pub fn explore(name: &str, protocol: Protocol) -> Verdict {
    let has_fault = protocol.fault.is_some();
    let checker = protocol.checker().threads(1).target_state_count(STEPS_MAX);
    let checker = match has_fault {
        true => checker.finish_when(HasDiscoveries::AnyFailures),
        false => checker,
    };
    let checker = checker.spawn_bfs().join();
    let failure = checker.discovery("whoever acquires sees what was released").map(|path| {
        let failure = path.last_state().failure.clone().unwrap_or_default();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        format!("{failure}\n{}", steps.join("\n"))
    });
    let states = checker.unique_state_count();
    assert!(checker.state_count() < STEPS_MAX, "{name}: the states do not end");
    if !has_fault {
        let (depth, total) = (checker.max_depth(), checker.state_count());
        println!("{name}: {states} states, {total} steps, depth {depth}");
        for reached in ["two nodes write one page at a time", "changes are set aside"] {
            let expected = protocol.bounds.writers.len() > 1;
            assert_eq!(checker.discovery(reached).is_some(), expected, "{name}: {reached}");
        }
    }
    Verdict { states, failure }
}

fn holds(name: &str, bounds: Bounds) {
    let verdict = explore(name, Protocol::new(bounds));
    if let Some(failure) = verdict.failure {
        panic!("{name}: {failure}");
    }
    assert!(verdict.states > 100, "{name}: only {} states", verdict.states);
}

const fn shape(nodes: u8, pages: u32) -> Shape {
    Shape { nodes, pages, owner: 0, dirty_max: 8 }
}

#[test]
fn two_nodes_and_one_page() {
    holds("2 nodes, 1 page", Bounds { prefetches: 1, ..Bounds::new(shape(2, 1), 2, 2) });
}

#[test]
fn two_nodes_and_two_pages_with_one_twin() {
    let shape = Shape { dirty_max: 1, ..shape(2, 2) };
    holds("2 nodes, 2 pages, 1 twin", Bounds::new(shape, 1, 0));
}

#[test]
fn two_nodes_moves_and_a_loss() {
    let bounds = Bounds { transfers: 2, losses: 1, ..Bounds::new(shape(2, 1), 2, 1) };
    holds("2 nodes, 1 page, 2 moves, 1 loss", bounds);
}

#[test]
fn three_nodes_and_one_page() {
    holds("3 nodes, 1 page", Bounds::new(shape(3, 1), 1, 1));
}

#[test]
fn three_nodes_and_a_loss() {
    holds("3 nodes, 1 page, 1 loss", Bounds { losses: 1, ..Bounds::new(shape(3, 1), 1, 1) });
}

#[test]
fn three_nodes_a_move_and_a_loss() {
    let all = Bounds { transfers: 1, losses: 1, ..Bounds::new(shape(3, 1), 1, 1) };
    holds("3 nodes, 1 page, 1 move, 1 loss, the owner writes", Bounds { writers: &[0], ..all });
    holds("3 nodes, 1 page, 1 move, 1 loss, another writes", Bounds { writers: &[1], ..all });
}

#[test]
fn three_nodes_and_a_move() {
    let all = Bounds { transfers: 1, ..Bounds::new(shape(3, 1), 1, 1) };
    holds("3 nodes, 1 page, 1 move, the owner and another write", Bounds { writers: &[0, 1], ..all });
}
