//! Nodes with one segment, joined by links that keep the order.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::host::{Beside, Effects, Host, Packet};
use crate::ids::{NodeId, NodeSet};
use crate::release::segment::{Role, Segment};
use crate::release::wire::{self, Body, Frame};
use crate::release::{
    Access, Action, Counters, Event, Held, Message, Micros, Node, NodeConfig, PageIndex, Payload, SegmentId,
    SegmentSpec, Ticket, VcpuIndex,
};

pub const SEGMENT: SegmentId = SegmentId(7);

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: u8,
    pub pages: u32,
    pub owner: u8,
    pub dirty_max: u32,
}

impl Shape {
    pub fn new(nodes: u8, pages: u32) -> Self {
        Shape { nodes, pages, owner: 0, dirty_max: 64 }
    }

    pub fn node(&self, me: u8) -> Node {
        let mut node = Node::new(NodeConfig { me: NodeId(me), nodes: self.nodes });
        let Shape { pages, dirty_max, .. } = *self;
        let spec = SegmentSpec { segment: SEGMENT, pages, owner: NodeId(self.owner), dirty_max };
        node.handle(0, Event::Open(spec), &mut vec![]).expect("a good segment");
        node
    }
}

/// A mistake built into nodes from outside: it may change the node before an event, and the node and its actions
/// after.
#[derive(Clone, Copy)]
pub struct Fault {
    pub name: &'static str,
    pub before: fn(&mut Node, &Event),
    pub after: fn(&mut Node, &Event, &mut Vec<Action>),
}

/// Lets a node, perhaps with a mistake in it, take an event in.
pub fn handle(
    node: &mut Node,
    now: Micros,
    event: Event,
    fault: Option<Fault>,
    actions: &mut Vec<Action>,
) -> Result<(), String> {
    let Some(fault) = fault else {
        let result = node.handle(now, event, actions);
        return result.map_err(|violation| format!("{event:?} refused: {violation}"));
    };
    (fault.before)(node, &event);
    // A node with a mistake in it may well find that itself.
    let handled = catch_unwind(AssertUnwindSafe(|| node.handle(now, event, actions)));
    let result = handled.map_err(|_| format!("panic on {event:?}"))?;
    result.map_err(|violation| format!("{event:?} refused: {violation}"))?;
    (fault.after)(node, &event, actions);
    Ok(())
}

/// What a link carries.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Parcel {
    Packet(Packet),
    /// The end: the sender is lost.
    Lost,
}

#[derive(Clone)]
pub struct Cluster<const N: usize> {
    pub nodes: Vec<Node>,
    pub hosts: Vec<Host<N>>,
    pub alive: Vec<bool>,
    /// From i to j at `i * nodes + j`.
    pub links: Vec<VecDeque<Parcel>>,
    pub fault: Option<Fault>,
    /// Of the last step.
    pub actions: Vec<Action>,
}

impl<const N: usize> Cluster<N> {
    pub fn new(shape: &Shape) -> Self {
        let count = usize::from(shape.nodes);
        Cluster {
            nodes: (0..shape.nodes).map(|me| shape.node(me)).collect(),
            hosts: vec![Host::new(shape.pages as usize); count],
            alive: vec![true; count],
            links: vec![VecDeque::new(); count * count],
            fault: None,
            actions: vec![],
        }
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
        received: Option<&[u8]>,
    ) -> Result<Effects, String> {
        self.actions.clear();
        handle(&mut self.nodes[at], now, event, self.fault, &mut self.actions)
            .map_err(|why| format!("node {at}: {why}"))?;
        let mut effects = Effects::default();
        self.hosts[at]
            .carry_out(&self.actions, received, &mut effects)
            .map_err(|why| format!("node {at} on {event:?} at {now}: {why} (all: {:?})", self.actions))?;
        for (to, packet) in &effects.sent {
            check_wire(packet)?;
            if self.alive[to.index()] {
                let link = self.link(at, to.index());
                self.links[link].push_back(Parcel::Packet(packet.clone()));
            }
        }
        Ok(effects)
    }

