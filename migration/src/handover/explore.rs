//! Every interleaving of a move with every failure at every step: at most one node runs the vCPU, and when
//! all is quiet exactly one does, unless the guest was stopped.

use std::collections::{HashSet, VecDeque};

use super::*;

/// What travels in the test: how often the vCPU was frozen, so that an old context is told from a new one.
type Context = u8;
type Queue = VecDeque<MoveMessage<Context>>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: Vec<Handover<Context>>,
    /// `links[from][to]`
    links: Vec<Vec<Queue>>,
    /// Whether the two nodes can still talk.
    cut: bool,
    freezing: Vec<bool>,
    adopting: Vec<bool>,
    stopped: bool,
    orders: u8,
    failures: u8,
    frozen: Context,
    /// The context that runs now: must be the newest one.
    adopted: Context,
}

impl World {
    fn new() -> Self {
        World {
            nodes: vec![Handover::new(VcpuId(0), true), Handover::new(VcpuId(0), false)],
            links: vec![vec![Queue::new(); 2]; 2],
            cut: false,
            freezing: vec![false; 2],
            adopting: vec![false; 2],
            stopped: false,
            orders: 3,
            failures: 2,
            frozen: 0,
            adopted: 0,
        }
    }

    fn feed(mut self, node: usize, event: Event<Context>) -> World {
        let mut actions = Vec::new();
        let mut unsent = None;
        self.nodes[node].handle(event, &mut actions);
        for action in actions {
            match action {
                Action::Send(to, message) if !self.cut => self.links[node][to.index()].push_back(message),
                Action::Send(to, _) => unsent = Some(to),
                Action::BecomeProxy | Action::Report(_) => {}
                Action::Freeze => self.freezing[node] = true,
                Action::Adopt(context) => {
                    assert_eq!(context, self.frozen, "an old context came back");
                    self.adopted = context;
                    self.adopting[node] = true;
                }
                Action::TakeBack(context) => {
                    assert_eq!(context, self.frozen, "an old context was taken back");
                    self.adopted = context;
                }
                Action::Stop(_) => self.stopped = true,
            }
        }
        match unsent {
            Some(to) => self.feed(node, Event::Unsent(to)),
            None => self,
        }
    }

    fn next(&self) -> Vec<World> {
        let mut out = Vec::new();
        let id = |i: usize| NodeId(i as u8);
        for node in 0..2 {
            let peer = 1 - node;
            if self.orders > 0 {
                let mut world = self.clone();
                world.orders -= 1;
                out.push(world.feed(node, Event::Order(id(peer))));
            }
            if let Some(message) = self.links[node][peer].front() {
                let mut world = self.clone();
                world.links[node][peer].pop_front();
                out.push(world.feed(peer, Event::Message(id(node), message.clone())));
            }
            if self.freezing[node] {
                let mut world = self.clone();
                world.freezing[node] = false;
                if matches!(world.nodes[node].state, State::Freezing(_)) {
                    world.frozen += 1;
                }
                let context = world.frozen;
                out.push(world.feed(node, Event::Frozen(context)));
                let mut world = self.clone();
                world.freezing[node] = false;
                out.push(world.feed(node, Event::NotFrozen(Refusal::Freeze("test".into()))));
            }
            if self.adopting[node] {
                let mut world = self.clone();
                world.adopting[node] = false;
                out.push(world.clone().feed(node, Event::Adopted(0)));
                out.push(world.feed(node, Event::NotAdopted(Refusal::Adopt("test".into()))));
            }
            if self.failures > 0 {
                let mut world = self.clone();
                world.failures -= 1;
                out.push(world.clone().feed(node, Event::Timeout));
                world.nodes[node].close(Some("draining".into()));
                out.push(world);
            }
        }
        if self.failures > 0 && !self.cut {
            // The link is cut: what was on its way is gone, and both learn of it.
            let mut world = self.clone();
            world.cut = true;
            world.failures -= 1;
            world.links = vec![vec![Queue::new(); 2]; 2];
            out.push(world.feed(0, Event::Lost(id(1))).feed(1, Event::Lost(id(0))));
        }
        out
    }

    fn check(&self) {
        let running = self.nodes.iter().filter(|node| node.may_run()).count();
        assert!(running <= 1, "two nodes run the vCPU");
        let quiet = self.links.iter().flatten().all(Queue::is_empty)
            && !self.freezing.contains(&true)
            && !self.adopting.contains(&true);
        let waiting = self.nodes.iter().any(|node| matches!(node.state, State::Asking(_)));
        if quiet && !self.cut && !waiting {
            assert_eq!(running, 1, "the vCPU runs nowhere: {:?}", self.nodes);
        }
        if quiet && self.cut && running == 0 {
            let last_may_have_run = self.nodes.iter().any(|node| node.state == State::Stopped);
            assert!(last_may_have_run && self.stopped, "the vCPU is lost without a word");
        }
        if running == 1 {
            assert_eq!(self.adopted, self.frozen, "what runs is not what was frozen last");
        }
    }
}

#[test]
fn at_most_one_node_runs_the_vcpu_whatever_fails() {
    let mut seen = HashSet::new();
    let mut todo = vec![World::new()];
    while let Some(world) = todo.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        world.check();
        todo.extend(world.next());
    }
    println!("{} states", seen.len());
    assert!(seen.len() > 1000, "the exploration saw only {} states", seen.len());
}

#[test]
fn a_move_takes_four_messages() {
    let mut world = World::new().feed(0, Event::Order(NodeId(1)));
    let mut messages = 0;
    for _ in 0..10 {
        for (from, to) in [(0usize, 1usize), (1, 0)] {
            if let Some(message) = world.links[from][to].pop_front() {
                messages += 1;
                world = world.feed(to, Event::Message(NodeId(from as u8), message));
            }
        }
        if std::mem::take(&mut world.freezing[0]) {
            world = world.feed(0, Event::Frozen(0));
        }
        if std::mem::take(&mut world.adopting[1]) {
            world = world.feed(1, Event::Adopted(0));
        }
    }
    assert_eq!(messages, 4);
    assert!(world.nodes[1].may_run() && !world.nodes[0].may_run());
    assert_eq!(world.nodes[1].epoch(), Epoch(1));
}
