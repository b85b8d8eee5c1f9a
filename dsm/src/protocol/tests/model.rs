//! Every interleaving of small systems: the same [`Node`]s under a model checker.
//!
//! A vCPU may touch any page at any time, links deliver in order but each at its own pace, devices borrow, leases
//! run out when they like. A page's bytes are 1 for the latest version and 0 for any other.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::cluster::{check_page, check_whole, handle, Mutant, Shape};
use super::host::{Effects, Host, Packet};
use super::membership::{holds_nothing, is_hint, Change, Guest, Part};
use crate::ids::{Extent, Gfn, NodeId};
use crate::liveness::{self, Kind, Live};
use crate::protocol::{Access, Action, Event, LeasePolicy, MergePolicy, MigratoryPolicy, Node, Rights};

use Access::{Read, Write};

/// More steps than this: some number in a node grows without end.
const STATES_MAX: usize = 30_000_000;

/// A node's state, kept once however many states of the system it is part of.
#[derive(Debug)]
pub struct Kept {
    number: usize,
    node: Node,
}

/// What a node did about an event: its next state and the actions, or why that is wrong.
type Reaction = Result<(Arc<Kept>, Vec<Action>), String>;

/// All node states seen so far, by digest; and how each has reacted to what.
#[derive(Default)]
struct Store {
    by_digest: HashMap<u64, Vec<Arc<Kept>>>,
    reactions: HashMap<(usize, Event), Arc<Reaction>>,
    count: usize,
}

impl Store {
    fn keep(&mut self, digest: u64, node: Node) -> Arc<Kept> {
        let same = self.by_digest.entry(digest).or_default();
        if let Some(kept) = same.iter().find(|kept| kept.node == node) {
            return Arc::clone(kept);
        }
        self.count += 1;
        let kept = Arc::new(Kept { number: self.count, node });
        same.push(Arc::clone(&kept));
        kept
    }
}

/// Nodes, their guests and the links between them.
#[derive(Clone, Debug)]
pub struct System {
    nodes: Vec<Arc<Kept>>,
    hosts: Vec<Host>,
    links: Vec<VecDeque<Packet>>,
    /// vCPUs that wait, by node and page: to read, to write.
    waiting: Vec<(bool, bool)>,
    /// Devices that wait, likewise.
    borrowing: Vec<(bool, bool)>,
    latest: Vec<u64>,
    parts: Vec<Part>,
    /// Homes that may still change, but for the sake of a node that leaves.
    handovers_left: u8,
    /// vCPUs that may still fault, where that is bounded.
    faults_left: Option<u8>,
    /// The nodes that have been told to drain the one that leaves, a bit each.
    drained: u8,
    failure: Option<String>,
}

impl Hash for System {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.nodes.iter().for_each(|kept| kept.number.hash(hasher));
        let System { nodes: _, hosts, links, waiting, borrowing, latest, parts, failure, .. } = self;
        (hosts, links, waiting, borrowing, latest, failure).hash(hasher);
        (parts, self.handovers_left, self.faults_left, self.drained).hash(hasher);
    }
}

impl PartialEq for System {
    fn eq(&self, other: &Self) -> bool {
        let numbers = |system: &System| system.nodes.iter().map(|kept| kept.number).collect::<Vec<_>>();
        numbers(self) == numbers(other)
            && (&self.hosts, &self.links, &self.waiting) == (&other.hosts, &other.links, &other.waiting)
            && (&self.borrowing, &self.latest, &self.failure)
                == (&other.borrowing, &other.latest, &other.failure)
            && (&self.parts, self.handovers_left, self.faults_left, self.drained)
                == (&other.parts, other.handovers_left, other.faults_left, other.drained)
    }
}

impl System {
    /// What is on its way from one node to another.
    pub fn link_mut(&mut self, from: usize, to: usize) -> &mut VecDeque<Packet> {
        let nodes = self.nodes.len();
        &mut self.links[from * nodes + to]
    }

