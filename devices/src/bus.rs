//! A bus: ranges of addresses and the device behind each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

/// What the guest can read and write through a bus.
///
/// A guest chooses offset, size and bytes: an implementation must take any of them without a panic.
pub trait BusDevice: Send + Sync {
    /// Reads at `offset` from the start of the device's range. `data` is all ones before the call: what the
    /// device leaves alone stays so.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` from the start of the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device cannot go where it was put.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// The range holds no address.
    #[error("the bus range {0:#x?} is empty")]
    Empty(Range<u64>),
    /// Another device is there.
    #[error("the bus range {0:#x?} overlaps the one of another device")]
    Overlap(Range<u64>),
}

struct Slot {
    end: u64,
    device: Arc<dyn BusDevice>,
}

/// Devices by address, for ports or for memory. Fixed once it is built, so reading it takes no lock.
#[derive(Default)]
pub struct Bus {
    slots: BTreeMap<u64, Slot>,
}

impl Bus {
    /// A bus with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `range`.
    ///
    /// # Errors
    /// When the range is empty or overlaps another; the bus is then unchanged.
    pub fn insert(&mut self, range: Range<u64>, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        if range.is_empty() {
            return Err(BusError::Empty(range));
        }
        let below = self.slots.range(..range.end).next_back();
        if below.is_some_and(|(_, slot)| slot.end > range.start) {
            return Err(BusError::Overlap(range));
        }
        self.slots.insert(range.start, Slot { end: range.end, device });
        Ok(())
    }

    /// One read of `data.len()` bytes at `address`: all ones where no device holds the whole access.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    /// One write at `address`; lost where no device holds the whole access.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64, bytes: usize) -> Option<(&dyn BusDevice, u64)> {
        let (start, slot) = self.slots.range(..=address).next_back()?;
        let end = address.checked_add(bytes as u64)?;
        (bytes > 0 && end <= slot.end).then(|| (slot.device.as_ref(), address - start))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_the_device_that_holds_all_of_it() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.insert(0x100..0x104, device.clone()).unwrap();
        let mut data = [0u8; 2];
        bus.read(0x102, &mut data);
        assert_eq!(data, [2, 2]);
        bus.read(0x103, &mut data);
        assert_eq!(data, [0xff, 0xff], "reaches past the range");
        bus.read(0xff, &mut data);
        assert_eq!(data, [0xff, 0xff], "begins before the range");
        bus.write(0x101, &[7]);
        bus.write(0x104, &[8]);
        bus.write(u64::MAX, &[9, 9]);
        bus.write(0x100, &[]);
        assert_eq!(*device.0.lock().unwrap(), vec![(1, vec![7])]);
    }

    #[test]
    fn overlapping_and_empty_ranges_are_refused() {
        let mut bus = Bus::new();
        let device = || Arc::new(Recorder::default());
        bus.insert(10..20, device()).unwrap();
        for range in [0..11, 10..20, 12..13, 19..30, 0..40] {
            assert_eq!(bus.insert(range.clone(), device()), Err(BusError::Overlap(range)));
        }
        assert_eq!(bus.insert(5..5, device()), Err(BusError::Empty(5..5)));
        bus.insert(0..10, device()).unwrap();
        bus.insert(20..21, device()).unwrap();
    }
}
