#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
//! The parts of the payload that touch no hardware: command line, result lines, random numbers,
//! litmus outcomes, latency samples. They are tested natively: `cargo test --lib`.

pub mod cmdline;
pub mod line;
pub mod litmus;
pub mod random;
pub mod samples;
