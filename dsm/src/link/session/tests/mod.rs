//! Tests of sessions.
//!
//! `pair` joins two of them by links that break at any byte, and knows what must come of it. On it stand the rules one
//! by one (`rules`), the random simulator (`simulation`), the exhaustive model (`model`), and proof that these would
//! see a mistake (`mutants`). `recount` is for models of nodes over sessions (`dsm/src/protocol/tests/sessions`). What drives a session in the product is tested in `dsm/src/link/tests/resume.rs`.

mod model;
mod mutants;
mod pair;
mod recount;
mod rules;
mod simulation;
