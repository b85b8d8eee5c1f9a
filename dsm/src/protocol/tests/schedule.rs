//! A schedule: the steps that a run took, one by one, which can be taken again without the random choices that
//! led to them, also with some of them left out.

use super::cluster::{Cluster, Mutant, Shape};
use super::host::Effects;
use super::membership::{Change, Part};
use crate::protocol::{Access, Event, Message, Micros};

/// Rounds of deliveries and deadlines after a schedule's last step; more than that and it does not come to rest.
const ROUNDS_MAX: usize = 10_000;

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// A vCPU may not do what it wants, and faults.
    Fault { node: usize, page: usize, access: Access },
    /// A vCPU does what it may.
    Access { node: usize, page: usize, access: Access },
    /// The first message of a link arrives.
    Deliver { from: usize, to: usize },
    /// A device asks for a page.
    Borrow { node: usize, page: usize, access: Access },
    /// A device does its access to a page that is lent to it, and gives it back.
    Return { node: usize, page: usize, access: Access },
    /// A node looks at the time.
    Tick { node: usize },
    /// Homes and members change.
    Change(Change),
    /// A node falls silent for good.
    Stop { node: usize },
    /// The last message that a silent node sent on a link is lost with it.
    Lose { from: usize, to: usize },
}

/// A step, when it was taken, and the message that arrived by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    pub at: Micros,
    pub step: Move,
    pub message: Option<Message>,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Taken { at, step, message } = self;
        write!(f, "{at:>8} us  ")?;
        match (*step, message) {
            (Move::Fault { node, page, access }, _) => {
                write!(f, "node {node} faults on page {page}: {access:?}")
            }
            (Move::Access { node, page, access }, _) => {
                write!(f, "node {node} does {access:?} on page {page}")
            }
            (Move::Deliver { from, to }, Some(message)) => write!(f, "{from} -> {to}: {message:?}"),
            (Move::Deliver { from, to }, None) => write!(f, "{from} -> {to}: nothing"),
            (Move::Borrow { node, page, access }, _) => {
                write!(f, "node {node} borrows page {page}: {access:?}")
            }
            (Move::Return { node, page, access }, _) => {
                write!(f, "node {node} returns page {page}: {access:?}")
            }
            (Move::Change(change), _) => write!(f, "{change:?}"),
            (Move::Tick { node }, _) => write!(f, "node {node} looks at the time"),
            (Move::Stop { node }, _) => write!(f, "node {node} falls silent"),
            (Move::Lose { from, to }, _) => write!(f, "{from} -> {to}: the last message is lost"),
        }
    }
}

impl Cluster {
    /// Whether a step means anything now; a schedule with steps left out skips what has lost its meaning.
    pub fn is_possible(&self, step: Move) -> bool {
        let lives = |node: usize| !self.stopped[node] && self.parts[node].listens();
        let works = |node: usize| !self.stopped[node] && self.parts[node] == Part::Member;
        let allows = |node: usize, page: usize, access| self.hosts[node].mappings[page].allows(access);
        match step {
            Move::Change(change) => self.may_change(change),
            Move::Fault { node, .. } | Move::Borrow { node, .. } => works(node),
            Move::Tick { node } | Move::Stop { node } => lives(node),
            Move::Access { node, page, access } => works(node) && allows(node, page, access),
            Move::Return { node, page, access } => lives(node) && self.hosts[node].lent(page, access) > 0,
            Move::Deliver { from, to } => !self.links[self.link(from, to)].is_empty(),
            Move::Lose { from, to } => !lives(from) && !self.links[self.link(from, to)].is_empty(),
        }
    }

    /// Takes one step, which must be possible.
    pub fn take(&mut self, now: Micros, step: Move) -> Result<Effects, String> {
        let pages = self.pages;
        let gfn = |page| pages.gfn(page);
        match step {
            Move::Fault { node, page, access } => {
                self.step(now, node, Event::Fault { gfn: gfn(page), access }, None)
            }
            Move::Access { node, page, access } => {
                self.access(node, page, access);
                Ok(Effects::default())
            }
            Move::Deliver { from, to } => Ok(self.deliver(now, from, to)?.unwrap_or_default()),
            Move::Borrow { node, page, access } => {
                self.step(now, node, Event::Borrow { gfn: gfn(page), access }, None)
            }
            Move::Return { node, page, access } => {
                if !self.access_lent(node, page, access) {
                    return Err(format!("node {node} lost page {page} while it was lent for {access:?}"));
                }
                self.hosts[node].take_back(page, access);
                self.step(now, node, Event::Return { gfn: gfn(page) }, None)
            }
            Move::Tick { node } => self.step(now, node, Event::Tick, None),
            Move::Change(change) => self.change(now, change),
            Move::Stop { node } => {
                self.stopped[node] = true;
                Ok(Effects::default())
            }
            Move::Lose { from, to } => {
                let link = self.link(from, to);
                self.links[link].pop_back();
                Ok(Effects::default())
            }
        }
    }

