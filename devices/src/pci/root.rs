//! The root bus: up to 32 devices, found by ECAM (PCI Express Base 5.0, 7.2.2) and by ports 0xcf8-0xcff (PCI Local
//! Bus 3.0, 3.2.2.3.2).

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use thiserror::Error;

use super::function::{Decoding, FunctionReport, PciFunction};
use super::host_bridge::HostBridge;
use crate::bus::BusDevice;

/// Devices on a bus.
pub const DEVICES_MAX: usize = 32;
/// Bytes of one function's configuration space.
const FUNCTION_BYTES: u64 = 4096;
/// Functions of a device.
const FUNCTIONS: u64 = 8;

/// Offsets of the data ports from the address port.
const DATA_PORTS: Range<u64> = 4..8;
/// In the address port: an access to the data ports is one to configuration space.
const ENABLE: u32 = 1 << 31;

/// Why a device cannot be put on the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RootError {
    /// All places are taken.
    #[error("a PCI bus holds {DEVICES_MAX} devices, the host bridge among them")]
    Full,
}

/// What an address in memory belongs to.
struct Decoded {
    range: Range<u64>,
    device: usize,
    bar: usize,
}

/// The root bus.
pub struct PciRoot {
    devices: Vec<Arc<dyn PciFunction>>,
    /// What the devices decode, brought up to date by each write that may change it.
    decoded: RwLock<Vec<Decoded>>,
    /// The address port.
    address: AtomicU32,
}

impl Default for PciRoot {
    /// A bus with nothing but its host bridge.
    fn default() -> Self {
        let bridge: Arc<dyn PciFunction> = Arc::new(HostBridge::default());
        PciRoot { devices: vec![bridge], decoded: RwLock::default(), address: AtomicU32::new(0) }
    }
}

impl PciRoot {
    /// Puts a device at the next place. Gives the place's number.
    ///
    /// # Errors
    /// [`RootError::Full`].
    pub fn add(&mut self, device: Arc<dyn PciFunction>) -> Result<usize, RootError> {
        if self.devices.len() == DEVICES_MAX {
            return Err(RootError::Full);
        }
        self.devices.push(device);
        self.decode_anew();
        Ok(self.devices.len() - 1)
    }

    /// A vCPU of another node has accessed memory here; it counts for the device behind it.
    pub fn remote_access(&self, address: u64, bytes: usize) {
        if let Some((function, _, _)) = self.find(address, bytes) {
            function.remote_access();
        }
    }

    /// The devices' places and what they say of themselves.
    pub fn reports(&self) -> Vec<(usize, FunctionReport)> {
        let devices = self.devices.iter().enumerate();
        devices.filter_map(|(place, device)| Some((place, device.report()?))).collect()
    }

    /// Tells the devices' own threads to end.
    pub fn quit(&self) {
        self.devices.iter().for_each(|device| device.quit());
    }

    /// Waits for their end; after [`PciRoot::quit`], and when guest memory is not served any more.
    pub fn join(&self) {
        self.devices.iter().for_each(|device| device.join());
    }

    /// Takes over what the devices decode now.
    fn decode_anew(&self) {
        // The table is replaced as a whole, so a poisoned lock holds a good one. It is read from the devices under the
        // lock: of two guests' writes the later one sees both.
        let mut decoded = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        let regions = self.devices.iter().enumerate().flat_map(|(device, function)| {
            let regions = function.regions().into_iter();
            regions.map(move |region| Decoded { range: region.range, device, bar: region.bar })
        });
        *decoded = regions.collect();
    }

    /// The function, the BAR and the offset in it behind an access to memory. Of two devices that a guest has put at
    /// one place, the first answers.
    fn find(&self, address: u64, bytes: usize) -> Option<(&dyn PciFunction, usize, u64)> {
        let end = address.checked_add(bytes as u64)?;
        let decoded = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
        let hit =
            decoded.iter().find(|decoded| decoded.range.start <= address && end <= decoded.range.end)?;
        Some((self.devices.get(hit.device)?.as_ref(), hit.bar, address - hit.range.start))
    }

    /// A device of bus 0; other functions than the first are not there.
    fn function(&self, device: u64, function: u64) -> Option<&dyn PciFunction> {
        let device = usize::try_from(device).ok()?;
        self.devices.get(device).filter(|_| function == 0).map(AsRef::as_ref)
    }

    fn write_config(&self, function: &dyn PciFunction, offset: usize, data: &[u8]) {
        if function.write_config(offset, data) == Decoding::Changed {
            self.decode_anew();
        }
    }
}

/// The bus's ECAM window.
pub struct Ecam(pub Arc<PciRoot>);

impl Ecam {
    /// The function and the register at an offset, if the access stays inside the function.
    fn find(&self, offset: u64, bytes: usize) -> Option<(&dyn PciFunction, usize)> {
        let (place, register) = (offset / FUNCTION_BYTES, offset % FUNCTION_BYTES);
        let function = self.0.function(place / FUNCTIONS, place % FUNCTIONS)?;
        (register + bytes as u64 <= FUNCTION_BYTES).then_some((function, register as usize))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((function, register)) = self.find(offset, data.len()) {
            function.read_config(register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = self.find(offset, data.len()) {
            self.0.write_config(function, register, data);
        }
    }
}

/// Ports 0xcf8-0xcff.
pub struct ConfigPorts(pub Arc<PciRoot>);

impl ConfigPorts {
    /// The function and the register that an access to the data ports means.
    fn find(&self, offset: u64) -> Option<(&dyn PciFunction, usize)> {
        let address = self.0.address.load(Ordering::Relaxed);
        let (bus, device, function) = (address >> 16 & 0xff, address >> 11 & 0x1f, address >> 8 & 7);
        if address & ENABLE == 0 || bus != 0 || !DATA_PORTS.contains(&offset) {
            return None;
        }
        let register = (address & 0xfc) as usize + (offset - DATA_PORTS.start) as usize;
        Some((self.0.function(device.into(), function.into())?, register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, self.find(offset)) {
            (0, _) if data.len() == 4 => {
                data.copy_from_slice(&self.0.address.load(Ordering::Relaxed).to_le_bytes());
            }
            (_, Some((function, register))) => function.read_config(register, data),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, <[u8; 4]>::try_from(data), self.find(offset)) {
            // Narrower writes are to other registers of a PC, which are not here.
            (0, Ok(address), _) => self.0.address.store(u32::from_le_bytes(address), Ordering::Relaxed),
            (_, _, Some((function, register))) => self.0.write_config(function, register, data),
            _ => {}
        }
    }
}

/// A window in which the devices decode memory.
pub struct PciMemory {
    root: Arc<PciRoot>,
    start: u64,
}

impl PciMemory {
    /// The window that begins at guest-physical address `start`.
    pub fn new(root: Arc<PciRoot>, start: u64) -> Self {
        PciMemory { root, start }
    }
}

impl BusDevice for PciMemory {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((function, bar, offset)) = self.root.find(self.start + offset, data.len()) {
            function.read_memory(bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, bar, offset)) = self.root.find(self.start + offset, data.len()) {
            function.write_memory(bar, offset, data);
        }
    }
}
