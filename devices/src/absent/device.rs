//! A range that reads zero.

use crate::bus::BusDevice;

/// Reads zero, ignores writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Absent;

impl BusDevice for Absent {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}