    fn guest(&self) -> Guest<'_> {
        Guest { nodes: self.nodes.iter().map(|kept| &kept.node).collect(), parts: &self.parts }
    }

    /// Somebody at the node waits, or has borrowed something.
    fn is_busy(&self, node: usize, pages: usize) -> bool {
        let waits = |(read, write): &(bool, bool)| *read || *write;
        let slots = node * pages..(node + 1) * pages;
        self.waiting[slots.clone()].iter().any(waits)
            || self.borrowing[slots].iter().any(waits)
            || self.hosts[node].mappings.iter().any(|mapping| mapping.lent_read + mapping.lent_write > 0)
    }

    /// A node is gone: it has nothing, and nothing that matters is on its way to or from it.
    fn take_leave(&mut self, node: usize) -> Result<(), String> {
        holds_nothing(&self.hosts[node]).map_err(|why| format!("node {node} is gone, {why}"))?;
        let count = self.nodes.len();
        for (at, link) in self.links.iter_mut().enumerate() {
            if at / count == node || at % count == node {
                if let Some(packet) = std::mem::take(link).iter().find(|packet| !is_hint(packet)) {
                    return Err(format!("node {node} is gone before {packet:?}"));
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A vCPU touches a page that it may not, and waits.
    Touch { node: usize, page: usize, access: Access },
    /// A vCPU writes a page that it may.
    Store { node: usize, page: usize },
    /// The first message of a link arrives.
    Deliver { from: usize, to: usize },
    /// A device asks for a page.
    Borrow { node: usize, page: usize, access: Access },
    /// A device gives a page back.
    Return { node: usize, page: usize, access: Access },
    /// The earliest lease that stands in the way runs out.
    Expire { node: usize },
    /// Homes and members change.
    Change(Change),
}

pub struct Protocol {
    shape: Shape,
    devices: bool,
    /// What vCPUs do.
    accesses: &'static [Access],
    /// So often a home changes.
    handovers: u8,
    /// So many faults of vCPUs there are in all.
    faults: Option<u8>,
    /// This node leaves at some time.
    leaver: Option<usize>,
    mutant: Option<Mutant>,
    store: Mutex<Store>,
}

impl Protocol {
    pub fn new(shape: Shape) -> Self {
        let accesses = &[Read, Write];
        let (store, faults) = (Mutex::default(), None);
        Protocol { shape, devices: false, accesses, handovers: 0, faults, leaver: None, mutant: None, store }
    }

    /// The same model, of which nothing is known yet.
    fn again(&self) -> Self {
        let &Protocol { devices, accesses, handovers, faults, leaver, mutant, .. } = self;
        let (shape, store) = (self.shape.clone(), Mutex::default());
        Protocol { shape, devices, accesses, handovers, faults, leaver, mutant, store }
    }

    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Protocol { mutant: Some(mutant), ..self }
    }

    pub fn with_devices(self) -> Self {
        Protocol { devices: true, ..self }
    }

    /// vCPUs only write.
    pub fn with_writes_only(self) -> Self {
        Protocol { accesses: &[Write], ..self }
    }

    pub fn with_handovers(self, handovers: u8) -> Self {
        Protocol { handovers, ..self }
    }

    /// vCPUs fault only so often, in all.
    pub fn with_faults(self, faults: u8) -> Self {
        Protocol { faults: Some(faults), ..self }
    }

    pub fn with_leaver(self, node: usize) -> Self {
        Protocol { leaver: Some(node), ..self }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, mut node: Node) -> Arc<Kept> {
        node.normalise();
        let pages = self.shape.pages();
        let digest = node.digest((0..pages.len()).map(|index| pages.gfn(index)));
        self.store().keep(digest, node)
    }

    /// How a node reacts to an event. Nodes are functions of their state and the event, so each pair is tried once.
    fn react(&self, kept: &Kept, event: Event) -> Arc<Reaction> {
        let key = (kept.number, event);
        if let Some(known) = self.store().reactions.get(&key) {
            return Arc::clone(known);
        }
        let reaction = Arc::new(self.try_out(kept.node.clone(), event));
        self.store().reactions.insert(key, Arc::clone(&reaction));
        reaction
    }

    fn try_out(&self, mut node: Node, event: Event) -> Reaction {
        let now = if event == Event::Tick { node.next_deadline().unwrap_or(0) } else { 0 };
        let mut actions: Vec<Action> = vec![];
        handle(&mut node, now, event, self.mutant, &mut actions)?;
        Ok((self.keep(node), actions))
    }

    fn pages(&self) -> usize {
        self.shape.pages().len()
    }

    fn slot(&self, node: usize, page: usize) -> usize {
        node * self.pages() + page
    }

    fn feed(
        &self,
        system: &mut System,
        at: usize,
        event: Event,
        received: Option<u64>,
    ) -> Result<(), String> {
        let reaction = self.react(&system.nodes[at], event);
        let (kept, actions) = reaction.as_ref().as_ref().map_err(|why| format!("node {at}: {why}"))?;
        system.nodes[at] = Arc::clone(kept);
        let mut effects = Effects::default();
        let result = system.hosts[at].carry_out(actions, received, &mut effects);
        result.map_err(|why| format!("node {at} on {event:?}: {why} (all: {actions:?})"))?;
        for (to, packet) in effects.sent {
            system.links[at * system.nodes.len() + to.index()].push_back(packet);
        }
        for page in effects.woken {
            system.waiting[self.slot(at, page)] = (false, false);
        }
        for (page, access) in effects.lent {
            let waits = flag(&mut system.borrowing[self.slot(at, page)], access);
            if !std::mem::take(waits) {
                return Err(format!("node {at} lends page {page} for {access:?} to nobody"));
            }
        }
        effects.changed.iter().try_for_each(|&page| self.check(system, page))
    }

    fn check(&self, system: &System, page: usize) -> Result<(), String> {
        check_page(system.hosts.iter(), page, system.latest[page])
    }

    /// The frame of a page.
    pub fn gfn(&self, page: usize) -> Gfn {
        self.shape.pages().gfn(page)
    }

    /// Takes a step.
    pub fn take(&self, system: &mut System, step: Step) -> Result<(), String> {
        let gfn = |page| self.gfn(page);
        match step {
            Step::Touch { node, page, access } => {
                system.faults_left = system.faults_left.map(|left| left - 1);
                *flag(&mut system.waiting[self.slot(node, page)], access) = true;
                self.feed(system, node, Event::Fault { gfn: gfn(page), access }, None)
            }
            Step::Store { node, page } => {
                self.write(system, node, page);
                self.check(system, page)
            }
            Step::Deliver { from, to } => {
                let link = from * system.nodes.len() + to;
                let Some(packet) = system.links[link].pop_front() else { return Ok(()) };
                let event = Event::Message { from: NodeId(from as u8), message: packet.message };
                self.feed(system, to, event, packet.bytes)
            }
            Step::Borrow { node, page, access } => {
                *flag(&mut system.borrowing[self.slot(node, page)], access) = true;
                self.feed(system, node, Event::Borrow { gfn: gfn(page), access }, None)
            }
            Step::Return { node, page, access } => {
                let mapping = &mut system.hosts[node].mappings[page];
                match access {
                    Read => mapping.lent_read -= 1,
                    Write => mapping.lent_write -= 1,
                }
                self.feed(system, node, Event::Return { gfn: gfn(page) }, None)
            }
            Step::Expire { node } => self.feed(system, node, Event::Tick, None),
            Step::Change(change) => self.change(system, change),
        }
    }

    fn change(&self, system: &mut System, change: Change) -> Result<(), String> {
        let part = system.guest().part_after(change);
        match change {
            Change::Start { node } => {
                let membership = system.guest().membership(node);
                system.nodes[node] = self.keep(self.shape.node_of(node as u8, membership));
            }
            Change::HandOver { node, .. } if self.leaver != Some(node) => system.handovers_left -= 1,
            Change::Drain { node, .. } => system.drained |= 1 << node,
            _ => {}
        }
        if let Some(event) = change.event() {
            self.feed(system, change.node(), event, None)?;
        }
        let Some((node, part)) = part else { return Ok(()) };
        system.parts[node] = part;
        match part {
            Part::Gone => system.take_leave(node),
            _ => Ok(()),
        }
    }

    fn changes(&self, system: &System) -> Vec<Change> {
        let count = system.nodes.len();
        let mut changes: Vec<Change> = vec![];
        for node in 0..count {
            for other in (0..count).filter(|&other| other != node) {
                if system.parts[node] == Part::Retired || system.handovers_left > 0 {
                    let extents = (0..self.shape.homes.len() as u64).map(Extent);
                    // Of several nodes that may be the next home, all are alike.
                    let extents = extents.filter(|_| other == (node + 1) % count || count == 2);
                    changes.extend(extents.map(|extent| Change::HandOver { node, extent, to: other }));
                }
                changes.push(Change::Admit { node, joins: other });
                changes.push(Change::Dismiss { node, retired: other });
                if system.drained & 1 << node == 0 {
                    changes.push(Change::Drain { node, retired: other });
                }
            }
            changes.push(Change::Start { node });
            if self.leaver == Some(node) && !system.is_busy(node, self.pages()) {
                changes.push(Change::Retire { node });
            }
        }
        let guest = system.guest();
        changes.retain(|change| guest.may(*change));
        changes
    }

    /// The latest version is now this node's alone, as bytes go.
    fn write(&self, system: &mut System, node: usize, page: usize) {
        let gfn = self.shape.pages().gfn(page);
        let on_page = |packet: &&mut Packet| packet.message.gfn() == gfn;
        for packet in system.links.iter_mut().flatten().filter(on_page) {
            packet.bytes = packet.bytes.map(|_| 0);
        }
        system.hosts.iter_mut().for_each(|host| host.mappings[page].bytes = 0);
        let mapping = &mut system.hosts[node].mappings[page];
        (mapping.bytes, mapping.present) = (1, true);
        system.latest[page] = 1;
    }

    /// Nothing can happen any more without somebody touching a page.
    pub fn is_quiet(&self, system: &System) -> bool {
        let lent =
            system.hosts.iter().flat_map(|host| &host.mappings).any(|m| m.lent_read + m.lent_write > 0);
        let expires = system.nodes.iter().any(|kept| kept.node.next_deadline().is_some());
        system.links.iter().all(VecDeque::is_empty) && !lent && !expires
    }

    /// In quiet, everybody has been served, and the directory, the nodes and the guests agree.
    pub fn is_settled(&self, system: &System) -> Result<(), String> {
        if system.waiting.iter().chain(&system.borrowing).any(|&(read, write)| read || write) {
            return Err("somebody waits for ever".to_owned());
        }
        let takes_part = |(_, part): &(&Arc<Kept>, &Part)| part.listens();
        let members =
            || system.nodes.iter().zip(&system.parts).filter(takes_part).map(|(kept, _)| &kept.node);
        members().try_for_each(Node::check_idle)?;
        if system.parts.contains(&Part::Retired) && self.changes(system).is_empty() {
            return Err("a node can never leave".to_owned());
        }
        for page in 0..self.pages() {
            let gfn = self.shape.pages().gfn(page);
            let home = members().find(|node| node.is_home(gfn)).ok_or("no home")?;
            if members().any(|node| node.home_of(gfn) != home.home_of(gfn)) {
                return Err(format!("not all know the home of page {page}"));
            }
            let recorded = home.recorded(gfn);
            check_whole(members(), home, gfn)?;
            for (at, (kept, host)) in system.nodes.iter().zip(&system.hosts).enumerate() {
                let listed = recorded.iter().find(|(node, _)| node.index() == at);
                let listed = listed.map_or(Rights::None, |(_, rights)| *rights);
                let (believed, real) = (kept.node.rights(gfn), host.mappings[page].rights);
                if (listed, believed) != (real, real) {
                    return Err(format!("page {page} at node {at}: {listed:?}, {believed:?}, {real:?}"));
                }
            }
        }
        Ok(())
    }

    fn steps_at(&self, system: &System, node: usize, page: usize, steps: &mut Vec<Step>) {
        if system.parts[node] != Part::Member {
            return;
        }
        let mapping = &system.hosts[node].mappings[page];
        let slot = self.slot(node, page);
        for access in [Read, Write] {
            let waits = |(read, write): (bool, bool)| if access == Read { read } else { write };
            let faults = self.accesses.contains(&access) && system.faults_left != Some(0);
            if faults && !mapping.allows(access) && !waits(system.waiting[slot]) {
                steps.push(Step::Touch { node, page, access });
            }
            let lent = if access == Read { mapping.lent_read } else { mapping.lent_write };
            if self.devices && lent == 0 && !waits(system.borrowing[slot]) {
                steps.push(Step::Borrow { node, page, access });
            }
            if lent > 0 {
                steps.push(Step::Return { node, page, access });
            }
        }
        if mapping.allows(Write) {
            steps.push(Step::Store { node, page });
        }
    }
}

fn flag(pair: &mut (bool, bool), access: Access) -> &mut bool {
    match access {
        Read => &mut pair.0,
        Write => &mut pair.1,
    }
}

impl Model for Protocol {
    type State = System;
    type Action = Step;

    fn init_states(&self) -> Vec<System> {
        let count = usize::from(self.shape.nodes);
        let nodes: Vec<_> = (0..self.shape.nodes).map(|me| self.keep(self.shape.node(me))).collect();
        vec![System {
            hosts: nodes.iter().map(|kept| self.shape.host(&kept.node)).collect(),
            nodes,
            links: vec![VecDeque::new(); count * count],
            waiting: vec![(false, false); count * self.pages()],
            borrowing: vec![(false, false); count * self.pages()],
            latest: vec![0; self.pages()],
            parts: self.shape.parts(),
            handovers_left: self.handovers,
            faults_left: self.faults,
            drained: 0,
            failure: None,
        }]
    }

    fn actions(&self, system: &System, steps: &mut Vec<Step>) {
        if system.failure.is_some() {
            return;
        }
        let count = system.nodes.len();
        for node in 0..count {
            (0..self.pages()).for_each(|page| self.steps_at(system, node, page, steps));
            if system.parts[node].listens() && system.nodes[node].node.next_deadline().is_some() {
                steps.push(Step::Expire { node });
            }
        }
        if self.handovers > 0 || self.leaver.is_some() || self.shape.late > 0 {
            steps.extend(self.changes(system).into_iter().map(Step::Change));
        }
        for (link, packets) in system.links.iter().enumerate() {
            if !packets.is_empty() {
                steps.push(Step::Deliver { from: link / count, to: link % count });
            }
        }
    }

    fn next_state(&self, system: &System, step: Step) -> Option<System> {
        let mut next = system.clone();
        if let Err(why) = self.take(&mut next, step) {
            next.failure = Some(why);
        } else if self.is_quiet(&next) {
            next.failure = self.is_settled(&next).err();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("coherent, and everybody is served", |_, system: &System| {
                system.failure.is_none()
            }),
            Property::sometimes("all share a page", |_, system: &System| {
                system.hosts.iter().all(|host| host.mappings[0].rights == Rights::Read)
            }),
            Property::sometimes("a page waits for acknowledgements or has all", |_, system: &System| {
                system
                    .links
                    .iter()
                    .flatten()
                    .any(|packet| matches!(packet.message, crate::protocol::Message::Invalidated { .. }))
            }),
        ]
    }
}

impl Live for Protocol {
    fn failure<'a>(&self, system: &'a System) -> Option<&'a str> {
        system.failure.as_deref()
    }

    fn rests(&self, system: &System) -> bool {
        self.is_quiet(system)
    }

    fn waits(&self, system: &System) -> u64 {
        let waits = system.waiting.iter().chain(&system.borrowing);
        let bits = waits.flat_map(|&(read, write)| [read, write]).enumerate();
        bits.fold(0, |bits, (at, waits)| bits | u64::from(waits) << at)
    }

    fn kind(&self, step: &Step) -> Kind {
        let nodes = usize::from(self.shape.nodes);
        match *step {
            Step::Deliver { from, to } => Kind::Duty((from * nodes + to) as u8),
            Step::Expire { node } => Kind::Duty((nodes * nodes + node) as u8),
            Step::Return { node, page, access } => {
                let slot = 2 * self.slot(node, page) + usize::from(access == Write);
                Kind::Duty((nodes * (nodes + 1) + slot) as u8)
            }
            // A page that is lent again and again without a gap is never given up.
            Step::Borrow { .. } | Step::Change(_) => Kind::Seldom,
            Step::Touch { .. } | Step::Store { .. } => Kind::Choice,
        }
    }
}

