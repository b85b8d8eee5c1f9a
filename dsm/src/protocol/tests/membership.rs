//! Nodes that come and go, and homes that change: what whoever decides on it would tell the nodes of a cluster.

use super::cluster::{Cluster, Shape};
use super::host::{Effects, Host};
use crate::ids::{Extent, NodeId};
use crate::protocol::{Access, Event, Membership, Micros, Node};

/// One order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A home hands an extent over.
    HandOver { node: usize, extent: Extent, to: usize },
    /// A member is told of a node that is to join.
    Admit { node: usize, joins: usize },
    /// The node that all have been told of starts.
    Start { node: usize },
    /// A node touches nothing any more.
    Retire { node: usize },
    /// A member takes the pages of a retired node away.
    Drain { node: usize, retired: usize },
    /// A member forgets a retired node.
    Dismiss { node: usize, retired: usize },
}

impl Change {
    /// Where it happens.
    pub fn node(self) -> usize {
        match self {
            Change::HandOver { node, .. }
            | Change::Admit { node, .. }
            | Change::Start { node }
            | Change::Retire { node }
            | Change::Drain { node, .. }
            | Change::Dismiss { node, .. } => node,
        }
    }
}

/// What part a node has in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Part {
    /// It has not started.
    Late,
    Member,
    /// It touches nothing any more.
    Retired,
    /// All others have dismissed it.
    Gone,
}

impl Part {
    /// Whether it takes messages in.
    pub fn listens(self) -> bool {
        matches!(self, Part::Member | Part::Retired)
    }
}

/// The nodes of a cluster or of a model, and what part each has.
pub struct Guest<'a> {
    pub nodes: Vec<&'a Node>,
    pub parts: &'a [Part],
}

impl Guest<'_> {
    fn others(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.nodes.len()).filter(move |&other| other != node && self.parts[other].listens())
    }

    fn id(node: usize) -> NodeId {
        NodeId(node as u8)
    }

    /// No home is changing anywhere.
    fn homes_rest(&self) -> bool {
        (0..self.nodes.len()).all(|node| !self.parts[node].listens() || self.nodes[node].homes_rest())
    }

    /// Nobody is about to come or to go.
    fn members_rest(&self) -> bool {
        let admitted = |node: &usize| self.others(*node).any(|other| self.knows(other, *node));
        let changing = |node: &usize| match self.parts[*node] {
            Part::Late => admitted(node),
            Part::Retired => true,
            Part::Member | Part::Gone => false,
        };
        !(0..self.nodes.len()).any(|node| changing(&node))
    }

    fn knows(&self, node: usize, of: usize) -> bool {
        self.nodes[node].members().contains(Guest::id(of))
    }

    /// Whether whoever decides may do it now.
    pub fn may(&self, change: Change) -> bool {
        match change {
            Change::HandOver { node, extent, to } => {
                let joins = (0..self.nodes.len()).any(|late| {
                    self.parts[late] == Part::Late && self.others(late).any(|n| self.knows(n, late))
                });
                let leaves = |node: usize| self.parts[node] == Part::Retired;
                let drained = self.others(node).any(|other| leaves(other) && !leaves(node));
                self.parts[node].listens()
                    && self.parts[to] == Part::Member
                    && !joins
                    && !drained
                    && self.nodes[node].may_hand_over(extent, Guest::id(to))
            }
            Change::Admit { node, joins } => {
                let others_rest = (0..self.nodes.len()).all(|other| self.parts[other] != Part::Retired);
                self.parts[node] == Part::Member
                    && self.parts[joins] == Part::Late
                    && !self.knows(node, joins)
                    && others_rest
                    && self.homes_rest()
            }
            Change::Start { node } => {
                self.parts[node] == Part::Late && self.others(node).all(|other| self.knows(other, node))
            }
            Change::Retire { node } => {
                self.parts[node] == Part::Member
                    && self.members_rest()
                    && self.others(node).count() > 0
                    && self.nodes[node].requests_out() == 0
            }
            Change::Drain { node, retired } => {
                self.parts[node] == Part::Member
                    && self.parts[retired] == Part::Retired
                    && self.knows(node, retired)
                    && self.homes_rest()
                    && self.nodes[retired].home_extents().next().is_none()
            }
            Change::Dismiss { node, retired } => {
                let clear = |other: usize| {
                    !self.knows(other, retired) || self.nodes[other].is_clear_of(Guest::id(retired))
                };
                self.parts[node] == Part::Member
                    && self.parts[retired] == Part::Retired
                    && self.knows(node, retired)
                    && self.nodes[retired].homes_rest()
                    && self.others(retired).all(clear)
            }
        }
    }

    /// What each other node starts with that joins.
    pub fn membership(&self, node: usize) -> Membership {
        let known = self.others(node).next().map(|other| self.nodes[other]);
        let homes = known.map(|known| known.homes().collect()).unwrap_or_default();
        let members = known.map(Node::members).unwrap_or_default();
        Membership { members, homes }
    }

    /// The part that a node has when a change has happened.
    pub fn part_after(&self, change: Change) -> Option<(usize, Part)> {
        match change {
            Change::Start { node } => Some((node, Part::Member)),
            Change::Retire { node } => Some((node, Part::Retired)),
            Change::Dismiss { node, retired } => {
                let last = self.others(retired).all(|other| other == node || !self.knows(other, retired));
                last.then_some((retired, Part::Gone))
            }
            _ => None,
        }
    }
}

