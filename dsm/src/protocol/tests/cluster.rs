//! Nodes joined by links that keep the order, and the invariants that hold after every step.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::host::{Effects, Host, Packet, Pages};
use super::membership::Part;
use crate::ids::{Extent, Gfn, NodeId, EXTENT_PAGES};
use crate::layout::{Layout, Region};
use crate::protocol::{
    Access, Action, Counters, Event, HabitPolicy, Home, LeasePolicy, Membership, Micros, Node, NodeConfig,
    Rights,
};

/// A layout of one region for each extent, with the given homes.
pub fn layout(homes: &[u8]) -> Arc<Layout> {
    let region = |(extent, &home): (usize, &u8)| Region {
        start: Extent(extent as u64).first(),
        pages: EXTENT_PAGES,
        home: NodeId(home),
    };
    Arc::new(Layout::new(homes.iter().enumerate().map(region).collect()).expect("valid"))
}

pub const NO_LEASE: LeasePolicy = LeasePolicy { base_us: 0, max_us: 0 };

/// How many nodes and pages there are, and what is the same for all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shape {
    pub nodes: u8,
    pub homes: Vec<u8>,
    pub pages_each: usize,
    pub lease: LeasePolicy,
    pub habits: HabitPolicy,
    pub preloaded: Vec<(Gfn, u64)>,
    /// So many nodes, the last ones, join later.
    pub late: u8,
}

impl Shape {
    pub fn new(nodes: u8, homes: &[u8], pages_each: usize) -> Self {
        let (homes, lease, habits) = (homes.to_vec(), NO_LEASE, HabitPolicy::OFF);
        Shape { nodes, homes, pages_each, lease, habits, preloaded: vec![], late: 0 }
    }

    pub fn node(&self, me: u8) -> Node {
        let mut membership = Membership::all(self.nodes - self.late);
        // Of no use before it is started, but it must be something.
        membership.members.insert(NodeId(me));
        self.node_of(me, membership)
    }

    /// A node that joins.
    pub fn node_of(&self, me: u8, membership: Membership) -> Node {
        Node::new(NodeConfig {
            me: NodeId(me),
            nodes: self.nodes,
            membership,
            layout: layout(&self.homes),
            lease: self.lease,
            habits: self.habits,
            preloaded: self.preloaded.clone(),
        })
    }

    pub fn pages(&self) -> Pages {
        Pages { extents: self.homes.len(), each: self.pages_each }
    }

    pub fn host(&self, node: &Node) -> Host {
        let mut host = Host::new(self.pages());
        for extent in node.whole_extents() {
            for index in host.pages.of_extent(extent.0) {
                (host.mappings[index].rights, host.mappings[index].whole) = (Rights::Write, true);
            }
        }
        host
    }
}

/// A mistake built into a node from outside: it may change the node before an event, and the node and its
/// actions after.
#[derive(Clone, Copy)]
pub struct Mutant {
    pub name: &'static str,
    pub before: fn(&mut Node, &Event),
    pub after: fn(&mut Node, &Event, &mut Vec<Action>),
}

/// Lets a node, perhaps with a mistake in it, take an event in.
pub fn handle(
    node: &mut Node,
    now: Micros,
    event: Event,
    mutant: Option<Mutant>,
    actions: &mut Vec<Action>,
) -> Result<(), String> {
    let Some(mutant) = mutant else {
        return node
            .handle(now, event, actions)
            .map_err(|violation| format!("{event:?} refused: {violation}"));
    };
    (mutant.before)(node, &event);
    // A node with a mistake in it may well find that itself.
    let handled = catch_unwind(AssertUnwindSafe(|| node.handle(now, event, actions)));
    let result = handled.map_err(|_| format!("panic on {event:?}"))?;
    result.map_err(|violation| format!("{event:?} refused: {violation}"))?;
    (mutant.after)(node, &event, actions);
    Ok(())
}

pub struct Cluster {
    pub shape: Shape,
    pub pages: Pages,
    pub nodes: Vec<Node>,
    pub parts: Vec<Part>,
    pub hosts: Vec<Host>,
    /// From i to j at `i * nodes + j`.
    pub links: Vec<VecDeque<Packet>>,
    /// Each page's latest version.
    pub latest: Vec<u64>,
    /// Nodes that are silent for good.
    pub stopped: Vec<bool>,
    pub mutant: Option<Mutant>,
    /// Of the last step.
    pub actions: Vec<Action>,
}

impl Cluster {
    pub fn new(shape: &Shape) -> Self {
        let nodes: Vec<Node> = (0..shape.nodes).map(|me| shape.node(me)).collect();
        let hosts = nodes.iter().map(|node| shape.host(node)).collect();
        let links = vec![VecDeque::new(); nodes.len() * nodes.len()];
        let pages = shape.pages();
        let latest = vec![0; pages.len()];
        let stopped = vec![false; nodes.len()];
        let (parts, actions) = (shape.parts(), Vec::new());
        let shape = shape.clone();
        Cluster { shape, pages, nodes, parts, hosts, links, latest, stopped, mutant: None, actions }
    }