    /// The message that a step would deliver.
    pub fn about_to_arrive(&self, step: Move) -> Option<Message> {
        let Move::Deliver { from, to } = step else { return None };
        self.links[self.link(from, to)].front().map(|packet| packet.message)
    }
}

/// A schedule that is taken again.
struct Replay {
    cluster: Cluster,
    /// Vcpus that wait, by node and page.
    waiting: Vec<bool>,
    taken: Vec<Taken>,
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Those of its steps that meant anything.
    pub steps: Vec<Taken>,
    /// What followed by itself.
    pub rest: Vec<Taken>,
    /// What went wrong, or that somebody waits for ever.
    pub failure: Option<String>,
}

/// Takes a schedule's steps, as far as they mean anything, and lets what they began come to its end.
pub fn replay(shape: &Shape, schedule: &[Taken], mutant: Option<Mutant>) -> Replayed {
    let mut cluster = Cluster::new(shape);
    cluster.mutant = mutant;
    let waiting = vec![false; cluster.nodes.len() * cluster.pages.len()];
    let mut replay = Replay { cluster, waiting, taken: vec![] };
    for &Taken { at, step, .. } in schedule {
        if let Err(failure) = replay.take(at, step) {
            return Replayed { steps: replay.taken, rest: vec![], failure: Some(failure) };
        }
    }
    let steps = std::mem::take(&mut replay.taken);
    // Steps that mean nothing must leave no trace, or the rest would depend on them.
    let now = steps.last().map_or(0, |last| last.at);
    let failure = replay.come_to_rest(now).err();
    Replayed { steps, rest: replay.taken, failure }
}

impl Replay {
    /// Takes a step if it is possible.
    fn take(&mut self, now: Micros, step: Move) -> Result<(), String> {
        if !self.cluster.is_possible(step) {
            return Ok(());
        }
        self.taken.push(Taken { at: now, step, message: self.cluster.about_to_arrive(step) });
        let pages = self.cluster.pages.len();
        if let Move::Fault { node, page, .. } = step {
            self.waiting[node * pages + page] = true;
        }
        let effects = self.cluster.take(now, step)?;
        effects.woken.iter().for_each(|page| self.waiting[step.node() * pages + page] = false);
        Ok(())
    }

    /// Delivers, gives back and lets time pass until nothing is under way.
    fn come_to_rest(&mut self, mut now: Micros) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let steps = self.cluster.steps_to_rest(now);
            let Some(next) = steps.iter().map(|(at, _)| *at).min() else { break };
            now = now.max(next);
            for (_, step) in steps.into_iter().filter(|(at, _)| *at <= now) {
                self.take(now, step)?;
            }
        }
        if self.cluster.stopped.contains(&true) {
            return Ok(());
        }
        let pages = self.cluster.pages.len();
        if let Some(slot) = self.waiting.iter().position(|waits| *waits) {
            return Err(format!("node {} waits for page {} for ever", slot / pages, slot % pages));
        }
        self.cluster.check_quiet()
    }
}

impl Move {
    /// Where it happens.
    pub fn node(self) -> usize {
        match self {
            Move::Change(change) => change.node(),
            Move::Fault { node, .. }
            | Move::Access { node, .. }
            | Move::Borrow { node, .. }
            | Move::Return { node, .. }
            | Move::Tick { node }
            | Move::Stop { node }
            | Move::Lose { from: node, .. }
            | Move::Deliver { to: node, .. } => node,
        }
    }
}

impl Cluster {
    /// What must happen, and from when on it can, before nothing is under way any more.
    fn steps_to_rest(&self, now: Micros) -> Vec<(Micros, Move)> {
        let count = self.nodes.len();
        let links = (0..count).flat_map(|from| (0..count).map(move |to| Move::Deliver { from, to }));
        let mut steps: Vec<(Micros, Move)> =
            links.filter(|&step| self.is_possible(step)).map(|step| (now, step)).collect();
        for node in (0..count).filter(|&node| !self.stopped[node] && self.parts[node].listens()) {
            for page in 0..self.pages.len() {
                for access in [Access::Read, Access::Write] {
                    let lent = usize::from(self.hosts[node].lent(page, access));
                    steps.extend(std::iter::repeat_n((now, Move::Return { node, page, access }), lent));
                }
            }
            if let Some(deadline) = self.nodes[node].next_deadline() {
                steps.push((deadline, Move::Tick { node }));
            }
        }
        steps
    }
}