/// What a run of the checker found.
pub struct Verdict {
    pub states: usize,
    pub failure: Option<String>,
}

/// Explores all of a model, or until something is wrong.
pub fn explore(name: &str, protocol: Protocol) -> Verdict {
    let (has_mutant, writes_only) = (protocol.mutant.is_some(), protocol.accesses == [Write]);
    let checker = protocol.checker().threads(2).target_state_count(STATES_MAX);
    let checker = match has_mutant {
        true => checker.finish_when(HasDiscoveries::AnyFailures),
        false => checker,
    };
    let checker = checker.spawn_bfs().join();
    let failure = checker.discovery("coherent, and everybody is served").map(|path| {
        let failure = path.last_state().failure.clone().unwrap_or_default();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        format!("{failure}\n{}", steps.join("\n"))
    });
    let states = checker.unique_state_count();
    assert!(checker.state_count() < STATES_MAX, "{name}: the states do not end");
    if !has_mutant {
        let (depth, total) = (checker.max_depth(), checker.state_count());
        println!("{name}: {states} states, {total} steps, depth {depth}");
        assert!(
            writes_only || checker.discovery("all share a page").is_some(),
            "{name}: never: all share a page"
        );
        assert!(
            writes_only || checker.discovery("a page waits for acknowledgements or has all").is_some(),
            "{name}: never: a page waits for acknowledgements or has all"
        );
    }
    Verdict { states, failure }
}

