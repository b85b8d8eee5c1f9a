//! Programs: they take a lock, read and write its cells, release, and give the lock back.

use std::collections::VecDeque;

use super::super::cluster::SEGMENT;
use super::super::host::Effects;
use super::{Moment, Simulation};
use crate::release::{Access, Event, Micros, Outcome, PageIndex, Ticket, VcpuIndex};

/// What a vCPU does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// Nothing.
    #[default]
    Rest,
    /// It waits for its lock.
    Lock,
    /// It works through its accesses.
    Work,
    /// It waits for a release, and then...
    Release(Then),
    /// The segment is broken: it never does anything again.
    Ended,
}

/// What comes after a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    Unlock,
    GoOn,
    MoveTo(usize),
}

#[derive(Debug)]
pub struct Vcpu {
    pub node: usize,
    pub stage: Stage,
    pub lock: usize,
    accesses: Vec<(usize, Access)>,
    /// A cell that it peeps at, without a lock.
    peeps: Option<usize>,
    blocked: Option<PageIndex>,
    ticket: Option<Ticket>,
    pub waits_since: Option<Micros>,
}

#[derive(Debug, Default)]
pub struct Lock {
    pub holder: Option<usize>,
    pub waiting: VecDeque<usize>,
}

impl Vcpu {
    pub fn new(node: usize) -> Self {
        Vcpu {
            node,
            stage: Stage::Rest,
            lock: 0,
            accesses: vec![],
            peeps: None,
            blocked: None,
            ticket: None,
            waits_since: None,
        }
    }

    pub fn is_at_rest(&self) -> bool {
        matches!(self.stage, Stage::Rest | Stage::Ended) && self.peeps.is_none()
    }

    /// Whether what a node did lets the vCPU go on.
    pub fn is_woken(&mut self, effects: &Effects) -> bool {
        let failed = self.ticket.is_some_and(|ticket| effects.released.contains(&(ticket, Outcome::Broken)));
        if (effects.broken || failed) && self.stage != Stage::Ended {
            (self.stage, self.peeps, self.blocked) = (Stage::Ended, None, None);
            self.waits_since = None;
            return false;
        }
        let page = self.blocked.take_if(|page| effects.woken.contains(page));
        let ended = |ticket: &mut Ticket| effects.released.contains(&(*ticket, Outcome::Visible));
        let ticket = self.ticket.take_if(ended);
        let woken = page.is_some() || ticket.is_some();
        if woken {
            self.waits_since = None;
        }
        woken
    }
}

impl Simulation {
    pub(super) fn run_vcpu(&mut self, vcpu: usize) -> Result<(), String> {
        if !self.cluster.alive[self.vcpus[vcpu].node] || self.vcpus[vcpu].waits_since.is_some() {
            return Ok(());
        }
        match self.vcpus[vcpu].stage {
            Stage::Ended | Stage::Lock => Ok(()),
            Stage::Rest => self.begin(vcpu),
            Stage::Work => self.work(vcpu),
            Stage::Release(then) => {
                self.after_release(vcpu, then);
                Ok(())
            }
        }
    }

    /// Peeps, or asks for a lock.
    fn begin(&mut self, vcpu: usize) -> Result<(), String> {
        if let Some(cell) = self.vcpus[vcpu].peeps {
            return self.peep(vcpu, cell);
        }
        if !self.is_going_on() {
            return Ok(());
        }
        if self.random.percent(self.plan.peeps_percent) {
            let cell = self.random.between(0, self.memory.cells() as u64 - 1) as usize;
            self.vcpus[vcpu].peeps = Some(cell);
            return self.peep(vcpu, cell);
        }
        let lock = self.random.between(0, self.locks.len() as u64 - 1) as usize;
        let cells: Vec<usize> = self.memory.of_lock(lock).collect();
        let count = self.random.between(1, self.plan.section);
        let accesses = (0..count).map(|_| {
            let write = self.random.percent(self.plan.writes_percent);
            (self.random.pick(&cells), if write { Access::Write } else { Access::Read })
        });
        let accesses = accesses.collect();
        let state = &mut self.vcpus[vcpu];
        (state.lock, state.accesses, state.stage) = (lock, accesses, Stage::Lock);
        state.waits_since = Some(self.now);
        self.locks[lock].waiting.push_back(vcpu);
        self.pass_on(lock);
        Ok(())
    }