impl Change {
    /// What the node is told; nothing if it is not running yet, or need not know.
    pub fn event(self) -> Option<Event> {
        let id = |node: usize| NodeId(node as u8);
        match self {
            Change::HandOver { extent, to, .. } => Some(Event::HandOver { extent, to: id(to) }),
            Change::Admit { joins, .. } => Some(Event::Admit { node: id(joins) }),
            Change::Drain { retired, .. } => Some(Event::Drain { node: id(retired) }),
            Change::Dismiss { retired, .. } => Some(Event::Dismiss { node: id(retired) }),
            Change::Start { .. } | Change::Retire { .. } => None,
        }
    }
}

impl Cluster {
    fn guest(&self) -> Guest<'_> {
        Guest { nodes: self.nodes.iter().collect(), parts: &self.parts }
    }

    /// Whether whoever decides may do it now.
    pub fn may_change(&self, change: Change) -> bool {
        !self.stopped[change.node()] && self.guest().may(change)
    }

    /// Does it.
    pub fn change(&mut self, now: Micros, change: Change) -> Result<Effects, String> {
        let part = self.guest().part_after(change);
        let mut effects = Effects::default();
        if let Change::Start { node } = change {
            let membership = self.guest().membership(node);
            self.nodes[node] = self.shape.node_of(node as u8, membership);
        }
        if let Some(event) = change.event() {
            effects = self.step(now, change.node(), event, None)?;
        }
        if let Some((node, part)) = part {
            self.parts[node] = part;
            if part == Part::Gone {
                self.check_gone(node)?;
            }
        }
        Ok(effects)
    }

    /// A node that has gone has nothing, and nothing on its way to or from it matters.
    fn check_gone(&mut self, node: usize) -> Result<(), String> {
        holds_nothing(&self.hosts[node]).map_err(|why| format!("node {node} is gone, {why}"))?;
        for other in 0..self.nodes.len() {
            for link in [self.link(node, other), self.link(other, node)] {
                let hints = std::mem::take(&mut self.links[link]);
                if let Some(packet) = hints.iter().find(|packet| !is_hint(packet)) {
                    return Err(format!("node {node} is gone before {packet:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Whether it is no matter if a message is lost.
pub fn is_hint(packet: &super::host::Packet) -> bool {
    matches!(packet.message, crate::protocol::Message::Hurry { .. })
}

/// The guest's mapping on a node has no page.
pub fn holds_nothing(host: &Host) -> Result<(), String> {
    let held = host.mappings.iter().position(|mapping| mapping.rights != crate::protocol::Rights::None);
    held.map_or(Ok(()), |page| Err(format!("but has page {page}")))
}

impl Shape {
    /// The part that each node has at the start.
    pub fn parts(&self) -> Vec<Part> {
        let first_late = self.nodes - self.late;
        (0..self.nodes).map(|node| if node < first_late { Part::Member } else { Part::Late }).collect()
    }
}

#[test]
fn a_home_has_said_to_itself_what_it_had_to_say_before_another_is_the_home() {
    let mut cluster = Cluster::new(&Shape::new(3, &[0], 2));
    let (extent, late) = (Extent(0), cluster.pages.gfn(1));
    let read = |gfn| Event::Fault { gfn, access: Access::Read };
    // Node 1 gets the extent while its request for another page of it is still on its way, and becomes its home.
    cluster.step(0, 1, read(extent.first()), None).expect("allowed");
    cluster.step(0, 1, read(late), None).expect("allowed");
    let deliver = |cluster: &mut Cluster, from, to| {
        cluster.deliver(0, from, to).expect("allowed").expect("a message");
    };
    deliver(&mut cluster, 1, 0);
    deliver(&mut cluster, 0, 1);
    cluster.step(0, 0, Event::HandOver { extent, to: NodeId(1) }, None).expect("allowed");
    for (from, to) in [(0, 1), (0, 1), (0, 2), (2, 1)] {
        deliver(&mut cluster, from, to);
    }
    // Node 2 reads that page; then the late request is sent back, and waits behind node 2's.
    cluster.step(0, 2, read(late), None).expect("allowed");
    deliver(&mut cluster, 2, 1);
    for (from, to) in [(1, 0), (0, 1)] {
        deliver(&mut cluster, from, to);
    }
    cluster.step(0, 1, Event::HandOver { extent, to: NodeId(2) }, None).expect("allowed");
    // Node 2 is done, and with it node 1: it has the page, and is the home no more.
    deliver(&mut cluster, 1, 2);
    deliver(&mut cluster, 2, 1);
    assert_eq!(cluster.nodes[1].requests_out(), 0);
    assert!(!cluster.nodes[1].is_home(late));
    cluster.settle(0).expect("allowed");
    cluster.check_quiet().expect("settled");
}