/// Explores all of a model: every state, and whether in its runs all that is under way comes to rest and nobody waits for ever.
fn holds(name: &str, protocol: Protocol) {
    let explored = liveness::check(&protocol.again()).unwrap_or_else(|story| panic!("{name}: {story}"));
    holds_in_each_state(name, protocol);
    println!("{name}: {explored}");
}

/// Explores all of a model whose graph would be too large to keep.
fn holds_in_each_state(name: &str, protocol: Protocol) {
    let verdict = explore(name, protocol);
    if let Some(failure) = verdict.failure {
        panic!("{name}: {failure}");
    }
    assert!(verdict.states > 100, "{name}: only {} states", verdict.states);
}

/// What is wrong in the states or in the runs of a model.
pub fn wrong_in_runs(protocol: &Protocol) -> Option<String> {
    liveness::check(protocol).err()
}

fn on_lease(mut shape: Shape) -> Shape {
    shape.lease = LeasePolicy { base_us: 1, max_us: 1 };
    shape
}

#[test]
fn two_nodes_and_one_page() {
    holds("2 nodes, 1 page", Protocol::new(Shape::new(2, &[0], 1)));
}

/// Every hand-over seen once makes a page migratory, and every second guess is a probe.
pub fn with_habits(mut shape: Shape) -> Shape {
    shape.habits.migratory = Some(MigratoryPolicy { after: 1, probe_every: 2 });
    shape
}

