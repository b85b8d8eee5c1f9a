//! What is at 00:00.0: a host bridge with nothing to set. Kernels look for one before they trust ports 0xcf8-0xcff.

use super::config::{ConfigSpace, Identity};
use super::function::{Decoding, PciFunction, Region};

/// The number that guests know as a generic PCI Express host bridge, without quirks: Red Hat's.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: [0x06, 0x00, 0x00],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// The host bridge. It has no state.
#[derive(Clone, Debug)]
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        HostBridge(ConfigSpace::new(&IDENTITY))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&self, _offset: usize, _data: &[u8]) -> Decoding {
        Decoding::Unchanged
    }

    fn regions(&self) -> Vec<Region> {
        Vec::new()
    }

    fn read_memory(&self, _bar: usize, _offset: u64, _data: &mut [u8]) {}

    fn write_memory(&self, _bar: usize, _offset: u64, _data: &[u8]) {}
}
