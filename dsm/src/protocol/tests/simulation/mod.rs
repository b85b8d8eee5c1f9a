//! The random simulator: nodes, vCPUs with instructions of many pages, devices that borrow, links with delays, a node that
//! falls silent. A run is a function of its [`Plan`].

mod changes;
mod checks;
mod plan;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::cluster::{Cluster, Mutant};
use super::host::Effects;
use super::membership::Part;
use super::random::Random;
use super::schedule::{Move, Taken};
use crate::ids::NodeId;
use crate::protocol::{Access, Counters, Micros};

pub use checks::{contend, LONGEST_US};
pub use plan::{Changes, Plan};

/// Something that happens by itself at its time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    Arrive { from: usize, to: usize },
    Vcpu(usize),
    Device(usize),
    Tick(usize),
    Change,
}

#[derive(Debug, Default)]
struct Vcpu {
    node: usize,
    /// The pages of the instruction under way; empty between instructions.
    instruction: Vec<(usize, Access)>,
    /// The instruction that is to follow; none if any may.
    next: Vec<(usize, Access)>,
    since: Micros,
    blocked: Option<usize>,
    /// Instructions so far.
    done: u64,
}

#[derive(Debug, Default)]
struct Device {
    node: usize,
    /// Pages to borrow, ascending; the first `held` are.
    wants: Vec<(usize, Access)>,
    held: usize,
    since: Micros,
    waits: bool,
}

/// A run under way.
pub struct Simulation {
    plan: Plan,
    random: Random,
    now: Micros,
    number: u64,
    agenda: BinaryHeap<Reverse<(Micros, u64, Moment)>>,
    cluster: Cluster,
    /// For each link, when its last message arrives.
    arrivals: Vec<Micros>,
    ticks: Vec<Option<Micros>>,
    vcpus: Vec<Vcpu>,
    devices: Vec<Device>,
    ops: u64,
    longest: Micros,
    /// A node that is about to leave: nothing new is begun there.
    leaver: Option<usize>,
    /// When there was last something to change: a leaver that is never clear would be waited for without end.
    changed: Micros,
    /// The nodes that have been told to drain it, a bit each.
    drained: u64,
    /// Every step so far, if they are kept.
    record: Option<Vec<Taken>>,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Page accesses of vCPUs and devices.
    pub ops: u64,
    pub simulated_us: Micros,
    /// The longest that one instruction took.
    pub longest_us: Micros,
    /// Pages that came to be read or written, and upgrades.
    pub faults: u64,
    pub lease_deferrals: u64,
    pub splits: u64,
    pub merges: u64,
    /// Reads that were given the page to write.
    pub given: u64,
    pub crashes: u64,
    /// Extents that got another home.
    pub handovers: u64,
    /// Nodes that joined, and that left.
    pub joined: u64,
    pub left: u64,
}

impl Report {
    /// Adds another run's figures.
    pub fn add(&mut self, other: &Report) {
        self.ops += other.ops;
        self.simulated_us += other.simulated_us;
        self.longest_us = self.longest_us.max(other.longest_us);
        self.faults += other.faults;
        self.lease_deferrals += other.lease_deferrals;
        self.splits += other.splits;
        self.merges += other.merges;
        self.given += other.given;
        self.crashes += other.crashes;
        self.handovers += other.handovers;
        self.joined += other.joined;
        self.left += other.left;
    }
}

/// Runs a plan, with a mistake in every node if one is given.
///
/// # Errors
/// What went wrong first.
pub fn simulate(plan: &Plan, mutant: Option<Mutant>) -> Result<Report, String> {
    let mut simulation = Simulation::new(plan.clone(), mutant);
    simulation.run()?;
    Ok(simulation.report())
}