/// Extents become whole again.
pub fn with_merges(mut shape: Shape) -> Shape {
    shape.habits.merge = Some(MergePolicy { quiet_us: 1 });
    shape
}

#[test]
fn two_nodes_and_one_page_with_merges() {
    holds("2 nodes, 1 page, merges", Protocol::new(with_merges(Shape::new(2, &[0], 1))));
}

#[test]
fn two_nodes_and_one_page_with_merges_and_devices() {
    let protocol = Protocol::new(with_merges(Shape::new(2, &[0], 1))).with_devices();
    holds("2 nodes, 1 page, merges, devices", protocol);
}

#[test]
fn three_nodes_and_one_page_with_merges() {
    holds("3 nodes, 1 page, merges", Protocol::new(with_merges(Shape::new(3, &[0], 1))));
}

#[test]
fn two_nodes_and_one_page_whose_home_changes_twice() {
    holds("2 nodes, 1 page, 2 handovers", Protocol::new(Shape::new(2, &[0], 1)).with_handovers(2));
}

#[test]
fn two_nodes_and_one_page_whose_home_changes_with_merges() {
    let protocol = Protocol::new(with_merges(Shape::new(2, &[0], 1))).with_handovers(1);
    holds("2 nodes, 1 page, merges, 1 handover", protocol);
}

