#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
//! The parts of the payload that touch no hardware: command line, result lines, random numbers,
//! how litmus tests are spread over CPUs and time, latency samples. They are tested natively: `cargo test --lib`.

pub mod assignment;
pub mod cmdline;
pub mod line;
pub mod pace;
pub mod random;
pub mod samples;
