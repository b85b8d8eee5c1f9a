//! The random simulator: nodes, vCPUs that take locks, links with delays, a policy that moves things, nodes that are lost.
//!
//! The programs are what eager release is for: every cell (two bytes) belongs to a lock, and cells of different locks lie
//! side by side in the same pages. Whoever holds the lock must read exactly what its last holder wrote, wherever that was.
//! Others peep without a lock: they may read old values, but only such as were written, and never a mixture.
//!
//! A run is a function of its seed. `TESSERA_SIM_SEED=n` replays the run of one seed, `TESSERA_SIM_OPS=n` sets the
//! number of cell accesses (of that run, or of all runs together).

mod loss;
mod memory;
mod plan;
mod vcpus;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use self::loss::Losses;
use self::memory::Memory;
use self::plan::Plan;
use self::vcpus::{Lock, Vcpu};
use super::cluster::{Cluster, Fault, Parcel, SEGMENT};
use super::host::Effects;
use super::random::Random;
use crate::ids::NodeId;
use crate::release::{Event, Micros, PageIndex};

/// More than any run has that comes to an end: 2,000 operations are some ten thousand moments.
const MOMENTS_MAX: u64 = 2_000_000;
/// Bytes of a simulated page.
const PAGE: usize = 16;
/// Who waits longer than this in simulated time waits for ever.
const STARVED_US: Micros = 5_000_000;
/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 80;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    Arrive {
        from: usize,
        to: usize,
    },
    Vcpu(usize),
    Policy,
    Lose,
    /// Look whether the locks of a lost node can be taken from it.
    Inherit,
}

pub struct Simulation {
    plan: Plan,
    random: Random,
    now: Micros,
    number: u64,
    agenda: BinaryHeap<Reverse<(Micros, u64, Moment)>>,
    cluster: Cluster<PAGE>,
    arrivals: Vec<Micros>,
    vcpus: Vec<Vcpu>,
    locks: Vec<Lock>,
    memory: Memory,
    losses: Losses,
    ops: u64,
    report: Report,
    trace: Option<VecDeque<String>>,
}

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub ops: u64,
    pub simulated_us: Micros,
    pub releases: u64,
    pub diffs: u64,
    pub set_aside: u64,
    pub moves: u64,
    pub relieved: u64,
    pub lost: u64,
    /// Differences of lost nodes that were neither known to be applied nor known to be lost when their node was.
    pub in_doubt: u64,
    pub broken: u64,
    pub longest_wait_us: Micros,
}

impl Simulation {
    pub fn new(seed: u64, ops: u64) -> Self {
        let (plan, random) = Plan::new(seed, ops);
        let nodes = usize::from(plan.shape.nodes);
        let mut simulation = Simulation {
            vcpus: (0..nodes * plan.vcpus_each).map(|index| Vcpu::new(index % nodes)).collect(),
            locks: (0..plan.locks).map(|_| Lock::default()).collect(),
            memory: Memory::new(plan.shape.pages as usize, plan.locks),
            cluster: Cluster::new(&plan.shape),
            losses: Losses::default(),
            arrivals: vec![0; nodes * nodes],
            plan,
            random,
            now: 1,
            number: 0,
            agenda: BinaryHeap::new(),
            ops: 0,
            report: Report::default(),
            trace: None,
        };
        (0..simulation.vcpus.len()).for_each(|vcpu| simulation.at(1, Moment::Vcpu(vcpu)));
        simulation.at(simulation.plan.policy_us.unwrap_or(0) + 1, Moment::Policy);
        (0..simulation.plan.losses).for_each(|_| {
            let when = simulation.random.between(100, 20_000);
            simulation.at(when, Moment::Lose);
        });
        simulation
    }

    fn at(&mut self, time: Micros, moment: Moment) {
        self.number += 1;
        self.agenda.push(Reverse((time, self.number, moment)));
    }

    fn soon(&mut self, moment: Moment, low: Micros, high: Micros) {
        let time = self.now + self.random.between(low, high);
        self.at(time, moment);
    }