#[test]
fn two_nodes_and_one_page_whose_home_changes_with_devices() {
    let protocol = Protocol::new(Shape::new(2, &[0], 1)).with_devices().with_handovers(1);
    holds("2 nodes, 1 page, devices, 1 handover", protocol);
}

#[test]
fn three_nodes_and_one_page_whose_home_changes() {
    let protocol = Protocol::new(Shape::new(3, &[0], 1)).with_writes_only().with_handovers(1);
    holds("3 nodes, 1 page, only written, 1 handover", protocol);
}

/// Somebody else than the leaver has touched the extent first, so that the leaver has the used page at most.
pub fn with_content(mut shape: Shape) -> Shape {
    shape.preloaded = vec![(Extent(0).first(), 1)];
    shape
}

#[test]
fn two_nodes_of_which_one_leaves() {
    let protocol = Protocol::new(with_content(Shape::new(2, &[0], 1))).with_leaver(1).with_handovers(1);
    holds("2 nodes, 1 page, 1 leaves, 1 handover", protocol);
}

#[test]
fn three_nodes_of_which_one_leaves() {
    let protocol = Protocol::new(with_content(Shape::new(3, &[0], 1))).with_leaver(2);
    holds("3 nodes, 1 page, 1 leaves", protocol);
}

/// The last node joins later.
pub fn with_late(mut shape: Shape) -> Shape {
    shape.late = 1;
    shape
}

