//! Any run by hand.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use tessera_dsm::protocol::LeasePolicy;
use tessera_litmus::shapes;

use crate::middle::Grants;
use crate::{judged, meddle, number, spec, started};

/// Any run by hand: `NODES=3 VCPUS=3 CMDLINE='shapes=MP rounds=10000' EARLY=1 LATE_US=500 LEASE_US=500 MOVES=10 cargo test
/// -p tessera --test litmus by_hand -- --ignored --nocapture`
#[test]
#[ignore = "a tool for whoever looks for a fault"]
fn by_hand() {
    let words = std::env::var("CMDLINE").unwrap_or_default();
    let vcpus = number("VCPUS", 2) as usize;
    let mut spec = spec(&words, number("NODES", 2) as u8, vcpus);
    spec.lease = LeasePolicy { base_us: number("LEASE_US", 50), ..LeasePolicy::default() };
    let late = Duration::from_micros(number("LATE_US", 0));
    let grants = if number("EARLY", 0) > 0 { Grants::Early } else { Grants::InTime };
    let early = match grants == Grants::Early || !late.is_zero() {
        true => meddle(&mut spec, grants, late, 1),
        false => Arc::default(),
    };
    let cluster = started(spec);
    let which: Vec<u16> = (0..vcpus as u16).collect();
    println!("{} moves", cluster.keep_moving(&which, number("MOVES", 0) as usize));
    cluster.wait_for("TESSERA-RESULT");
    for node in &cluster.nodes {
        println!("{:?}", node.pager.stats().protocol);
    }
    let (_, console) = cluster.finish();
    judged::all(&console, &shapes::all());
    println!("{} early grants", early.load(Ordering::Relaxed));
}
