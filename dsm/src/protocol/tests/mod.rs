//! Tests of the protocol as a whole.
//!
//! `host` stands for the driver and the guest's mapping on one node and refuses what a driver could not do;
//! `cluster` joins nodes by links in order. On them stand the rules one by one (`rules`, `leases`), what peers may not
//! do (`violations`, `fuzz`), nodes that come and go (`membership`), the random simulator (`simulation`; `soak` runs it on and
//! on, `shrink` makes what it finds small, with
//! `schedule`), the exhaustive models (`model`, and `sessions` over links that break), and proof that these would see a mistake (`mutants`).

mod cluster;
mod fuzz;
mod host;
mod leases;
mod membership;
mod model;
mod mutants;
mod random;
mod rules;
mod schedule;
mod sessions;
mod shrink;
mod simulation;
mod soak;
mod violations;