    pub fn link(&self, from: usize, to: usize) -> usize {
        from * self.nodes.len() + to
    }

    /// Lets a node take an event in and carries its actions out; what it sends is in the links already.
    pub fn step(
        &mut self,
        now: Micros,
        at: usize,
        event: Event,
        received: Option<u64>,
    ) -> Result<Effects, String> {
        self.actions.clear();
        let node = &mut self.nodes[at];
        handle(node, now, event, self.mutant, &mut self.actions)
            .map_err(|why| format!("node {at}: {why}"))?;
        let mut effects = Effects::default();
        self.hosts[at]
            .carry_out(&self.actions, received, &mut effects)
            .map_err(|why| format!("node {at} on {event:?} at {now}: {why} (all: {:?})", self.actions))?;
        for &(to, packet) in &effects.sent {
            let link = self.link(at, to.index());
            self.links[link].push_back(packet);
        }
        for &index in &effects.changed {
            self.check_page(index).map_err(|why| format!("after {event:?} at node {at} at {now}: {why}"))?;
        }
        Ok(effects)
    }

    /// Delivers the first message of a link, if any; a silent node takes nothing in.
    pub fn deliver(&mut self, now: Micros, from: usize, to: usize) -> Result<Option<Effects>, String> {
        let link = self.link(from, to);
        let listens = !self.stopped[to] && self.parts[to].listens();
        let Some(packet) = self.links[link].pop_front().filter(|_| listens) else {
            return Ok(None);
        };
        let event = Event::Message { from: NodeId(from as u8), message: packet.message };
        self.step(now, to, event, packet.bytes).map(Some)
    }

    fn check_page(&self, index: usize) -> Result<(), String> {
        check_page(self.hosts.iter(), index, self.latest[index])
    }

    /// The guest does the access, if it can without a fault.
    pub fn access(&mut self, at: usize, index: usize, access: Access) -> bool {
        if !self.hosts[at].mappings[index].allows(access) {
            return false;
        }
        self.hosts[at].mappings[index].present = true;
        self.store_or_load(at, index, access);
        true
    }

    /// A device does the access, past the guest's mapping, to a page that is lent to it.
    pub fn access_lent(&mut self, at: usize, index: usize, access: Access) -> bool {
        if !self.hosts[at].mappings[index].rights.allow(access) {
            return false;
        }
        self.store_or_load(at, index, access);
        true
    }

    fn store_or_load(&mut self, at: usize, index: usize, access: Access) {
        if access == Access::Write {
            self.latest[index] += 1;
            self.hosts[at].mappings[index].bytes = self.latest[index];
        }
    }

    /// Delivers until nothing is on its way, link by link in turn.
    pub fn settle(&mut self, now: Micros) -> Result<(), String> {
        let count = self.nodes.len();
        while self.links.iter().any(|link| !link.is_empty()) {
            for from in 0..count {
                for to in 0..count {
                    self.deliver(now, from, to)?;
                }
            }
        }
        Ok(())
    }

    /// The nodes that take part.
    fn members(&self) -> impl Iterator<Item = &Node> + Clone {
        let parts = self.parts.iter();
        self.nodes.iter().zip(parts).filter(|(_, part)| part.listens()).map(|(node, _)| node)
    }

    /// Nothing is under way any more, and what the nodes believe is what the guests may do.
    pub fn check_quiet(&self) -> Result<(), String> {
        if let Some(link) = self.links.iter().position(|link| !link.is_empty()) {
            return Err(format!("link {link} is not empty"));
        }
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| self.parts[*at].listens()) {
            node.check_idle().map_err(|why| format!("node {at}: {why}"))?;
        }
        for index in 0..self.pages.len() {
            self.check_page(index)?;
            let gfn = self.pages.gfn(index);
            for (at, (node, host)) in self.nodes.iter().zip(&self.hosts).enumerate() {
                let (believed, real) = (node.rights(gfn), host.mappings[index].rights);
                if believed != real {
                    return Err(format!(
                        "node {at} believes it has {believed:?} of {gfn}, the guest has {real:?}"
                    ));
                }
            }
            let home = self.members().find(|node| node.is_home(gfn));
            let homes = || self.members().map(|node| node.home_of(gfn));
            if homes().any(|known| known != homes().next().flatten()) {
                return Err(format!(
                    "{gfn}: its home is {:?}, as each node knows",
                    homes().collect::<Vec<_>>()
                ));
            }
            home.map_or(Ok(()), |home| check_whole(self.members(), home, gfn))?;
            let held = |at: NodeId| self.nodes[at.index()].rights(gfn);
            let all = (0..self.nodes.len() as u8).map(NodeId);
            let holders: Vec<(NodeId, Rights)> =
                all.map(|at| (at, held(at))).filter(|(_, rights)| *rights != Rights::None).collect();
            let recorded = home.map(|home| home.recorded(gfn)).unwrap_or_default();
            if self.latest[index] > 0 && holders.is_empty() {
                return Err(format!("{gfn}: nobody has it any more"));
            }
            if recorded != holders {
                return Err(format!("{gfn}: the directory says {recorded:?}, the nodes {holders:?}"));
            }
        }
        Ok(())
    }
}

