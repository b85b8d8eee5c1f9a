//! Tests of eager release as a whole.
//!
//! `host` stands for the driver and the guest's mapping on one node, with real bytes, and refuses what a driver could not
//! do; `cluster` joins nodes by links in order. On them stand the rules one by one (`rules`, `handover`), what peers may not
//! do (`violations`), litmus programs (`litmus`), the random simulator (`simulation`), the exhaustive model (`model`), proof
//! that these would see a mistake (`mutants`), and what it all costs in messages (`costs`).

mod cluster;
mod costs;
mod handover;
mod host;
mod litmus;
mod model;
mod mutants;
// The generator of the other protocol's simulator: its tests are private to it.
#[allow(clippy::duplicate_mod)]
#[path = "../../protocol/tests/random.rs"]
mod random;
mod rules;
mod simulation;
mod violations;