    /// Delivers the first parcel of a link, if any.
    pub fn deliver(&mut self, now: Micros, from: usize, to: usize) -> Result<Option<Effects>, String> {
        let link = self.link(from, to);
        let node = NodeId(from as u8);
        match self.links[link].pop_front() {
            None => Ok(None),
            Some(Parcel::Lost) => self.step(now, to, Event::Lost { node }, None).map(Some),
            Some(Parcel::Packet(Packet { message, data })) => {
                let event = Event::Message { from: node, message };
                self.step(now, to, event, data.as_deref()).map(Some)
            }
        }
    }

    /// A node is lost. Of what it has sent, the first `kept(link's length)` parcels of each link still arrive.
    pub fn crash(&mut self, node: usize, mut kept: impl FnMut(usize) -> usize) {
        self.alive[node] = false;
        for other in 0..self.nodes.len() {
            let (out, back) = (self.link(node, other), self.link(other, node));
            self.links[back].clear();
            let kept = kept(self.links[out].len());
            self.links[out].truncate(kept);
            if self.alive[other] {
                self.links[out].push_back(Parcel::Lost);
            } else {
                self.links[out].clear();
            }
        }
    }

    pub fn fault_at(&mut self, now: Micros, at: usize, page: u32, access: Access) -> Result<Effects, String> {
        let event =
            Event::Fault { segment: SEGMENT, page: PageIndex(page), access, vcpu: VcpuIndex(at as u16) };
        self.step(now, at, event, None)
    }

    pub fn release(&mut self, now: Micros, at: usize, ticket: u64) -> Result<Effects, String> {
        self.step(now, at, Event::Release { segment: SEGMENT, ticket: Ticket(ticket) }, None)
    }

    /// Delivers until nothing is on its way, link by link in turn; gives the tickets of all releases that ended.
    pub fn settle(&mut self, now: Micros) -> Result<Vec<Ticket>, String> {
        let mut released = vec![];
        let count = self.nodes.len();
        while self.links.iter().any(|link| !link.is_empty()) {
            for from in 0..count {
                for to in 0..count {
                    let effects = self.deliver(now, from, to)?.unwrap_or_default();
                    released.extend(effects.released.iter().map(|(ticket, _)| *ticket));
                }
            }
        }
        Ok(released)
    }

    /// The guest reads a page, with whatever faults it takes when nobody else does anything.
    pub fn read(&mut self, at: usize, page: u32) -> [u8; N] {
        self.touch(at, page, Access::Read);
        self.hosts[at].mappings[page as usize].bytes
    }

    /// The guest writes one byte, likewise.
    pub fn write(&mut self, at: usize, page: u32, byte: usize, value: u8) {
        self.touch(at, page, Access::Write);
        self.hosts[at].mappings[page as usize].bytes[byte] = value;
    }

    fn touch(&mut self, at: usize, page: u32, access: Access) {
        if !self.hosts[at].mappings[page as usize].allows(access) {
            self.fault_at(0, at, page, access).expect("allowed");
            self.settle(0).expect("allowed");
        }
        assert!(self.hosts[at].mappings[page as usize].allows(access), "node {at} may not {access:?} {page}");
    }

    pub fn segment(&self, at: usize) -> &Segment {
        &self.nodes[at].segments[&SEGMENT]
    }

    pub fn living(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(|&at| self.alive[at])
    }

    /// The node that serves the segment, unless its ownership is on the move.
    pub fn owner(&self) -> Option<usize> {
        self.living().find(|&at| matches!(self.segment(at).role, Role::Owner(_)))
    }

    pub fn is_broken(&self, at: usize) -> bool {
        self.segment(at).role == Role::Broken
    }

