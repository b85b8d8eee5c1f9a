//! Code that one vCPU changes and others run, with the serialising instruction that the SDM asks for: what runs is what was
//! written. (The payload's test `code`.)

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tessera_devices::GuestEnd;

use crate::cluster::ClusterSpec;
use crate::middle::Grants;
use crate::{alone, meddle, started};

/// How late an order to give a copy up may come: the flag has to be faster.
const LATE: Duration = Duration::from_millis(20);

fn spec(words: &str, nodes: u8, vcpus: usize) -> ClusterSpec {
    ClusterSpec::payload(&format!("test=code limit=600 {words}"), nodes, vcpus)
}

/// Runs of code that was not the newest, in all placements that a console tells of.
pub fn stale(console: &str) -> u64 {
    let told = console.lines().filter_map(|line| line.strip_prefix("TESSERA-RESULT "));
    let results = told.filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let of_code = results.filter(|result| result["program"] == "code");
    of_code.map(|result| result["stale"].as_u64().expect("a count")).sum()
}

#[test]
fn changed_code_is_what_runs() {
    let _alone = alone();
    started(spec("changes=100", 2, 2)).expect_pass();
    started(spec("changes=30", 4, 4)).expect_pass();
}

#[test]
fn changed_code_is_what_runs_while_vcpus_move() {
    let _alone = alone();
    let cluster = started(spec("changes=60", 3, 3));
    let made = cluster.keep_moving(&[0, 1, 2], usize::MAX);
    cluster.expect_pass();
    println!("{made} moves");
    assert!(made > 0, "nothing moved");
}

#[test]
fn old_code_that_runs_because_a_grant_came_too_early_is_caught() {
    let _alone = alone();
    let mut grants = 0;
    for seed in 1..=20 {
        let mut spec = spec("place=apart changes=50 idle=spin limit=60", 3, 3);
        let early = meddle(&mut spec, Grants::Early, LATE, seed);
        let (end, console) = started(spec).finish();
        grants += early.load(Ordering::Relaxed);
        let stale = stale(&console);
        if stale > 0 {
            println!("{stale} runs of old code; {grants} grants came early");
            assert_eq!(end, GuestEnd::PayloadExit(1), "the payload says so itself");
            return;
        }
    }
    panic!("{grants} early grants showed nothing");
}
