//! From a run that fails to a small one that fails: first a smaller plan (fewer nodes, pages, accesses), then fewer steps of its
//! schedule, as long as something still goes wrong.

use super::cluster::Mutant;
use super::cluster::NO_LEASE;
use super::random::Random;
use super::schedule::{replay, Replayed, Taken};
use super::simulation::{simulate, Plan, Simulation};
use crate::protocol::HabitPolicy;

/// For each smaller plan, so many seeds of the choices on the way are tried.
const SEEDS_TRIED: u64 = 12;
/// Most runs for one shrinking.
const RUNS_MAX: usize = 10_000;

/// A small failure.
#[derive(Debug)]
pub struct Shrunk {
    pub plan: Plan,
    /// What goes wrong when the plan is run.
    pub why: String,
    /// The fewest steps that go wrong by themselves, and how. None if the plan fails only as a whole: somebody is
    /// starved, or the failure hangs on what came long before.
    pub steps: Option<Replayed>,
}

/// Shrinks a plan that fails.
pub fn shrink(plan: &Plan, mutant: Option<Mutant>) -> Option<Shrunk> {
    let mut shrinker = Shrinker { mutant, runs: 0 };
    let mut plan = plan.clone();
    let mut why = shrinker.fails(&plan)?;
    while let Some((smaller, reason)) = shrinker.smaller(&plan) {
        (plan, why) = (smaller, reason);
    }
    let mut simulation = Simulation::new(plan.clone(), mutant).recording();
    // It has failed before.
    let _ = simulation.run();
    let steps = shrinker.fewest_steps(&plan, &simulation.into_schedule());
    Some(Shrunk { plan, why, steps })
}

struct Shrinker {
    mutant: Option<Mutant>,
    runs: usize,
}

impl Shrinker {
    fn fails(&mut self, plan: &Plan) -> Option<String> {
        self.runs += 1;
        simulate(plan, self.mutant).err()
    }

    /// A smaller plan that fails too.
    fn smaller(&mut self, plan: &Plan) -> Option<(Plan, String)> {
        let mut random = Random::new(plan.seed);
        for candidate in candidates(plan) {
            for attempt in 0..SEEDS_TRIED {
                if self.runs > RUNS_MAX {
                    return None;
                }
                let seed = if attempt == 0 { plan.seed } else { random.next() };
                let mut candidate = Plan { seed, ..candidate.clone() };
                if let Some(why) = self.fails(&candidate) {
                    candidate.ops = candidate.ops.min(self.ops_until_failure(&candidate));
                    return Some((candidate, why));
                }
            }
        }
        None
    }

    /// How many accesses it takes until the plan fails; all of them if the failure is that the rest does not end.
    fn ops_until_failure(&mut self, plan: &Plan) -> u64 {
        let mut simulation = Simulation::new(plan.clone(), self.mutant);
        let _ = simulation.run();
        let shorter = Plan { ops: simulation.report().ops, ..plan.clone() };
        if self.fails(&shorter).is_some() {
            shorter.ops
        } else {
            plan.ops
        }
    }

    /// Leaves steps out, fewer and fewer at a time, as long as what is left goes wrong (delta debugging; Zeller, 1999).
    fn fewest_steps(&self, plan: &Plan, schedule: &[Taken]) -> Option<Replayed> {
        let fails = |steps: &[Taken]| {
            let replayed = replay(&plan.shape, steps, self.mutant);
            replayed.failure.is_some().then_some(replayed)
        };
        let mut best = fails(schedule)?;
        let mut chunk = best.steps.len().div_ceil(2);
        while chunk > 0 {
            let before = best.steps.len();
            let mut at = 0;
            while at < best.steps.len() {
                let mut fewer = best.steps.clone();
                fewer.drain(at..(at + chunk).min(fewer.len()));
                match fails(&fewer) {
                    Some(smaller) => best = smaller,
                    None => at += chunk,
                }
            }
            // Single steps until none can be left out; larger chunks once.
            if chunk > 1 || best.steps.len() == before {
                chunk /= 2;
            }
        }
        Some(best)
    }
}

