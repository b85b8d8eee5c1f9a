//! What the bus asks of a function.

use std::ops::Range;

use crate::traffic::Traffic;

/// A range of memory that a function decodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// The BAR that it is in.
    pub bar: usize,
    /// Guest-physical addresses.
    pub range: Range<u64>,
}

/// Whether a write to configuration space may have changed what a function decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoding {
    /// It has not.
    Unchanged,
    /// It may have: ask for [`PciFunction::regions`] again.
    Changed,
}

/// What a function is and does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionReport {
    /// What it is called in messages.
    pub name: String,
    /// What kind of device it is.
    pub kind: &'static str,
    /// What of its work crossed hosts.
    pub traffic: Traffic,
}

/// One function of a PCI device. Called by any thread; a guest chooses offsets, sizes and bytes, so an implementation
/// must take any of them without a panic and without waiting.
pub trait PciFunction: Send + Sync {
    /// Reads configuration space.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes configuration space.
    fn write_config(&self, offset: usize, data: &[u8]) -> Decoding;

    /// What it decodes now.
    fn regions(&self) -> Vec<Region>;

    /// Reads at `offset` from the start of a BAR. `data` is all ones before the call.
    fn read_memory(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes at `offset` from the start of a BAR.
    fn write_memory(&self, bar: usize, offset: u64, data: &[u8]);

    /// A vCPU of another node has accessed its memory.
    fn remote_access(&self) {}

    /// What it is and what of its work crossed hosts; `None` for what belongs to the bus itself.
    fn report(&self) -> Option<FunctionReport> {
        None
    }

    /// Tells the function's own threads, if it has any, to end.
    fn quit(&self) {}

    /// Waits for their end; after [`PciFunction::quit`], and when guest memory is not served any more.
    fn join(&self) {}
}
