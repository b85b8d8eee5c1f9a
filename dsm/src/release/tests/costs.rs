//! What it costs in messages and bytes, beside the strict protocol on the same programs.
//!
//! The programs' accesses are made one after another, in an order that is fixed and the same for both protocols; each
//! fault is served to its end before the next access. Locks and barriers cost the same in both and are not counted. The
//! strict protocol runs without leases: `burst` accesses of one node come in a row, as a lease would let them.
//!
//! `cargo test --profile checker -p tessera-dsm --lib release::tests::costs -- --nocapture` prints the table.

use std::collections::BTreeMap;

use super::cluster::{Cluster, Parcel, Shape, SEGMENT};
use super::host::Packet;
use crate::ids::{Extent, Gfn, NodeId, EXTENT_PAGES, PAGE_BYTES};
use crate::layout::{Layout, Region};
use crate::protocol::{self, LeasePolicy};
use crate::release::{Access, Event, PageIndex, Ticket, VcpuIndex};
use crate::wire::FRAME_BYTES;

use Access::{Read, Write};

/// One step of a program: by which node.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An access to a byte of the segment.
    Access(usize, usize, Access),
    Release(usize),
}

/// Messages and bytes on the links.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cost {
    messages: usize,
    bytes: usize,
}

impl Cost {
    fn count(&mut self, data: usize) {
        self.messages += 1;
        self.bytes += FRAME_BYTES + data;
    }
}

fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

/// Runs steps on eager release, with real pages.
fn eager(nodes: u8, pages: u32, steps: &[Step]) -> Cost {
    let shape = Shape { dirty_max: 1024, ..Shape::new(nodes, pages) };
    let mut cluster: Cluster<PAGE_BYTES> = Cluster::new(&shape);
    let mut cost = Cost::default();
    let mut expected = BTreeMap::new();
    for (number, &step) in steps.iter().enumerate() {
        match step {
            Step::Access(node, byte, access) => {
                let page = byte / PAGE_BYTES;
                while !cluster.hosts[node].mappings[page].allows(access) {
                    let (page, vcpu) = (PageIndex(page as u32), VcpuIndex(0));
                    let fault = Event::Fault { segment: SEGMENT, page, access, vcpu };
                    cluster.step(0, node, fault, None).expect("allowed");
                    deliver_all(&mut cluster, &mut cost);
                }
                let seen = &mut cluster.hosts[node].mappings[page].bytes[byte % PAGE_BYTES];
                assert_eq!(expected.get(&byte).copied().unwrap_or(0), *seen, "step {number}, byte {byte}");
                if access == Write {
                    *seen = seen.wrapping_add(1).max(1);
                    expected.insert(byte, *seen);
                }
            }
            Step::Release(node) => {
                let release = Event::Release { segment: SEGMENT, ticket: Ticket(0) };
                cluster.step(0, node, release, None).expect("allowed");
                deliver_all(&mut cluster, &mut cost);
            }
        }
    }
    cluster.check_quiet().expect("quiet");
    cost
}

fn deliver_all(cluster: &mut Cluster<PAGE_BYTES>, cost: &mut Cost) {
    let count = cluster.nodes.len();
    while let Some(link) = cluster.links.iter().position(|link| !link.is_empty()) {
        if let Some(Parcel::Packet(Packet { data, .. })) = cluster.links[link].front() {
            let travels = data.as_ref().filter(|data| !is_zero(data));
            cost.count(travels.map_or(0, Vec::len));
        }
        cluster.deliver(0, link / count, link % count).expect("allowed");
    }
}

/// Runs the same steps on the strict protocol.
struct Strict {
    nodes: Vec<protocol::Node>,
    /// Whether a page has content: pages of zeros travel without bytes.
    written: Vec<bool>,
    cost: Cost,
}

impl Strict {
    fn new(nodes: u8, pages: u32) -> Self {
        let extents = u64::from(pages).div_ceil(EXTENT_PAGES);
        let region = Region { start: Extent(0).first(), pages: extents * EXTENT_PAGES, home: NodeId(0) };
        let config = protocol::NodeConfig {
            me: NodeId(0),
            nodes,
            membership: protocol::Membership::all(nodes),
            layout: Layout::new(vec![region]).expect("whole extents").into(),
            lease: LeasePolicy { base_us: 0, max_us: 0 },
            habits: protocol::HabitPolicy::OFF,
            preloaded: vec![],
        };
        let node = |me| protocol::Node::new(protocol::NodeConfig { me: NodeId(me), ..config.clone() });
        Strict {
            nodes: (0..nodes).map(node).collect(),
            written: vec![false; pages as usize],
            cost: Cost::default(),
        }
    }