/// Home and nodes agree who has the page's extent as a whole, and it is whole if it could be.
pub fn check_whole<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    home: &Node,
    gfn: Gfn,
) -> Result<(), String> {
    let recorded = home.whole_owner(gfn);
    let believed = nodes.into_iter().find(|node| node.has_whole(gfn)).map(|node| node.me);
    match recorded == believed {
        true => home.check_merged(gfn),
        false => {
            Err(format!("{gfn}: the home says that {recorded:?} has all of the extent, {believed:?} does"))
        }
    }
}

/// One writer or many readers, and every copy that can be read is the latest.
pub fn check_page<'a>(
    hosts: impl Iterator<Item = &'a Host> + Clone,
    index: usize,
    latest: u64,
) -> Result<(), String> {
    let count = |rights| hosts.clone().filter(|host| host.mappings[index].rights == rights).count();
    let (writers, readers) = (count(Rights::Write), count(Rights::Read));
    if writers > 1 || (writers == 1 && readers > 0) {
        return Err(format!("page {index} has {writers} writers and {readers} readers"));
    }
    for (at, host) in hosts.enumerate() {
        let mapping = &host.mappings[index];
        if mapping.rights != Rights::None && mapping.bytes != latest {
            return Err(format!(
                "node {at} may read page {index} version {}, latest is {latest}",
                mapping.bytes
            ));
        }
    }
    Ok(())
}

/// What only tests may see of a node.
impl Node {
    /// Nothing is asked for, deferred or being transacted.
    pub fn check_idle(&self) -> Result<(), String> {
        let (wanted, deferred) = (self.wanted.len(), self.deferred.len());
        let transactions = self.directory.transactions().len();
        self.directory.check_counts()?;
        if !self.handovers.is_empty() || self.draining.is_some() {
            return Err(format!("{:?} and {:?} are left", self.handovers, self.draining));
        }
        match wanted + deferred + transactions {
            0 if self.directory.counts_requests() > 0 => Err("finished requests still count".to_owned()),
            0 => Ok(()),
            _ => Err(format!("{wanted} requests, {deferred} deferred, {transactions} transactions are left")),
        }
    }

    /// Whether this node keeps the page's entry.
    pub fn is_home(&self, gfn: Gfn) -> bool {
        self.home_of(gfn).is_some_and(|home| home.node == self.me)
    }

    /// The page's home, as this node knows.
    pub fn home_of(&self, gfn: Gfn) -> Option<Home> {
        self.place(gfn).ok().map(|place| self.homes.get(place.extent))
    }

    /// Who has the page's extent as a whole, as this home's directory says.
    pub fn whole_owner(&self, gfn: Gfn) -> Option<NodeId> {
        self.directory.whole_owner(self.place(gfn).expect("in RAM"))
    }

    /// Whether the page's extent is this node's as a whole.
    pub fn has_whole(&self, gfn: Gfn) -> bool {
        self.pages.is_whole(self.place(gfn).expect("in RAM"))
    }

    /// An extent that nothing keeps apart is whole, if this home merges at all.
    pub fn check_merged(&self, gfn: Gfn) -> Result<(), String> {
        match self.directory.merges() && self.directory.could_merge(self.place(gfn).expect("in RAM")) {
            true => Err(format!("{gfn}: the extent could be whole")),
            false => Ok(()),
        }
    }

    /// Whether what is under way for the page needs `node`.
    pub fn waits_for(&self, gfn: Gfn, node: NodeId) -> bool {
        self.directory.transaction(gfn).is_some_and(|transaction| {
            [transaction.requester, transaction.supplier].contains(&node)
                || transaction.invalidated.contains(node)
        })
    }

    /// Takes out what makes states differ that behave alike: counts, past times, and transaction numbers that grow.
    pub fn normalise(&mut self) {
        self.counters = Counters::default();
        self.pages.forget_times();
        self.leases.fulfilled(0);
        self.handovers.forget_times();
        self.directory.reuse_numbers();
        self.directory.forget_past();
    }

    /// A digest of all that bears on the pages given.
    pub fn digest(&self, gfns: impl Iterator<Item = Gfn>) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.wanted, &self.deferred, &self.leases, self.directory.transactions()).hash(&mut hasher);
        (&self.homes, &self.handovers, self.draining).hash(&mut hasher);
        for gfn in gfns {
            let place = self.place(gfn).expect("in RAM");
            (self.pages.page(place), self.pages.is_whole(place)).hash(&mut hasher);
            (self.directory.recorded(place), self.directory.habit(place)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Who has the page, as this home's directory says.
    pub fn recorded(&self, gfn: Gfn) -> Vec<(NodeId, Rights)> {
        let place = self.place(gfn).expect("in RAM");
        self.directory.recorded(place)
    }
}