    /// Nothing is under way any more; who has what, and which bytes, is agreed upon. A broken segment is so everywhere.
    pub fn check_quiet(&self) -> Result<(), String> {
        if let Some(link) = self.links.iter().position(|link| !link.is_empty()) {
            return Err(format!("link {link} is not empty"));
        }
        let broken = self.living().filter(|&at| self.is_broken(at)).count();
        if broken > 0 {
            let all = broken == self.living().count();
            return all.then_some(()).ok_or_else(|| format!("only {broken} nodes know that it is broken"));
        }
        let owner = self.owner().ok_or("nobody is the owner")?;
        for at in self.living() {
            check_agreement(
                at,
                self.segment(at),
                &self.hosts[at],
                (owner, self.segment(owner), &self.hosts[owner]),
            )?;
        }
        Ok(())
    }
}

/// Whether a node in quiet agrees with the owner and its own host.
pub fn check_agreement<const N: usize>(
    at: usize,
    segment: &Segment,
    host: &Host<N>,
    (owner, theirs, owner_host): (usize, &Segment, &Host<N>),
) -> Result<(), String> {
    let Role::Owner(served) = &theirs.role else { return Err(format!("node {owner} is not the owner")) };
    let idle = segment.needs.is_empty() && segment.releases.is_empty() && segment.freeze.is_none();
    if !idle || segment.owner.index() != owner || !served.is_idle() {
        return Err(format!("node {at} is not at rest: {segment:?}"));
    }
    if at != owner && segment.role != Role::User {
        return Err(format!("node {at} is {:?}, beside the owner", segment.role));
    }
    for (index, mapping) in host.mappings.iter().enumerate() {
        let held = segment.held[index];
        let real = match (mapping.rights, &mapping.beside) {
            (None, Beside::Nothing) => Held::None,
            (Some(Access::Read), Beside::Nothing) => Held::Read,
            (Some(Access::Write), Beside::Twin(_)) => Held::Dirty,
            (None, Beside::Aside(_)) => Held::Aside,
            other => return Err(format!("node {at}, page {index}: {other:?}")),
        };
        let listed = served.copies[index].contains(NodeId(at as u8));
        if held != real || (at != owner && listed != held.rights().is_some()) {
            return Err(format!("node {at}, page {index}: {held:?}, really {real:?}, listed: {listed}"));
        }
        let latest = owner_host.mappings[index].released();
        if mapping.rights.is_some() && mapping.released() != latest {
            return Err(format!(
                "node {at}, page {index}: a copy of {:?}, not {latest:?}",
                mapping.released()
            ));
        }
    }
    Ok(())
}

/// Whether the message survives being made bytes.
fn check_wire(packet: &Packet) -> Result<(), String> {
    let body = match (packet.message.payload(), &packet.data) {
        (Payload::None, None) => Body::None,
        (Payload::Page, Some(data)) if data.iter().all(|byte| *byte == 0) => Body::ZeroPage,
        (Payload::Page, Some(_)) => Body::Page,
        (Payload::Difference, Some(data)) => Body::Difference(data.len() as u16),
        other => return Err(format!("{:?} with {other:?}", packet.message)),
    };
    let frame = Frame::new(packet.message, body).ok_or("a message with a body that it has not")?;
    match wire::decode(&wire::encode(&frame)) {
        Ok(same) if same == frame => Ok(()),
        other => Err(format!("{frame:?} became {other:?}")),
    }
}

/// What only tests may see of a node.
impl Node {
    /// Takes out what makes states differ that behave alike: counts, the log, and numbers that grow.
    pub fn normalise(&mut self) {
        self.counters = Counters::default();
        self.log = Default::default();
        for segment in self.segments.values_mut() {
            let by = segment.releases.rebase();
            for need in segment.needs.values_mut() {
                need.diffing = need.diffing.map(|release| release.rebased(by));
                need.flush = need.flush.map(|release| release.rebased(by));
            }
        }
    }
}

/// A message that goes to `to`.
pub fn send(to: u8, message: Message) -> Action {
    Action::Send { to: NodeId(to), message }
}

pub fn nodes(which: &[u8]) -> NodeSet {
    which.iter().fold(NodeSet::EMPTY, |mut set, &node| {
        set.insert(NodeId(node));
        set
    })
}
