//! Nodes are lost, and their locks are taken from them.

use std::collections::BTreeMap;

use super::super::cluster::Parcel;
use super::super::host::{parse, Packet};
use super::{Moment, Simulation, PAGE};
use crate::release::segment::Role;
use crate::release::Message;

/// What a lost node held.
struct Estate {
    node: usize,
    locks: Vec<usize>,
    /// Each page at the owner, as it was when the node was lost.
    before: Vec<[u8; PAGE]>,
    /// By page, the difference that was sent and not acknowledged.
    in_doubt: BTreeMap<usize, Vec<u8>>,
}

#[derive(Default)]
pub struct Losses {
    /// The last difference that a node sent of a page.
    sent: BTreeMap<(usize, usize), Vec<u8>>,
    open: Vec<Estate>,
    /// A node was lost that was the owner, or in the middle of a move of the ownership.
    pub owner_was_at_risk: bool,
}

impl Losses {
    /// A node sent something.
    pub fn saw(&mut self, node: usize, packet: &Packet) {
        if let (Message::Diff { page, .. }, data) = (packet.message, &packet.data) {
            self.sent.insert((node, page.index()), data.clone().unwrap_or_default());
        }
    }
}

impl Simulation {
    /// A node is lost now, some of what it sent with it.
    pub(super) fn lose_a_node(&mut self) {
        let living: Vec<usize> = self.cluster.living().collect();
        // The owner less often than others: a broken segment ends the run.
        let owner = self.cluster.owner();
        let spared = living.iter().copied().filter(|node| Some(*node) != owner);
        let candidates: Vec<usize> = if self.random.percent(80) { spared.collect() } else { living.clone() };
        if living.len() < 2 || candidates.is_empty() || self.is_broken() || !self.losses.open.is_empty() {
            return;
        }
        let node = self.random.pick(&candidates);
        let role = &self.cluster.segment(node).role;
        self.losses.owner_was_at_risk |= !matches!(role, Role::User);
        let holds = |vcpu: Option<usize>| vcpu.is_some_and(|vcpu| self.vcpus[vcpu].node == node);
        let locks = (0..self.locks.len()).filter(|&lock| holds(self.locks[lock].holder)).collect();
        let needs = &self.cluster.segment(node).needs;
        let doubt = needs.iter().filter(|(_, need)| need.diffing.is_some());
        let in_doubt: BTreeMap<usize, Vec<u8>> = doubt
            .filter_map(|(page, _)| {
                Some((page.index(), self.losses.sent.get(&(node, page.index()))?.clone()))
            })
            .collect();
        let before = match owner.filter(|owner| *owner != node) {
            Some(owner) => self.cluster.hosts[owner].mappings.iter().map(|m| *m.released()).collect(),
            None => vec![],
        };
        self.report.lost += 1;
        self.report.in_doubt += in_doubt.len() as u64;
        self.note(|| format!("node {node} is lost"));
        self.losses.open.push(Estate { node, locks, before, in_doubt });
        let mut random = self.random.clone();
        self.cluster.crash(node, |sent| random.between(0, sent as u64) as usize);
        self.random = random;
        for other in living {
            if self.cluster.alive[other] {
                self.schedule(node, other);
            }
        }
        self.at(self.now + 100, Moment::Inherit);
    }

    /// Takes a lost node's locks from it, once everybody knows of the loss.
    pub(super) fn inherit(&mut self) -> Result<(), String> {
        let Some(estate) = self.losses.open.pop() else { return Ok(()) };
        if self.is_broken() {
            return Ok(());
        }
        let all_know = self.cluster.living().all(|at| {
            let parcels = &self.cluster.links[self.cluster.link(estate.node, at)];
            !parcels.contains(&Parcel::Lost)
        });
        let Some(owner) = self.cluster.owner().filter(|_| all_know) else {
            self.losses.open.push(estate);
            self.at(self.now + 100, Moment::Inherit);
            return Ok(());
        };
        for &lock in &estate.locks {
            self.check_estate(&estate, lock, owner)?;
            self.locks[lock].holder = None;
            self.pass_on(lock);
        }
        Ok(())
    }

    /// Each page has all of the difference in doubt, or nothing of it.
    fn check_estate(&mut self, estate: &Estate, lock: usize, owner: usize) -> Result<(), String> {
        let cells: Vec<usize> = self.memory.of_lock(lock).collect();
        for page in 0..self.cluster.hosts[owner].mappings.len() {
            let now = *self.cluster.hosts[owner].mappings[page].released();
            let cells = || cells.iter().copied().filter(|&cell| self.memory.cell(cell).page == page);
            // The ownership was on the move, so that nothing can have been under way.
            let before = estate.before.get(page).copied().unwrap_or(now);
            let mut after = before;
            if let Some(changes) = estate.in_doubt.get(&page) {
                parse::<PAGE>(changes)?.apply(&mut after);
            }
            let is = |page: &[u8; PAGE]| {
                cells().all(|cell| self.memory.cell(cell).of(page) == self.memory.cell(cell).of(&now))
            };
            if !is(&before) && !is(&after) {
                return Err(format!(
                    "node {} was lost: page {page} is {now:?}, neither {before:?} nor {after:?}",
                    estate.node
                ));
            }
        }
        for cell in cells {
            let page = self.memory.cell(cell).page;
            let released = *self.cluster.hosts[owner].mappings[page].released();
            self.memory.adopt(cell, &released);
        }
        Ok(())
    }
}
