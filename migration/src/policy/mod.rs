//! What placement knows: who touches which memory, and how busy hosts are. Pure: events and time in, numbers out.
//!
//! - [`regions`]: faults of a vCPU, or of a host, by region of 2 MiB, with decay.
//! - [`load`]: how busy a host is, smoothed differently for its own use and for others'.
//!
//! Links of vCPUs to shared segments, and whether a segment moves along, are the segments' own business:
//! [`tessera_dsm::release::affinity`].

pub mod load;
pub mod regions;