    fn access(&mut self, node: usize, page: usize, access: Access) {
        let gfn = Gfn(page as u64);
        if !self.nodes[node].rights(gfn).allow(access) {
            let mut open = vec![(node, protocol::Event::Fault { gfn, access })];
            while let Some((at, event)) = open.pop() {
                let mut actions = vec![];
                self.nodes[at].handle(0, event, &mut actions).expect("allowed");
                for action in actions {
                    let protocol::Action::Send { to, message } = action else { continue };
                    let data = if message.carries_page() && self.written[page] { PAGE_BYTES } else { 0 };
                    self.cost.count(data);
                    let from = NodeId(at as u8);
                    // In the order in which they were sent: this one is delivered last.
                    open.insert(0, (to.index(), protocol::Event::Message { from, message }));
                }
            }
            assert!(self.nodes[node].rights(gfn).allow(access));
        }
        self.written[page] |= access == Write;
    }
}

fn strict(nodes: u8, pages: u32, steps: &[Step]) -> Cost {
    let mut strict = Strict::new(nodes, pages);
    for &step in steps {
        if let Step::Access(node, byte, access) = step {
            strict.access(node, byte / PAGE_BYTES, access);
        }
    }
    strict.cost
}

/// A program: nodes, pages, what it does again and again, how often.
struct Program {
    name: String,
    nodes: u8,
    pages: u32,
    steps: Vec<Step>,
}

/// Node 0 writes `pages` pages and releases; all others read all of them.
fn one_writer(nodes: u8, pages: u32, rounds: usize) -> Program {
    let words = || (0..pages as usize * PAGE_BYTES).step_by(64);
    let mut steps = vec![];
    for _ in 0..rounds {
        steps.extend(words().map(|byte| Step::Access(0, byte, Write)));
        steps.push(Step::Release(0));
        for reader in 1..usize::from(nodes) {
            steps.extend(words().map(|byte| Step::Access(reader, byte, Read)));
        }
    }
    Program { name: format!("one writer, {} readers, {pages} pages", nodes - 1), nodes, pages, steps }
}

/// Each node counts in its own word of one page, `burst` times in a row, and releases every 64 counts.
fn counters(nodes: u8, burst: usize, rounds: usize) -> Program {
    let mut steps = vec![];
    for _ in 0..rounds {
        for _ in 0..64 / burst {
            for node in 0..usize::from(nodes) {
                steps.extend(
                    (0..burst).flat_map(|_| [Read, Write].map(|access| Step::Access(node, node * 8, access))),
                );
            }
        }
        steps.extend((0..usize::from(nodes)).map(Step::Release));
    }
    Program { name: format!("false sharing, {nodes} counters, bursts of {burst}"), nodes, pages: 1, steps }
}

/// Node 0 puts `batch` entries of 64 bytes in a ring of 4 pages and releases; node 1 takes them and releases. Head and tail
/// lie in pages of their own.
fn ring(batch: usize, rounds: usize) -> Program {
    const HEAD: usize = 0;
    const TAIL: usize = PAGE_BYTES;
    const ENTRIES: usize = 2 * PAGE_BYTES;
    let entry = |number: usize| ENTRIES + number * 64 % (4 * PAGE_BYTES);
    let mut steps = vec![];
    for round in 0..rounds {
        let batch = || (round * batch..(round + 1) * batch).map(entry);
        steps.push(Step::Access(0, TAIL, Read));
        steps.extend(
            batch().flat_map(|at| (0..64).step_by(8).map(move |byte| Step::Access(0, at + byte, Write))),
        );
        steps.extend([Step::Access(0, HEAD, Write), Step::Release(0), Step::Access(1, HEAD, Read)]);
        steps.extend(
            batch().flat_map(|at| (0..64).step_by(8).map(move |byte| Step::Access(1, at + byte, Read))),
        );
        steps.extend([Step::Access(1, TAIL, Write), Step::Release(1)]);
    }
    Program { name: format!("ring buffer, batches of {batch}"), nodes: 2, pages: 6, steps }
}

