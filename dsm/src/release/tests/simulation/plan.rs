//! What a seed stands for.

use super::super::cluster::Shape;
use super::super::random::Random;
use crate::release::Micros;

#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: Shape,
    pub vcpus_each: usize,
    pub locks: usize,
    /// Cell accesses in one critical section, at most.
    pub section: u64,
    pub writes_percent: u64,
    /// How often a vCPU moves to another node in the middle of a critical section.
    pub moves_percent: u64,
    /// How often it flushes there.
    pub flushes_percent: u64,
    /// How often it peeps at a cell without its lock.
    pub peeps_percent: u64,
    pub delay_us: (Micros, Micros),
    pub think_us: (Micros, Micros),
    /// Mean time between the policy's orders.
    pub policy_us: Option<Micros>,
    pub losses: u8,
    pub ops: u64,
}

impl Plan {
    pub fn new(seed: u64, ops: u64) -> (Self, Random) {
        let mut random = Random::new(seed);
        let nodes = match random.percent(70) {
            true => random.between(2, 5),
            false => random.between(6, 16),
        };
        let fast = random.between(2, 40);
        let losses = if random.percent(40) { random.between(1, 2).min(nodes - 1) } else { 0 };
        let plan = Plan {
            shape: Shape {
                nodes: nodes as u8,
                pages: random.between(1, 6) as u32,
                owner: random.between(0, nodes - 1) as u8,
                dirty_max: random.pick(&[1, 2, 3, 64]),
            },
            vcpus_each: random.between(1, 3) as usize,
            locks: random.between(1, 4) as usize,
            section: random.between(1, 8),
            writes_percent: random.pick(&[10, 40, 70, 100]),
            moves_percent: random.pick(&[0, 0, 5]),
            flushes_percent: random.pick(&[0, 5]),
            peeps_percent: random.pick(&[0, 20]),
            delay_us: (fast, fast * random.pick(&[1, 4, 20])),
            think_us: (1, random.pick(&[2, 50, 500])),
            policy_us: random.pick(&[None, Some(100), Some(1_000)]),
            losses: losses as u8,
            ops,
        };
        (plan, random)
    }
}