    /// Gives a free lock to who waits longest.
    pub(super) fn pass_on(&mut self, lock: usize) {
        let alive = &self.cluster.alive;
        self.locks[lock].waiting.retain(|&vcpu| alive[self.vcpus[vcpu].node]);
        if self.locks[lock].holder.is_some() {
            return;
        }
        let Some(vcpu) = self.locks[lock].waiting.pop_front() else { return };
        self.locks[lock].holder = Some(vcpu);
        self.note(|| format!("vCPU {vcpu} has lock {lock}"));
        let state = &mut self.vcpus[vcpu];
        if state.stage == Stage::Lock {
            (state.stage, state.waits_since) = (Stage::Work, None);
            self.soon(Moment::Vcpu(vcpu), 1, 40);
        }
    }

    fn peep(&mut self, vcpu: usize, cell: usize) -> Result<(), String> {
        if self.touch(vcpu, cell, Access::Read)? {
            let node = self.vcpus[vcpu].node;
            let bytes = &self.cluster.hosts[node].mappings[self.memory.cell(cell).page].bytes;
            self.memory.check_peep(cell, bytes).map_err(|why| format!("vCPU {vcpu} peeps: {why}"))?;
            self.vcpus[vcpu].peeps = None;
            self.think(vcpu);
        }
        Ok(())
    }

    fn work(&mut self, vcpu: usize) -> Result<(), String> {
        let Some(&(cell, access)) = self.vcpus[vcpu].accesses.last() else {
            return self.release(vcpu, Then::Unlock);
        };
        if self.random.percent(self.plan.flushes_percent) {
            return self.release(vcpu, Then::GoOn);
        }
        if self.random.percent(self.plan.moves_percent) {
            let living: Vec<usize> = self.cluster.living().collect();
            let to = self.random.pick(&living);
            return self.release(vcpu, Then::MoveTo(to));
        }
        if !self.touch(vcpu, cell, access)? {
            return Ok(());
        }
        let node = self.vcpus[vcpu].node;
        let place = self.memory.cell(cell);
        let bytes = &mut self.cluster.hosts[node].mappings[place.page].bytes;
        self.memory.check(cell, bytes).map_err(|why| format!("vCPU {vcpu} on node {node}: {why}"))?;
        if access == Access::Write {
            let value = self.memory.next(cell);
            place.write(bytes, value);
            self.memory.write(cell, value);
            self.note(|| format!("vCPU {vcpu} on node {node} writes {value} to cell {cell}"));
        }
        self.ops += 1;
        self.vcpus[vcpu].accesses.pop();
        self.soon(Moment::Vcpu(vcpu), 1, 3);
        Ok(())
    }

    /// Whether the guest may do the access; if not, the vCPU waits.
    fn touch(&mut self, vcpu: usize, cell: usize, access: Access) -> Result<bool, String> {
        let (node, page) = (self.vcpus[vcpu].node, self.memory.cell(cell).page);
        if self.cluster.hosts[node].mappings[page].allows(access) {
            return Ok(true);
        }
        let page = PageIndex(page as u32);
        (self.vcpus[vcpu].blocked, self.vcpus[vcpu].waits_since) = (Some(page), Some(self.now));
        self.step(node, Event::Fault { segment: SEGMENT, page, access, vcpu: VcpuIndex(vcpu as u16) })?;
        Ok(false)
    }

    fn release(&mut self, vcpu: usize, then: Then) -> Result<(), String> {
        self.number += 1;
        let ticket = Ticket(self.number);
        let state = &mut self.vcpus[vcpu];
        (state.stage, state.ticket) = (Stage::Release(then), Some(ticket));
        state.waits_since = Some(self.now);
        let node = state.node;
        self.step(node, Event::Release { segment: SEGMENT, ticket }).map(drop)
    }

    fn after_release(&mut self, vcpu: usize, then: Then) {
        match then {
            Then::GoOn => self.vcpus[vcpu].stage = Stage::Work,
            Then::MoveTo(node) => {
                let state = &mut self.vcpus[vcpu];
                state.stage = Stage::Work;
                // Its new node may be gone by now.
                if self.cluster.alive[node] {
                    state.node = node;
                }
            }
            Then::Unlock => {
                self.vcpus[vcpu].stage = Stage::Rest;
                let lock = self.vcpus[vcpu].lock;
                self.locks[lock].holder = None;
                self.pass_on(lock);
                return self.think(vcpu);
            }
        }
        self.soon(Moment::Vcpu(vcpu), 1, 3);
    }

    fn think(&mut self, vcpu: usize) {
        let (low, high) = self.plan.think_us;
        self.soon(Moment::Vcpu(vcpu), low, high);
    }
}