impl Simulation {
    /// A run at its beginning.
    pub fn new(plan: Plan, mutant: Option<Mutant>) -> Self {
        let mut cluster = Cluster::new(&plan.shape);
        cluster.mutant = mutant;
        let nodes = cluster.nodes.len();
        let vcpu = |i: usize| Vcpu { node: i % nodes, ..Vcpu::default() };
        let device = |node| Device { node, ..Device::default() };
        let mut simulation = Simulation {
            vcpus: (0..nodes * plan.vcpus_each as usize).map(vcpu).collect(),
            devices: (0..if plan.devices { nodes } else { 0 }).map(device).collect(),
            random: Random::new(plan.seed),
            plan,
            now: 1,
            number: 0,
            agenda: BinaryHeap::new(),
            arrivals: vec![0; nodes * nodes],
            ticks: vec![None; nodes],
            cluster,
            ops: 0,
            longest: 0,
            leaver: None,
            changed: 1,
            drained: 0,
            record: None,
        };
        let first_late = nodes - usize::from(simulation.plan.shape.late);
        (0..first_late).for_each(|node| simulation.begin(node));
        if simulation.plan.changes.is_some() {
            simulation.at(simulation.now, Moment::Change);
        }
        simulation
    }

    /// A node's vCPUs and devices begin.
    fn begin(&mut self, node: usize) {
        for vcpu in (0..self.vcpus.len()).filter(|&vcpu| self.vcpus[vcpu].node == node).collect::<Vec<_>>() {
            self.at(self.now, Moment::Vcpu(vcpu));
        }
        for device in (0..self.devices.len()).filter(|&at| self.devices[at].node == node).collect::<Vec<_>>()
        {
            self.at(self.now, Moment::Device(device));
        }
    }

    /// Keeps every step from now on.
    pub fn recording(mut self) -> Self {
        self.record = Some(Vec::new());
        self
    }

    /// The steps that were kept.
    pub fn into_schedule(self) -> Vec<Taken> {
        self.record.unwrap_or_default()
    }

