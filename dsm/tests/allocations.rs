//! The protocol's fault path allocates nothing once it has run for a while.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::cell::Cell;
use std::sync::Arc;

use tessera_dsm::protocol::{
    Access, Action, Event, HabitPolicy, LeasePolicy, Membership, Message, Node, NodeConfig,
};
use tessera_dsm::{Gfn, Layout, NodeId, Region, EXTENT_PAGES};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks for.
struct Counting;

// SAFETY: every call is passed on unchanged to `System`, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        // `try_with`: the thread's storage may be gone while it ends.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        // SAFETY: `at` came from `System.alloc` above, with this `block`.
        unsafe { System.dealloc(at, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NODES: u8 = 4;

struct Cluster {
    nodes: Vec<Node>,
    on_the_way: Vec<(NodeId, NodeId, Message)>,
    actions: Vec<Action>,
    granted: u64,
}

impl Cluster {
    fn new() -> Self {
        let region = |node: u8| Region {
            start: Gfn(u64::from(node) * EXTENT_PAGES),
            pages: EXTENT_PAGES,
            home: NodeId(node),
        };
        let layout = Arc::new(Layout::new((0..NODES).map(region).collect()).expect("valid"));
        let node = |me| {
            let lease = LeasePolicy { base_us: 1, max_us: 4 };
            let preloaded = vec![];
            Node::new(NodeConfig {
                me: NodeId(me),
                nodes: NODES,
                membership: Membership::all(NODES),
                layout: Arc::clone(&layout),
                lease,
                habits: HabitPolicy::default(),
                preloaded,
            })
        };
        Cluster {
            nodes: (0..NODES).map(node).collect(),
            on_the_way: Vec::with_capacity(64),
            actions: Vec::with_capacity(64),
            granted: 0,
        }
    }

    fn step(&mut self, now: u64, at: NodeId, event: Event) {
        self.actions.clear();
        self.nodes[at.index()].handle(now, event, &mut self.actions).expect("allowed");
        for action in &self.actions {
            match *action {
                Action::Send { to, message } => self.on_the_way.push((at, to, message)),
                Action::Install { .. } | Action::Unprotect { .. } => self.granted += 1,
                _ => {}
            }
        }
    }

    /// Every node reads and writes some pages of every home, all at once.
    fn round(&mut self, now: u64) {
        for node in (0..NODES).map(NodeId) {
            for extent in 0..u64::from(NODES) {
                let access = if (now + extent).is_multiple_of(3) { Access::Read } else { Access::Write };
                self.step(now, node, Event::Fault { gfn: Gfn(extent * EXTENT_PAGES + 7), access });
            }
        }
        let mut time = now;
        loop {
            time += 1;
            for node in (0..NODES).map(NodeId) {
                if self.nodes[node.index()].next_deadline().is_some_and(|deadline| deadline <= time) {
                    self.step(time, node, Event::Tick);
                }
            }
            if self.on_the_way.is_empty() {
                if self.nodes.iter().all(|node| node.next_deadline().is_none()) {
                    return;
                }
                continue;
            }
            // First in, first out; so every link keeps its order.
            let (from, to, message) = self.on_the_way.remove(0);
            self.step(time, to, Event::Message { from, message });
        }
    }
}

#[test]
fn faults_allocate_nothing_in_the_steady_state() {
    let mut cluster = Cluster::new();
    (0..50).for_each(|round| cluster.round(round * 1_000));
    let (allocations, granted) = (ALLOCATIONS.get(), cluster.granted);
    (50..1_050).for_each(|round| cluster.round(round * 1_000));
    assert!(cluster.granted - granted > 5_000, "only {} grants", cluster.granted - granted);
    assert_eq!(ALLOCATIONS.get() - allocations, 0, "in {} grants", cluster.granted - granted);
}
