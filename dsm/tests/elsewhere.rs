//! Two nodes whose memory is two cores' each, and instructions that need pages of both: the cores must hear each other, or
//! the nodes take the pages from each other before either can use them.

use std::sync::Arc;

use tessera_dsm::protocol::{
    Access, Action, Event, HabitPolicy, LeasePolicy, Membership, Message, Micros, Node, NodeConfig, Pace,
};
use tessera_dsm::{Gfn, Layout, NodeId, Region, Stripes, EXTENT_BYTES, EXTENT_PAGES};

/// What a message takes, and waking a vCPU.
const TRAVEL_US: Micros = 60;
const WAKE_US: Micros = 10;
/// How long is simulated.
const SPAN_US: Micros = 1_000_000;

/// Whether the cores of a node hear each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cores {
    Apart,
    Together,
}

/// A vCPU whose one instruction stores to these pages at once, again and again.
struct Vcpu {
    pages: [Gfn; 2],
    /// When it tries; `None` while it waits for a page.
    tries: Option<Micros>,
    done: u64,
}

struct Machine {
    cores: Cores,
    /// By node, then core.
    nodes: Vec<[Node; 2]>,
    vcpus: Vec<Vcpu>,
    /// When, to which node and core, from whom.
    on_the_way: Vec<(Micros, usize, usize, NodeId, Message)>,
}

impl Machine {
    fn new(cores: Cores) -> Self {
        let region = |node: u8| Region {
            start: Gfn(u64::from(node) * EXTENT_PAGES),
            pages: EXTENT_PAGES,
            home: NodeId(node),
        };
        let layout = Layout::new(vec![region(0), region(1)]).expect("valid");
        let stripes = Stripes::of_at_least(EXTENT_BYTES, &layout, 2);
        let node = |me: u8| {
            [0, 1].map(|core| {
                let shard = stripes.shards().nth(core).expect("two");
                Node::new(NodeConfig {
                    me: NodeId(me),
                    nodes: 2,
                    membership: Membership::all(2),
                    layout: Arc::new(stripes.part_of(&layout, shard)),
                    lease: LeasePolicy::default(),
                    habits: HabitPolicy::OFF,
                    preloaded: vec![],
                })
            })
        };
        let (one, other) = (Gfn(7), Gfn(EXTENT_PAGES + 7));
        let vcpu = |pages| Vcpu { pages, tries: Some(0), done: 0 };
        Machine {
            cores,
            nodes: vec![node(0), node(1)],
            // Each begins with the page that the other ends with.
            vcpus: vec![vcpu([one, other]), vcpu([other, one])],
            on_the_way: Vec::new(),
        }
    }

    fn hear(&mut self, node: usize, core: usize) {
        if self.cores == Cores::Together {
            let pace: Pace = self.nodes[node][1 - core].pace();
            self.nodes[node][core].hear_elsewhere(pace);
        }
    }

    fn event(&mut self, now: Micros, node: usize, core: usize, event: Event) {
        self.hear(node, core);
        let mut actions = Vec::new();
        self.nodes[node][core].handle(now, event, &mut actions).expect("allowed");
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    let from = NodeId(node as u8);
                    self.on_the_way.push((now + TRAVEL_US, to.index(), core, from, message));
                }
                Action::Install { wake: true, .. }
                | Action::Unprotect { .. }
                | Action::OwnExtent { .. }
                | Action::Wake { .. } => {
                    let vcpu = &mut self.vcpus[node];
                    vcpu.tries = vcpu.tries.or(Some(now + WAKE_US));
                }
                _ => {}
            }
        }
    }

    /// How many instructions each node has done.
    fn run(mut self) -> [u64; 2] {
        for now in 0..SPAN_US {
            // First in, first out.
            while let Some(next) = self.on_the_way.iter().position(|&(at, ..)| at <= now) {
                let (_, node, core, from, message) = self.on_the_way.remove(next);
                self.event(now, node, core, Event::Message { from, message });
            }
            for node in 0..2 {
                for core in 0..2 {
                    self.hear(node, core);
                    if self.nodes[node][core].next_deadline().is_some_and(|at| at <= now) {
                        self.event(now, node, core, Event::Tick);
                    }
                }
                if self.vcpus[node].tries.is_some_and(|at| at <= now) {
                    self.try_to_store(now, node);
                }
            }
        }
        [self.vcpus[0].done, self.vcpus[1].done]
    }

    fn try_to_store(&mut self, now: Micros, node: usize) {
        let core_of = |gfn: Gfn| usize::from(gfn.0 >= EXTENT_PAGES);
        let lacks = |gfn: &&Gfn| !self.nodes[node][core_of(**gfn)].rights(**gfn).allow(Access::Write);
        let lacking = self.vcpus[node].pages.iter().find(lacks).copied();
        let vcpu = &mut self.vcpus[node];
        match lacking {
            None => {
                vcpu.done += 1;
                vcpu.tries = Some(now + 1);
            }
            Some(gfn) => {
                vcpu.tries = None;
                self.event(now, node, core_of(gfn), Event::Fault { gfn, access: Access::Write });
            }
        }
    }
}

#[test]
fn an_instruction_that_needs_pages_of_two_cores_comes_to_its_end() {
    let done = Machine::new(Cores::Together).run();
    println!("instructions done in a second: {done:?}");
    assert!(done.iter().all(|&done| done > 100), "{done:?}");
}

#[test]
fn cores_that_do_not_hear_each_other_take_the_pages_from_each_other_for_ever() {
    let done = Machine::new(Cores::Apart).run();
    println!("instructions done in a second: {done:?}");
    assert!(done.iter().all(|&done| done < 100), "then they need not hear each other: {done:?}");
}
