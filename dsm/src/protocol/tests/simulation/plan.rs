//! What a run of the simulator does: everything but the random choices on the way.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::super::cluster::{Shape, NO_LEASE};
use super::super::random::Random;
use crate::ids::Extent;
use crate::protocol::{HabitPolicy, LeasePolicy, MergePolicy, Micros, MigratoryPolicy};

/// A node that falls silent in the middle of things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Crash {
    pub node: u8,
    /// After so many page accesses of all nodes together.
    pub after_ops: u64,
}

/// Homes change, a node joins, a node leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Changes {
    /// How often somebody looks whether there is something to change.
    pub every_us: Micros,
    /// Of so many looks in a hundred, an extent gets another home by chance.
    pub homes_percent: u64,
    /// When the nodes that are late join, in page accesses of all nodes together.
    pub join_after_ops: u64,
    /// Which node leaves, and when.
    pub leaves: Option<(u8, u64)>,
}

/// A run: with its seed it decides every step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Of the choices on the way.
    pub seed: u64,
    pub shape: Shape,
    pub vcpus_each: u64,
    /// Every node has a device that borrows.
    pub devices: bool,
    /// Least and most pages in one instruction.
    pub least: u64,
    pub span: u64,
    pub writes_percent: u64,
    /// An instruction that only reads is followed at once, so often, by one that writes the same pages.
    pub read_then_write_percent: u64,
    pub spurious_percent: u64,
    pub delay_us: (Micros, Micros),
    pub think_us: (Micros, Micros),
    /// Page accesses of all nodes together.
    pub ops: u64,
    pub crash: Option<Crash>,
    pub changes: Option<Changes>,
}

impl Plan {
    /// The plan that a seed stands for, of as many nodes as the range allows.
    pub fn random(seed: u64, nodes: RangeInclusive<u8>, ops: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = random.between((*nodes.start()).into(), (*nodes.end()).into()) as u8;
        let extents = random.between(1, 4);
        let homes: Vec<u8> = (0..extents).map(|_| random.between(0, u64::from(nodes) - 1) as u8).collect();
        let mut shape = Shape::new(nodes, &homes, random.between(1, 4) as usize);
        shape.lease = match random.between(0, 4) {
            0 => NO_LEASE,
            1 => LeasePolicy { base_us: 20, max_us: 20 },
            2 => LeasePolicy { base_us: 20, max_us: 2_000 },
            _ => LeasePolicy::default(),
        };
        shape.habits.migratory = match random.between(0, 3) {
            0 => None,
            1 => Some(MigratoryPolicy { after: 1, probe_every: 2 }),
            _ => HabitPolicy::default().migratory,
        };
        let quiet_us = random.pick(&[100, 1_000, 10_000]);
        shape.habits.merge = random.percent(70).then_some(MergePolicy { quiet_us });
        if random.percent(30) {
            shape.preloaded = vec![(Extent(0).first(), 3)];
        }
        let fast = random.between(2, 40);
        let delay_us = (fast, fast * random.pick(&[1, 4, 20]));
        if nodes > FEW_NODES && shape.lease.max_us > shape.lease.base_us {
            shape.lease.max_us = shape.lease.max_us.max(advised_us(delay_us));
        }
        // Without leases that grow, instructions of several pages may steal from each other for ever.
        let grows = shape.lease.max_us > shape.lease.base_us;
        let span = if grows { random.between(1, 10) } else { 1 };
        let crash =
            Crash { node: random.between(0, u64::from(nodes) - 1) as u8, after_ops: random.between(0, ops) };
        let crash = random.percent(20).then_some(crash);
        let changes = crash.is_none().then(|| Plan::random_changes(&mut random, &mut shape, ops)).flatten();
        Plan {
            changes,
            crash,
            vcpus_each: random.between(1, 4),
            devices: random.percent(50),
            least: 1,
            span: span.min(shape.pages().len() as u64),
            shape,
            writes_percent: random.pick(&[5, 30, 50, 80, 100]),
            read_then_write_percent: random.pick(&[0, 0, 30, 100]),
            spurious_percent: random.pick(&[0, 10]),
            delay_us,
            think_us: (1, random.pick(&[2, 50, 500, 5_000])),
            ops,
            seed: random.next(),
        }
    }

    /// All vCPUs of `nodes` nodes write the same ten pages in every instruction, in any order.
    pub fn contention(nodes: u8, vcpus_each: u64, ops: u64) -> Self {
        let mut shape = Shape::new(nodes, &[0, 1], 5);
        shape.lease = LeasePolicy::default();
        Plan {
            seed: nodes.into(),
            shape,
            vcpus_each,
            devices: false,
            least: 10,
            span: 10,
            writes_percent: 100,
            read_then_write_percent: 0,
            spurious_percent: 0,
            delay_us: (10, 40),
            think_us: (1, 3),
            ops,
            crash: None,
            changes: None,
        }
    }

    /// Half of all runs have changes; of these, a part have a node that joins, a part one that leaves.
    fn random_changes(random: &mut Random, shape: &mut Shape, ops: u64) -> Option<Changes> {
        if random.percent(50) {
            return None;
        }
        let last = shape.nodes - 1;
        if shape.nodes > 2 && random.percent(40) {
            shape.late = 1;
            shape.homes.iter_mut().for_each(|home| *home %= last);
        }
        let leaver = (random.between(0, last.into()) as u8, random.between(0, ops));
        Some(Changes {
            every_us: random.pick(&[20, 200, 2_000]),
            homes_percent: random.pick(&[0, 5, 50]),
            join_after_ops: random.between(0, ops),
            leaves: random.percent(50).then_some(leaver),
        })
    }

    /// An instruction or a device's access that is not done after so long in simulated time is starved.
    pub fn starved_us(&self) -> Micros {
        let LeasePolicy { max_us, .. } = self.shape.lease;
        match max_us >= advised_us(self.delay_us) {
            true => 5_000_000.max(10 * max_us * Micros::from(self.shape.nodes)),
            false => 60_000_000,
        }
    }
}

/// More nodes than this come to their end only with leases that are as long as advised.
const FEW_NODES: u8 = 8;

/// Ten times the latency of a remote fault, three messages at their slowest.
fn advised_us((_, slowest): (Micros, Micros)) -> Micros {
    10 * 3 * slowest
}