/// Smaller plans, the boldest first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut found = vec![];
    let mut offer = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        mend(&mut smaller);
        if smaller != *plan {
            found.push(smaller);
        }
    };
    for ops in [plan.ops / 8, plan.ops / 2, plan.ops - plan.ops / 8] {
        offer(&|plan| plan.ops = ops);
    }
    for nodes in [2, plan.shape.nodes / 2, plan.shape.nodes - 1] {
        offer(&|plan| plan.shape.nodes = nodes.clamp(2, plan.shape.nodes));
    }
    for kept in 0..plan.shape.homes.len() {
        offer(&|plan| plan.shape.homes = vec![plan.shape.homes[kept]]);
    }
    for dropped in 1..plan.shape.homes.len() {
        offer(&|plan| plan.shape.homes.truncate(dropped));
    }
    for pages in [1, plan.shape.pages_each / 2, plan.shape.pages_each - 1] {
        offer(&|plan| plan.shape.pages_each = pages.clamp(1, plan.shape.pages_each));
    }
    offer(&|plan| plan.vcpus_each = 1);
    offer(&|plan| plan.devices = false);
    offer(&|plan| plan.crash = None);
    offer(&|plan| plan.changes = None);
    offer(&|plan| plan.changes.iter_mut().for_each(|changes| changes.leaves = None));
    offer(&|plan| plan.shape.late = 0);
    offer(&|plan| plan.shape.preloaded = vec![]);
    offer(&|plan| plan.shape.habits = HabitPolicy::OFF);
    offer(&|plan| plan.read_then_write_percent = 0);
    offer(&|plan| plan.spurious_percent = 0);
    offer(&|plan| plan.span = 1);
    offer(&|plan| plan.span /= 2);
    offer(&|plan| plan.shape.lease = NO_LEASE);
    offer(&|plan| plan.delay_us = (1, 1));
    offer(&|plan| plan.think_us = (1, 1));
    found
}

/// Makes a plan whole whose parts were made smaller.
fn mend(plan: &mut Plan) {
    let nodes = plan.shape.nodes;
    if nodes < 3 || plan.changes.is_none() {
        plan.shape.late = 0;
    }
    let started = nodes - plan.shape.late;
    if plan.shape.homes.is_empty() {
        plan.shape.homes.push(0);
    }
    plan.shape.homes.iter_mut().for_each(|home| *home %= started);
    let pages = plan.shape.pages().len() as u64;
    plan.span = plan.span.clamp(1, pages);
    plan.least = plan.least.clamp(1, plan.span);
    if let Some(crash) = &mut plan.crash {
        crash.node %= nodes;
        crash.after_ops = crash.after_ops.min(plan.ops);
    }
    if let Some((node, after_ops)) = plan.changes.as_mut().and_then(|changes| changes.leaves.as_mut()) {
        *node %= nodes;
        *after_ops = (*after_ops).min(plan.ops);
    }
    if plan.shape.lease == NO_LEASE {
        // Without leases that grow, longer ones may starve.
        (plan.span, plan.least) = (1, 1);
    }
}

impl std::fmt::Display for Shrunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shape = &self.plan.shape;
        let (nodes, pages) = (shape.nodes, shape.pages().len());
        writeln!(f, "{nodes} nodes, {pages} pages, {} accesses: {}", self.plan.ops, self.why)?;
        let Some(Replayed { steps, rest, failure }) = &self.steps else {
            return writeln!(f, "(no part of its schedule fails by itself)");
        };
        writeln!(f, "{} steps:", steps.len())?;
        steps.iter().try_for_each(|taken| writeln!(f, "{taken}"))?;
        writeln!(f, "and what follows by itself:")?;
        rest.iter().try_for_each(|taken| writeln!(f, "{taken}"))?;
        writeln!(f, "{}", failure.as_deref().unwrap_or_default())
    }
}

#[test]
fn a_failure_shrinks_to_a_few_steps_and_can_be_taken_again() {
    for name in [
        "one sharer is not told to give up",
        "copy kept when recalled for a write",
        "done is never said",
        "a lent page is taken",
    ] {
        let mutant = super::mutants::named(name);
        let fails = |seed: &u64| simulate(&Plan::random(*seed, 8..=16, 2_000), mutant).is_err();
        let seed = (1..50).find(fails).unwrap_or_else(|| panic!("no run with the mistake fails: {name}"));
        let shrunk = shrink(&Plan::random(seed, 8..=16, 2_000), mutant).expect("it fails");
        println!("{name}, seed {seed}: {shrunk}");
        let again = simulate(&shrunk.plan, mutant).map(drop);
        assert_eq!(again, Err(shrunk.why.clone()), "the plan fails again");
        let steps = shrunk.steps.as_ref().expect("it fails step by step");
        assert_eq!(&replay(&shrunk.plan.shape, &steps.steps, mutant), steps, "the steps fail again");
        let (nodes, pages) = (shrunk.plan.shape.nodes, shrunk.plan.shape.pages().len());
        assert!(nodes <= 3 && pages <= 4 && shrunk.plan.ops <= 20, "{nodes} nodes, {pages} pages: {shrunk}");
        assert!(steps.steps.len() <= 12, "{} steps: {shrunk}", steps.steps.len());
    }
}

#[test]
fn what_does_not_fail_does_not_shrink() {
    assert!(shrink(&Plan::random(3, 2..=4, 500), None).is_none());
}
