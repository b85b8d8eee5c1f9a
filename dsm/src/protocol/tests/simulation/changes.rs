//! Whoever decides that homes change, that a node joins and that one leaves.

use super::super::membership::{Change, Part};
use super::super::schedule::Move;
use super::{Changes, Simulation};
use crate::ids::Extent;

impl Simulation {
    /// Looks whether there is something to change, does it, and looks again later while there may be more.
    pub fn change(&mut self) -> Result<(), String> {
        let Some(changes) = self.plan.changes else { return Ok(()) };
        if let Some(change) = self.next_change(changes) {
            let part = self.cluster.parts.clone();
            self.step(Move::Change(change))?;
            self.changed = self.now;
            if let Change::Start { node } = change {
                self.begin(node);
            }
            self.drained = match change {
                Change::Drain { node, .. } => self.drained | 1 << node,
                _ if part != self.cluster.parts => 0,
                _ => self.drained,
            };
        }
        if self.ops < self.plan.ops || self.is_leaving() || self.is_joining() {
            self.at(self.now + changes.every_us, super::Moment::Change);
        }
        Ok(())
    }

    /// How many nodes have joined.
    pub fn joined(&self) -> u64 {
        let late = self.plan.shape.parts();
        let joined = |(now, then): (&Part, &Part)| *then == Part::Late && *now != Part::Late;
        self.cluster.parts.iter().zip(&late).filter(|pair| joined(*pair)).count() as u64
    }

    /// Whether a node is to leave and has not left.
    pub fn is_leaving(&self) -> bool {
        self.leaver.is_some_and(|node| self.cluster.parts[node] != Part::Gone)
    }

    fn is_joining(&self) -> bool {
        let nodes = 0..self.cluster.nodes.len();
        let admitted = |node: usize| nodes.clone().any(|at| self.knows(at, node));
        nodes.clone().any(|node| self.cluster.parts[node] == Part::Late && admitted(node))
    }

    fn knows(&self, at: usize, node: usize) -> bool {
        at != node && self.cluster.nodes[at].members().contains(crate::ids::NodeId(node as u8))
    }

    fn next_change(&mut self, changes: Changes) -> Option<Change> {
        self.next_to_join(changes).or_else(|| self.next_to_leave(changes)).or_else(|| {
            let by_chance = self.ops < self.plan.ops && self.random.percent(changes.homes_percent);
            by_chance.then(|| self.some_handover()).flatten()
        })
    }

    fn possible(&self, changes: impl Iterator<Item = Change>) -> Option<Change> {
        changes.into_iter().find(|change| self.cluster.may_change(*change))
    }

    fn next_to_join(&self, changes: Changes) -> Option<Change> {
        if self.ops < changes.join_after_ops || self.ops >= self.plan.ops && !self.is_joining() {
            return None;
        }
        let nodes = 0..self.cluster.nodes.len();
        let joins = nodes.clone().find(|&node| self.cluster.parts[node] == Part::Late)?;
        let admit = nodes.map(|node| Change::Admit { node, joins });
        self.possible(admit.chain([Change::Start { node: joins }]))
    }

    fn next_to_leave(&mut self, changes: Changes) -> Option<Change> {
        let (node, after_ops) = changes.leaves?;
        let node = usize::from(node);
        if self.leaver.is_none() {
            let begins = self.ops >= after_ops && self.ops < self.plan.ops;
            let calm = self.cluster.parts[node] == Part::Member && !self.is_joining();
            self.leaver = (begins && calm).then_some(node);
            self.changed = self.now;
        }
        let retired = self.leaver?;
        let works = self.vcpus.iter().any(|vcpu| vcpu.node == retired && !vcpu.instruction.is_empty())
            || self.devices.iter().any(|device| device.node == retired && !device.wants.is_empty());
        if self.cluster.parts[retired] == Part::Member {
            return if works { None } else { self.possible([Change::Retire { node: retired }].into_iter()) };
        }
        let extents: Vec<Extent> = self.cluster.nodes[retired].home_extents().collect();
        let nodes = self.cluster.nodes.len();
        let to = self.random.next() as usize % nodes;
        let hand_over = extents.into_iter().flat_map(|extent| {
            (0..nodes).map(move |at| Change::HandOver { node: retired, extent, to: (to + at) % nodes })
        });
        let drain = (0..nodes).filter(|node| self.drained & 1 << node == 0);
        let drain = drain.map(|node| Change::Drain { node, retired });
        let dismiss = (0..nodes).map(|node| Change::Dismiss { node, retired });
        self.possible(hand_over.chain(drain).chain(dismiss))
    }

    fn some_handover(&mut self) -> Option<Change> {
        let count = self.cluster.nodes.len() as u64;
        let extent = Extent(self.random.between(0, self.cluster.pages.extents as u64 - 1));
        let to = self.random.between(0, count - 1) as usize;
        self.possible((0..count as usize).map(|node| Change::HandOver { node, extent, to }))
    }
}
