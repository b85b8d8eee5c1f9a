//! What must hold in simulated runs.

use super::super::cluster::{Mutant, Shape};
use super::super::schedule::Taken;
use super::{simulate, Plan, Report, Simulation};
use crate::protocol::{HabitPolicy, LeasePolicy, Micros};

/// Lines of the schedule that a failure shows.
const SHOWN_STEPS: usize = 80;

/// The longest that an instruction may take where up to eight nodes contend, in simulated time.
pub const LONGEST_US: Micros = 500_000;

/// Runs ten-page instructions on ten pages; returns the longest that one took.
pub fn contend(nodes: u8, vcpus_each: u64, ops: u64, mutant: Option<Mutant>) -> Result<Micros, String> {
    let mut simulation = Simulation::new(Plan::contention(nodes, vcpus_each, ops), mutant);
    simulation.run()?;
    let report = simulation.report();
    let each: Vec<u64> = simulation.vcpus.iter().map(|vcpu| vcpu.done).collect();
    println!("{nodes} nodes, {vcpus_each} vCPUs each: {report:?}, instructions {each:?}");
    Ok(report.longest_us)
}

#[test]
fn instructions_of_ten_pages_end_soon_however_many_nodes_contend() {
    for nodes in [2, 3, 4, 8] {
        for vcpus_each in [1, 4] {
            let longest = contend(nodes, vcpus_each, 20_000, None).unwrap_or_else(|why| panic!("{why}"));
            assert!(longest < LONGEST_US, "{nodes} nodes: an instruction took {longest} us");
        }
    }
}

/// The last steps of a run that fails, and how to take it again.
fn explain(seed: u64, plan: &Plan, why: &str) -> String {
    let mut again = Simulation::new(plan.clone(), None).recording();
    let same = again.run().err().as_deref() == Some(why);
    let schedule = again.into_schedule();
    let shown: Vec<String> = schedule.iter().rev().take(SHOWN_STEPS).rev().map(Taken::to_string).collect();
    format!("seed {seed}: {why}\n(same again: {same}) {plan:?}\n{}", shown.join("\n"))
}

#[test]
fn random_schedules_stay_coherent_and_end() {
    let mut total = Report::default();
    for seed in 1..=100 {
        let plan = Plan::random(seed, 2..=8, 1_000);
        let report = simulate(&plan, None).unwrap_or_else(|why| panic!("{}", explain(seed, &plan, &why)));
        total.add(&report);
    }
    println!("{total:?}");
    assert!(total.ops >= 80_000 && total.faults > 0 && total.splits > 0, "{total:?}");
    assert!(total.given > 0 && total.merges > 0 && total.crashes > 0, "{total:?}");
    assert!(total.handovers > 0 && total.joined > 0 && total.left > 0, "{total:?}");
}

/// Four nodes that read a page and then write it, one after the other; gives the requests that they sent.
fn hand_overs(habits: HabitPolicy) -> u64 {
    let mut plan = Plan::contention(4, 1, 4_000);
    plan.shape = Shape { habits, ..Shape::new(4, &[0], 2) };
    plan.shape.lease = LeasePolicy::default();
    (plan.least, plan.span, plan.writes_percent, plan.read_then_write_percent) = (1, 1, 0, 100);
    plan.think_us = (1, 10_000);
    let mut simulation = Simulation::new(plan, None);
    simulation.run().unwrap_or_else(|why| panic!("{why}"));
    println!("{:?}", simulation.report());
    simulation.report().faults
}

#[test]
fn pages_that_migrate_cost_little_more_than_one_request_for_each_hand_over() {
    let (asked_for, guessed) = (hand_overs(HabitPolicy::OFF), hand_overs(HabitPolicy::default()));
    assert!(guessed * 100 < asked_for * 70, "{guessed} requests with habits, {asked_for} without");
}

#[test]
fn a_run_is_a_function_of_its_plan() {
    let run = || format!("{:?}", simulate(&Plan::random(7, 2..=8, 2_000), None));
    assert_eq!(run(), run());
}