    fn run(&mut self) -> Result<Report, String> {
        let mut moments = 0;
        while let Some(Reverse((time, _, moment))) = self.agenda.pop() {
            self.now = time;
            moments += 1;
            if moments > MOMENTS_MAX {
                return Err(format!("no end after {moments} moments, at {}", self.now));
            }
            match moment {
                Moment::Arrive { from, to } => self.arrive(from, to)?,
                Moment::Vcpu(vcpu) => self.run_vcpu(vcpu)?,
                Moment::Policy => self.run_policy()?,
                Moment::Lose => self.lose_a_node(),
                Moment::Inherit => self.inherit()?,
            }
            if self.now.is_multiple_of(64) {
                self.check_starvation()?;
            }
        }
        self.check_end()?;
        Ok(self.final_report())
    }

    fn final_report(&mut self) -> Report {
        let count = |get: fn(&crate::release::Counters) -> u64| -> u64 {
            self.cluster.nodes.iter().map(|node| get(&node.counters())).sum()
        };
        Report {
            ops: self.ops,
            simulated_us: self.now,
            releases: count(|c| c.releases),
            diffs: count(|c| c.diffs_sent),
            set_aside: count(|c| c.set_aside),
            moves: count(|c| c.handed_over),
            relieved: count(|c| c.relieved),
            broken: u64::from(self.is_broken()),
            ..std::mem::take(&mut self.report)
        }
    }

    fn is_broken(&self) -> bool {
        self.cluster.living().any(|at| self.cluster.is_broken(at))
    }

    fn step(&mut self, node: usize, event: Event) -> Result<Effects, String> {
        self.note(|| format!("node {node}: {event:?}"));
        let effects = self.cluster.step(self.now, node, event, None)?;
        self.follow(node, &effects);
        Ok(effects)
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{now:>8} {}", what()));
            if trace.len() > TRACE_LINES {
                trace.pop_front();
            }
        }
    }

    /// Schedules what a step of `node` has caused.
    fn follow(&mut self, node: usize, effects: &Effects) {
        for (to, packet) in &effects.sent {
            self.losses.saw(node, packet);
            if self.cluster.alive[to.index()] {
                self.schedule(node, to.index());
            }
        }
        for vcpu in 0..self.vcpus.len() {
            if self.vcpus[vcpu].node == node && self.vcpus[vcpu].is_woken(effects) {
                self.soon(Moment::Vcpu(vcpu), 1, 4);
            }
        }
    }

    /// One more parcel of a link is on its way.
    fn schedule(&mut self, from: usize, to: usize) {
        let link = self.cluster.link(from, to);
        let (low, high) = self.plan.delay_us;
        let arrival = self.now + self.random.between(low, high);
        self.arrivals[link] = self.arrivals[link].max(arrival);
        self.at(self.arrivals[link], Moment::Arrive { from, to });
    }

    fn arrive(&mut self, from: usize, to: usize) -> Result<(), String> {
        if !self.cluster.alive[to] {
            return Ok(());
        }
        match self.cluster.links[self.cluster.link(from, to)].front().cloned() {
            None => return Ok(()),
            Some(Parcel::Lost) => self.note(|| format!("node {to}: loses node {from}")),
            Some(Parcel::Packet(packet)) => {
                self.note(|| format!("node {to}: from {from} {:?}", packet.message));
            }
        }
        let effects = self.cluster.deliver(self.now, from, to)?.unwrap_or_default();
        self.follow(to, &effects);
        Ok(())
    }

    /// The policy has a page fetched ahead, or moves the ownership.
    fn run_policy(&mut self) -> Result<(), String> {
        let (Some(pause), true) = (self.plan.policy_us, self.is_going_on()) else { return Ok(()) };
        let living: Vec<usize> = self.cluster.living().collect();
        let node = self.random.pick(&living);
        let page = PageIndex(self.random.between(0, u64::from(self.plan.shape.pages) - 1) as u32);
        match self.cluster.owner().filter(|_| self.random.percent(30)) {
            Some(owner) => {
                let event = Event::Transfer { segment: SEGMENT, to: NodeId(node as u8) };
                self.step(owner, event)?;
            }
            None => drop(self.step(node, Event::Prefetch { segment: SEGMENT, page })?),
        }
        self.soon(Moment::Policy, 1, 2 * pause);
        Ok(())
    }

    /// Whether programs still begin something.
    fn is_going_on(&self) -> bool {
        let anybody = self.vcpus.iter().any(|vcpu| self.cluster.alive[vcpu.node]);
        anybody && self.ops < self.plan.ops && !self.is_broken()
    }

    fn check_starvation(&mut self) -> Result<(), String> {
        for vcpu in self.vcpus.iter().filter(|vcpu| self.cluster.alive[vcpu.node]) {
            let waited = vcpu.waits_since.map_or(0, |since| self.now.saturating_sub(since));
            self.report.longest_wait_us = self.report.longest_wait_us.max(waited);
            if waited > STARVED_US {
                return Err(format!("starved: {vcpu:?} at {}", self.now));
            }
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), String> {
        let alive = |vcpu: &&Vcpu| self.cluster.alive[vcpu.node];
        if let Some(vcpu) = self.vcpus.iter().filter(alive).find(|vcpu| !vcpu.is_at_rest()) {
            return Err(format!("deadlock: nothing more happens, but {vcpu:?}"));
        }
        self.cluster.check_quiet()?;
        if self.is_broken() {
            return match self.losses.owner_was_at_risk {
                true => Ok(()),
                false => Err("the segment broke, though no owner was lost".to_owned()),
            };
        }
        let owner = self.cluster.owner().ok_or("nobody is the owner")?;
        self.memory.check_all(&self.cluster.hosts[owner])
    }
}

