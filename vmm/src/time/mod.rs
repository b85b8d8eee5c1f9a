//! time

pub mod estimate;