#[test]
fn two_nodes_of_which_one_joins_and_becomes_the_home() {
    let protocol = Protocol::new(with_late(Shape::new(2, &[0], 1))).with_handovers(1);
    holds("2 nodes, 1 page, 1 joins, 1 handover", protocol);
}

#[test]
fn three_nodes_of_which_one_joins() {
    holds("3 nodes, 1 page, 1 joins", Protocol::new(with_late(Shape::new(3, &[0], 1))));
}

#[test]
fn two_nodes_and_one_page_with_habits() {
    holds("2 nodes, 1 page, habits", Protocol::new(with_habits(Shape::new(2, &[0], 1))));
}

#[test]
fn two_nodes_and_one_page_with_habits_and_devices() {
    let protocol = Protocol::new(with_habits(Shape::new(2, &[0], 1))).with_devices();
    holds("2 nodes, 1 page, habits, devices", protocol);
}

#[test]
fn three_nodes_and_one_page_with_habits() {
    holds("3 nodes, 1 page, habits", Protocol::new(with_habits(Shape::new(3, &[0], 1))));
}

#[test]
fn two_nodes_and_one_page_with_leases() {
    holds("2 nodes, 1 page, leases", Protocol::new(on_lease(Shape::new(2, &[0], 1))));
}

#[test]
fn two_nodes_and_one_page_with_devices() {
    holds("2 nodes, 1 page, devices", Protocol::new(Shape::new(2, &[0], 1)).with_devices());
}

#[test]
fn two_nodes_and_two_pages_of_one_extent() {
    holds_in_each_state("2 nodes, 2 pages of an extent", Protocol::new(Shape::new(2, &[0], 2)));
}

#[test]
fn two_nodes_and_two_pages_with_different_homes() {
    holds_in_each_state("2 nodes, 2 homes", Protocol::new(Shape::new(2, &[0, 1], 1)));
}

#[test]
fn three_nodes_and_one_page() {
    holds("3 nodes, 1 page", Protocol::new(Shape::new(3, &[0], 1)));
}

#[test]
fn two_nodes_and_two_pages_of_an_extent_that_merges() {
    let protocol = Protocol::new(with_merges(Shape::new(2, &[0], 2))).with_faults(7);
    holds("2 nodes, 2 pages of an extent, merges, 7 faults", protocol);
}

#[test]
fn three_nodes_and_two_pages_of_an_extent() {
    let protocol = Protocol::new(Shape::new(3, &[0], 2)).with_faults(4);
    holds("3 nodes, 2 pages of an extent, 4 faults", protocol);
}

#[test]
fn three_nodes_and_two_pages_of_an_extent_that_merges() {
    let protocol = Protocol::new(with_merges(Shape::new(3, &[0], 2))).with_faults(4);
    holds("3 nodes, 2 pages of an extent, merges, 4 faults", protocol);
}

#[test]
fn three_nodes_and_two_pages_with_different_homes() {
    let protocol = Protocol::new(Shape::new(3, &[0, 1], 1)).with_faults(4);
    holds("3 nodes, 2 homes, 4 faults", protocol);
}

#[test]
fn three_nodes_and_one_page_with_leases() {
    holds("3 nodes, 1 page, leases", Protocol::new(on_lease(Shape::new(3, &[0], 1))));
}
