//! Pagers of several nodes in one process: real userfaultfd, real sockets, plain threads in place of vCPUs.
//!
//! A thread of "node 1" touches node 1's guest mapping through raw pointers, as a vCPU would. Needs a usable
//! `/dev/userfaultfd` (run as root). `--nocapture` prints the fault latencies.

/// How many pagers each node of a cluster has.
const PAGERS: u8 = 1;

mod coherence;
mod cuts;
mod hostile;
mod life;
mod merges;
mod network;
mod scan;
mod shards;
mod support;