/// Runs one seed.
pub fn simulate(seed: u64, ops: u64, fault: Option<Fault>) -> Result<Report, String> {
    let mut simulation = Simulation::new(seed, ops);
    simulation.cluster.fault = fault;
    simulation.run()
}

/// Runs a seed that failed again, to tell what led to it.
fn explain(seed: u64, ops: u64, why: &str) -> String {
    let mut again = Simulation::new(seed, ops);
    again.trace = Some(VecDeque::new());
    let same = again.run().err().as_deref() == Some(why);
    let plan = format!("{:?}", again.plan);
    let trace: Vec<String> = again.trace.take().into_iter().flatten().collect();
    let replay = format!("TESSERA_SIM_SEED={seed} TESSERA_SIM_OPS={ops}");
    format!("{why}\nreplay with {replay} (same again: {same})\n{plan}\n{}", trace.join("\n"))
}

fn from_environment(name: &str) -> Option<u64> {
    let parse = |value: String| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number"));
    std::env::var(name).ok().map(parse)
}

#[test]
fn whoever_holds_the_lock_reads_what_its_last_holder_wrote() {
    let ops = from_environment("TESSERA_SIM_OPS");
    let (seeds, each) = match from_environment("TESSERA_SIM_SEED") {
        Some(seed) => (seed..=seed, ops.unwrap_or(2_000)),
        None => {
            let ops = ops.unwrap_or(1_000_000);
            let count = (ops / 2_000).max(100);
            (1..=count, ops / count)
        }
    };
    let mut total = Report::default();
    for seed in seeds.clone() {
        let report = simulate(seed, each, None).unwrap_or_else(|why| panic!("{}", explain(seed, each, &why)));
        if seeds.start() == seeds.end() || report.longest_wait_us > total.longest_wait_us {
            println!("seed {seed}: {report:?}");
        }
        total.add(&report);
    }
    println!("seeds {seeds:?}: {total:?}");
    if seeds.start() != seeds.end() {
        let Report { ops, diffs, set_aside, moves, relieved, lost, in_doubt, broken, .. } = total;
        let least = [ops, diffs, set_aside, moves, relieved, lost, in_doubt, broken].into_iter().min();
        assert!(least > Some(0), "the runs left something out: {total:?}");
    }
}

impl Report {
    fn add(&mut self, other: &Report) {
        let sums = [
            (&mut self.ops, other.ops),
            (&mut self.simulated_us, other.simulated_us),
            (&mut self.releases, other.releases),
            (&mut self.diffs, other.diffs),
            (&mut self.set_aside, other.set_aside),
            (&mut self.moves, other.moves),
            (&mut self.relieved, other.relieved),
            (&mut self.lost, other.lost),
            (&mut self.in_doubt, other.in_doubt),
            (&mut self.broken, other.broken),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum += more);
        self.longest_wait_us = self.longest_wait_us.max(other.longest_wait_us);
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let run = || simulate(7, 2_000, None).expect("holds");
    assert_eq!(run(), run());
}
