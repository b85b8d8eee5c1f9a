//! Who uses which segment how much, and what follows from it when a vCPU moves.
//!
//! - [`heat`]: faults counted with decay.
//! - [`AccessLog`]: faults by vCPU and segment.
//! - [`Strength`]: how strongly a vCPU is linked to a segment.
//! - [`follow()`]: whether a segment's ownership moves along with a vCPU.
//!
//! Only faults are counted, since nothing else is seen: of a segment, the first read of a page that is not here, and the
//! first write since its last release.

mod follow;
pub mod heat;
mod link;
mod log;

pub use follow::{follow, Bond, Follow, Gains};
pub use heat::{Decay, Heat};
pub use link::{Strength, STRONG_PER_MILLE, WEAK_PER_MILLE};
pub use log::{AccessLog, Link, VcpuLog, RECENT_PAGES, TOP_SEGMENTS};