    /// What has been done so far.
    pub fn report(&self) -> Report {
        let sum =
            |count: fn(&Counters) -> u64| self.cluster.nodes.iter().map(|node| count(&node.counters())).sum();
        Report {
            ops: self.ops,
            simulated_us: self.now,
            longest_us: self.longest,
            faults: sum(|c| c.remote_reads + c.remote_writes + c.upgrades),
            lease_deferrals: sum(|c| c.lease_deferrals),
            splits: sum(|c| c.splits),
            merges: sum(|c| c.merges),
            given: sum(|c| c.reads_given_to_write),
            crashes: self.cluster.stopped.contains(&true).into(),
            handovers: sum(|c| c.homes_taken),
            joined: self.joined(),
            left: self.cluster.parts.iter().filter(|part| **part == Part::Gone).count() as u64,
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn run(&mut self) -> Result<(), String> {
        let mut moments: u64 = 0;
        while let Some(Reverse((time, _, moment))) = self.agenda.pop() {
            self.now = time;
            if self.lives(moment) {
                match moment {
                    Moment::Arrive { from, to } => self.step(Move::Deliver { from, to })?,
                    Moment::Vcpu(vcpu) => self.run_vcpu(vcpu)?,
                    Moment::Device(device) => self.run_device(device)?,
                    Moment::Tick(node) => self.tick(node)?,
                    Moment::Change => self.change()?,
                }
            }
            self.crash_when_due()?;
            moments += 1;
            if moments.is_multiple_of(64) {
                self.check_starvation()?;
            }
        }
        self.check_end()
    }

    fn lives(&self, moment: Moment) -> bool {
        let node = match moment {
            Moment::Arrive { to, .. } => to,
            Moment::Vcpu(vcpu) => self.vcpus[vcpu].node,
            Moment::Device(device) => self.devices[device].node,
            Moment::Tick(node) => node,
            Moment::Change => return true,
        };
        !self.cluster.stopped[node] && self.cluster.parts[node].listens()
    }

    fn at(&mut self, time: Micros, moment: Moment) {
        self.number += 1;
        self.agenda.push(Reverse((time, self.number, moment)));
    }

    /// Takes a step, and schedules what it causes.
    fn step(&mut self, step: Move) -> Result<(), String> {
        if let Some(record) = &mut self.record {
            record.push(Taken { at: self.now, step, message: self.cluster.about_to_arrive(step) });
        }
        let effects = self.cluster.take(self.now, step)?;
        self.follow(step.node(), effects)
    }

    fn follow(&mut self, node: usize, effects: Effects) -> Result<(), String> {
        for (to, _) in &effects.sent {
            let link = self.cluster.link(node, to.index());
            let (low, high) = self.plan.delay_us;
            let arrival = self.now + self.random.between(low, high);
            self.arrivals[link] = self.arrivals[link].max(arrival);
            self.at(self.arrivals[link], Moment::Arrive { from: node, to: to.index() });
        }
        for index in effects.woken {
            for vcpu in 0..self.vcpus.len() {
                if self.vcpus[vcpu].node == node && self.vcpus[vcpu].blocked == Some(index) {
                    self.vcpus[vcpu].blocked = None;
                    let wake = self.random.between(1, 4);
                    self.at(self.now + wake, Moment::Vcpu(vcpu));
                }
            }
        }
        for lent in effects.lent {
            let waits =
                |device: &Device| device.node == node && device.waits && device.wants[device.held] == lent;
            let device = self.devices.iter().position(waits).ok_or("a page is lent to nobody")?;
            self.devices[device].waits = false;
            self.devices[device].held += 1;
            self.at(self.now + 1, Moment::Device(device));
        }
        if let Some(deadline) = self.cluster.nodes[node].next_deadline() {
            let time = deadline.max(self.now);
            if self.ticks[node].is_none_or(|scheduled| time < scheduled) {
                self.ticks[node] = Some(time);
                self.at(time, Moment::Tick(node));
            }
        }
        Ok(())
    }

    fn tick(&mut self, node: usize) -> Result<(), String> {
        if self.ticks[node] == Some(self.now) {
            self.ticks[node] = None;
        }
        self.step(Move::Tick { node })?;
        match self.cluster.nodes[node].next_deadline() {
            Some(deadline) if deadline <= self.now => {
                Err(format!("node {node} ignores a tick at {}", self.now))
            }
            _ => Ok(()),
        }
    }

    fn some_pages(&mut self, least: u64, most: u64) -> Vec<(usize, Access)> {
        let all = self.cluster.pages.len() as u64;
        if least == all {
            return (0..all as usize).map(|index| (index, Access::Write)).collect();
        }
        let count = self.random.between(least, most.min(all));
        // Half of the accesses go to the first two pages.
        let mut pages: Vec<(usize, Access)> = (0..count)
            .map(|_| {
                let last = if self.random.percent(50) { all.min(2) } else { all } - 1;
                let write = self.random.percent(self.plan.writes_percent);
                let access = if write { Access::Write } else { Access::Read };
                (self.random.between(0, last) as usize, access)
            })
            .collect();
        pages.sort_by_key(|&(index, access)| (index, Reverse(access)));
        pages.dedup_by_key(|&mut (index, _)| index);
        pages
    }

    fn run_vcpu(&mut self, vcpu: usize) -> Result<(), String> {
        if self.vcpus[vcpu].instruction.is_empty() {
            if self.ops >= self.plan.ops || self.leaver == Some(self.vcpus[vcpu].node) {
                return Ok(());
            }
            let mut pages = std::mem::take(&mut self.vcpus[vcpu].next);
            if pages.is_empty() {
                pages = self.some_pages(self.plan.least, self.plan.span);
            }
            // Any order of first touches.
            for i in (1..pages.len()).rev() {
                pages.swap(i, self.random.next() as usize % (i + 1));
            }
            self.vcpus[vcpu].instruction = pages;
            self.vcpus[vcpu].since = self.now;
        }
        let node = self.vcpus[vcpu].node;
        let host = &self.cluster.hosts[node];
        let lacks = |&&(index, access): &&(usize, Access)| !host.mappings[index].allows(access);
        if let Some(&(page, access)) = self.vcpus[vcpu].instruction.iter().find(lacks) {
            self.vcpus[vcpu].blocked = Some(page);
            self.step(Move::Fault { node, page, access })?;
            if self.random.percent(self.plan.spurious_percent) {
                self.step(Move::Fault { node, page, access })?;
            }
            return Ok(());
        }
        let instruction = std::mem::take(&mut self.vcpus[vcpu].instruction);
        for &(page, access) in &instruction {
            self.step(Move::Access { node, page, access })?;
        }
        self.ops += instruction.len() as u64;
        let reads = instruction.iter().all(|&(_, access)| access == Access::Read);
        if reads && self.random.percent(self.plan.read_then_write_percent) {
            self.vcpus[vcpu].next = instruction.iter().map(|&(page, _)| (page, Access::Write)).collect();
        }
        self.vcpus[vcpu].done += 1;
        self.longest = self.longest.max(self.now - self.vcpus[vcpu].since);
        let (low, high) = self.plan.think_us;
        // What follows follows at once.
        let think = if self.vcpus[vcpu].next.is_empty() { self.random.between(low, high) } else { low };
        self.at(self.now + think, Moment::Vcpu(vcpu));
        Ok(())
    }

    fn run_device(&mut self, device: usize) -> Result<(), String> {
        let Device { node, held, .. } = self.devices[device];
        if self.devices[device].wants.is_empty() {
            if self.ops >= self.plan.ops || self.leaver == Some(node) {
                return Ok(());
            }
            self.devices[device].wants = self.some_pages(1, 4);
            self.devices[device].since = self.now;
        }
        let wants = &self.devices[device].wants;
        if let Some(&(page, access)) = wants.get(held) {
            self.devices[device].waits = true;
            return self.step(Move::Borrow { node, page, access });
        }
        if self.random.percent(50) {
            // Holds on a little.
            let hold = self.random.between(1, 100);
            self.at(self.now + hold, Moment::Device(device));
            return Ok(());
        }
        for (page, access) in std::mem::take(&mut self.devices[device].wants) {
            self.ops += 1;
            self.step(Move::Return { node, page, access })?;
        }
        self.devices[device].held = 0;
        let pause = self.random.between(1, 300);
        self.at(self.now + pause, Moment::Device(device));
        Ok(())
    }

    /// The node that is to crash falls silent when its time has come; the end of what it has sent is lost.
    fn crash_when_due(&mut self) -> Result<(), String> {
        let Some(crash) = self.plan.crash.take_if(|crash| self.ops >= crash.after_ops) else { return Ok(()) };
        let node = usize::from(crash.node);
        self.step(Move::Stop { node })?;
        for to in 0..self.cluster.nodes.len() {
            let sent = self.cluster.links[self.cluster.link(node, to)].len() as u64;
            for _ in 0..self.random.between(0, sent) {
                self.step(Move::Lose { from: node, to })?;
            }
        }
        Ok(())
    }

    fn check_starvation(&self) -> Result<(), String> {
        if self.cluster.stopped.contains(&true) {
            return Ok(());
        }
        let limit = self.plan.starved_us();
        let starved = |busy: bool, since: Micros| busy && self.now.saturating_sub(since) > limit;
        if let Some(vcpu) = self.vcpus.iter().find(|vcpu| starved(!vcpu.instruction.is_empty(), vcpu.since)) {
            return Err(format!("starved: {vcpu:?} at {}", self.now));
        }
        if starved(self.is_leaving(), self.changed) {
            return Err(format!("node {:?} never comes to leave, at {}", self.leaver, self.now));
        }
        match self.devices.iter().find(|device| starved(!device.wants.is_empty(), device.since)) {
            Some(device) => Err(format!("starved: {device:?} at {}", self.now)),
            None => Ok(()),
        }
    }

    fn check_end(&self) -> Result<(), String> {
        if let Some(silent) = self.cluster.stopped.iter().position(|stopped| *stopped) {
            return self.check_end_without(silent);
        }
        if let Some(vcpu) = self.vcpus.iter().find(|vcpu| !vcpu.instruction.is_empty()) {
            return Err(format!("deadlock: nothing more happens, but {vcpu:?}"));
        }
        if let Some(device) = self.devices.iter().find(|device| !device.wants.is_empty()) {
            return Err(format!("deadlock: nothing more happens, but {device:?}"));
        }
        self.cluster.check_quiet()
    }

    /// Nobody waits but for the silent node. (Where devices hold pages while they wait for others, they may stand in
    /// anybody's way.)
    fn check_end_without(&self, silent: usize) -> Result<(), String> {
        if self.plan.devices {
            return Ok(());
        }
        for vcpu in self.vcpus.iter().filter(|vcpu| vcpu.node != silent) {
            let Some(page) = vcpu.blocked else { continue };
            let gfn = self.cluster.pages.gfn(page);
            let home = self.cluster.nodes.iter().find(|node| node.is_home(gfn)).ok_or("no home")?;
            let silent = NodeId(silent as u8);
            let needed = home.me == silent || home.waits_for(gfn, silent);
            if !needed {
                return Err(format!("{vcpu:?} waits for ever, and not for {silent}, which is silent"));
            }
        }
        Ok(())
    }
}
