#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
//! Litmus tests of x86-TSO: a few loads and stores per thread, and the question which outcomes there may be.
//!
//! Host side, from a cycle to a verdict:
//! - [`cycle`]: cycles of edges such as `Rfe PodRR Fre PodWW`, each of which names one way in which memory could be
//!   out of order; [`enumerate`] lists all of a size, [`names`] gives them their usual names;
//! - [`generate`]: the program that can only show the cycle's outcome if memory is that much out of order;
//! - [`test`](mod@test): that program: a small typed language, with a text form in [`text`];
//! - [`oracle`]: the abstract machine of x86-TSO (store buffers, lock, fence), run through every interleaving: which
//!   outcomes are allowed;
//! - [`corpus`]: published tests with the verdicts that another tool gave them, against which both are checked;
//! - [`shapes`]: the tests with names that everybody knows, and some written by hand.
//!
//! For the guest:
//! - [`code`]: each thread as straight-line machine code;
//! - [`value`]: how a value of a test lies in memory;
//! - [`table`]: encoded tests, which the payload reads without an allocator; [`encode`](mod@encode) writes them;
//! - [`placement`]: where a test's variables are in memory;
//! - [`report`]: what the payload prints, and the oracle's judgement on it.

pub mod outcome;
pub mod placement;
pub mod table;
pub mod value;

#[cfg(feature = "std")]
pub mod code;
#[cfg(feature = "std")]
pub mod corpus;
#[cfg(feature = "std")]
pub mod cycle;
#[cfg(feature = "std")]
pub mod encode;
#[cfg(feature = "std")]
pub mod enumerate;
#[cfg(feature = "std")]
pub mod generate;
#[cfg(feature = "std")]
pub mod names;
#[cfg(feature = "std")]
pub mod oracle;
#[cfg(feature = "std")]
pub mod report;
#[cfg(feature = "std")]
pub mod shapes;
#[cfg(feature = "std")]
pub mod test;
#[cfg(feature = "std")]
pub mod text;
