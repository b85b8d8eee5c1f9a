//! What is tested with one pager for each node, with three: each has every third extent.

/// How many pagers each node of a cluster has.
const PAGERS: u8 = 3;

#[path = "../pager/coherence.rs"]
mod coherence;
#[path = "../pager/cuts.rs"]
mod cuts;
#[path = "../pager/life.rs"]
mod life;
#[path = "../pager/merges.rs"]
mod merges;
#[path = "../pager/network.rs"]
mod network;
#[path = "../pager/scan.rs"]
mod scan;
#[path = "../pager/support.rs"]
mod support;
