//! Run after run of the simulator, from one seed on, for as long as wanted; a failure is shrunk and told.
//!
//! `cargo xtask soak sim` says what is wanted in the environment and reads what is told: lines of JSON behind [`MARK`].
//! Without that a few runs are made, of up to 32 nodes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cluster::Mutant;
use super::mutants;
use super::shrink::shrink;
use super::simulation::{simulate, Plan, Report};

/// The variable of the environment that holds a [`Wanted`] as JSON.
const WANTED: &str = "TESSERA_SOAK";
/// What lines for `cargo xtask` begin with.
const MARK: &str = "soak: ";
/// Time between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Page accesses of one run.
const OPS: u64 = 2_000;

/// What to do. At least one run is made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    seconds: u64,
    /// Of the first run; the next ones follow it.
    seed: u64,
    /// Least and most nodes.
    nodes: (u8, u8),
    /// A mistake in every node, by its name.
    mutant: Option<String>,
    /// One run of this plan, and no other.
    plan: Option<Plan>,
}

/// How things are.
#[derive(Debug, Default, Serialize)]
struct Told {
    runs: u64,
    operations: u64,
    faults: u64,
    crashes: u64,
    handovers: u64,
    joined: u64,
    left: u64,
    simulated_s: f64,
    longest_us: u64,
    seconds: f64,
    done: bool,
    failure: Option<Failure>,
}

/// A run that failed.
#[derive(Debug, Serialize)]
struct Failure {
    seed: u64,
    why: String,
    /// What it shrank to, to be read.
    shrunk: String,
    /// The same as a plan, to be run.
    plan: Plan,
}

fn say(told: &Told) {
    println!("{MARK}{}", serde_json::to_string(told).expect("plain values"));
}

fn soak(wanted: &Wanted) -> Told {
    let mutant: Option<Mutant> = wanted.mutant.as_deref().map(mutants::named).unwrap_or_default();
    let started = Instant::now();
    let (mut total, mut told) = (Report::default(), Told::default());
    let mut reported = started;
    for seed in wanted.seed.. {
        let plan = wanted.plan.clone();
        let plan = plan.unwrap_or_else(|| Plan::random(seed, wanted.nodes.0..=wanted.nodes.1, OPS));
        match simulate(&plan, mutant) {
            Ok(report) => total.add(&report),
            Err(why) => {
                let shrunk = shrink(&plan, mutant).expect("what failed fails again");
                let text = shrunk.to_string();
                told.failure = Some(Failure { seed, why, shrunk: text, plan: shrunk.plan });
            }
        }
        told.runs += 1;
        let Report { ops, faults, crashes, simulated_us, longest_us, .. } = total;
        (told.handovers, told.joined, told.left) = (total.handovers, total.joined, total.left);
        (told.operations, told.faults, told.crashes) = (ops, faults, crashes);
        (told.simulated_s, told.longest_us) = (simulated_us as f64 / 1e6, longest_us);
        told.seconds = started.elapsed().as_secs_f64();
        if told.failure.is_some() || wanted.plan.is_some() || started.elapsed().as_secs() >= wanted.seconds {
            break;
        }
        if reported.elapsed() >= REPORT_EVERY {
            reported = Instant::now();
            say(&told);
        }
    }
    told.done = true;
    told
}

#[test]
fn soak_as_long_as_wanted() {
    let Ok(wanted) = std::env::var(WANTED) else {
        for seed in 1..=12 {
            let told = soak(&Wanted { seconds: 0, seed, nodes: (2, 32), mutant: None, plan: None });
            assert!(told.failure.is_none(), "{:?}", told.failure);
        }
        return;
    };
    let wanted: Wanted = serde_json::from_str(&wanted).unwrap_or_else(|why| panic!("{WANTED}: {why}"));
    let (least, most) = wanted.nodes;
    assert!((2..=most).contains(&least) && most <= 32, "{WANTED}: {least} to {most} nodes, expected 2 to 32");
    say(&soak(&wanted));
}

#[test]
fn a_soak_that_fails_tells_a_plan_that_fails() {
    let name = "copy kept when recalled for a write";
    let told = soak(&Wanted { seconds: 60, seed: 1, nodes: (2, 32), mutant: Some(name.into()), plan: None });
    let failure = told.failure.expect("found");
    let text = serde_json::to_string(&failure.plan).expect("plain values");
    let plan: Plan = serde_json::from_str(&text).expect("the same again");
    assert!(simulate(&plan, mutants::named(name)).is_err());
    let first = Plan::random(failure.seed, 2..=32, OPS);
    assert_eq!(simulate(&first, mutants::named(name)).map(drop), Err(failure.why));
}