/// Rows of 1.5 pages, in blocks, one block for each node, so that borders lie within pages; each round a node reads the
/// rows next to its block and writes all of its own, `burst` words at a time in turn with the others.
fn stencil(nodes: u8, rows_each: usize, rounds: usize) -> Program {
    const ROW: usize = PAGE_BYTES * 3 / 2;
    let rows = usize::from(nodes) * rows_each;
    let words = |row: usize| (row * ROW..(row + 1) * ROW).step_by(8);
    let mut steps = vec![];
    for _ in 0..rounds {
        for node in 0..usize::from(nodes) {
            let (first, end) = (node * rows_each, (node + 1) * rows_each);
            let around = first.checked_sub(1).into_iter().chain((end < rows).then_some(end));
            steps.extend(around.flat_map(words).map(|byte| Step::Access(node, byte, Read)));
        }
        // A barrier, then all write at once, 64 words each in turn.
        let mut own: Vec<Vec<usize>> = (0..usize::from(nodes))
            .map(|node| (node * rows_each..(node + 1) * rows_each).flat_map(words).collect())
            .collect();
        while own.iter().any(|words| !words.is_empty()) {
            for (node, words) in own.iter_mut().enumerate() {
                let burst = words.len().min(64);
                steps.extend(words.drain(..burst).map(|byte| Step::Access(node, byte, Write)));
            }
        }
        steps.extend((0..usize::from(nodes)).map(Step::Release));
    }
    let pages = (rows * ROW).div_ceil(PAGE_BYTES) as u32;
    Program { name: format!("stencil, {nodes} nodes of {rows_each} rows"), nodes, pages, steps }
}

#[test]
fn eager_release_against_strict_coherence() {
    const ROUNDS: usize = 20;
    let programs = [
        one_writer(2, 4, ROUNDS),
        one_writer(8, 4, ROUNDS),
        counters(2, 1, ROUNDS),
        counters(4, 1, ROUNDS),
        counters(4, 16, ROUNDS),
        counters(4, 64, ROUNDS),
        ring(1, ROUNDS),
        ring(16, ROUNDS),
        stencil(2, 8, ROUNDS),
        stencil(4, 8, ROUNDS),
    ];
    println!("| per round | strict: messages | bytes | eager release: messages | bytes |");
    println!("|---|---|---|---|---|");
    for Program { name, nodes, pages, steps } in programs {
        let (before, after) = (strict(nodes, pages, &steps), eager(nodes, pages, &steps));
        let each = |number: usize| (number as f64 / ROUNDS as f64).round();
        println!(
            "| {name} | {} | {} | {} | {} |",
            each(before.messages),
            each(before.bytes),
            each(after.messages),
            each(after.bytes)
        );
        if name.contains("false sharing") && !name.contains("64") {
            assert!(after.messages * 4 < before.messages, "{name}: this is what it is for");
        }
    }
}

/// What one critical section of node 1 costs that writes each of `dirty` pages `writes` times, while node 2 has copies.
fn critical_section(dirty: u32, writes: usize) -> Cost {
    let read = |page: u32| Step::Access(2, page as usize * PAGE_BYTES, Read);
    let first = |page: u32| Step::Access(1, page as usize * PAGE_BYTES + 8, Read);
    let before: Vec<Step> = (0..dirty).flat_map(|page| [read(page), first(page)]).collect();
    let write = |page: u32, word: usize| Step::Access(1, page as usize * PAGE_BYTES + word % 512 * 8, Write);
    let section = (0..writes).flat_map(|word| (0..dirty).map(move |page| write(page, word)));
    let all: Vec<Step> = before.iter().copied().chain(section).chain([Step::Release(1)]).collect();
    let (without, with) = (eager(3, dirty, &before), eager(3, dirty, &all));
    Cost { messages: with.messages - without.messages, bytes: with.bytes - without.bytes }
}

#[test]
fn a_critical_section_costs_messages_by_the_pages_it_dirties_not_by_its_writes() {
    for dirty in [1, 2, 8, 64] {
        for writes in [1, 10, 1000] {
            let cost = critical_section(dirty, writes);
            println!("{dirty} pages, {writes} writes each: {cost:?}");
            // For each page: the difference, one copy thrown away and acknowledged, the answer.
            assert_eq!(cost.messages, 4 * dirty as usize);
            let changed = writes.min(512) * dirty as usize;
            assert!(cost.bytes <= cost.messages * FRAME_BYTES + changed * 4, "{cost:?}");
        }
    }
}
