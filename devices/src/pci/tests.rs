use std::ops::Range;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::register as at;
use super::root::{ConfigPorts, Ecam, PciMemory, DEVICES_MAX};
use super::*;
use crate::bus::BusDevice;

const BAR_BYTES: u64 = 0x4000;
const HOME: u64 = 0x1_0000_0000;
const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1042,
    revision: 1,
    class: [1, 0x80, 0],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1042,
};

/// A function with one BAR that remembers what is written there.
struct Probe {
    config: Mutex<ConfigSpace>,
    written: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Probe {
    fn new(address: u64) -> Arc<Self> {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.add_memory_bar(0, BAR_BYTES, address).unwrap();
        Arc::new(Probe { config: Mutex::new(config), written: Mutex::default() })
    }
}

impl PciFunction for Probe {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.config.lock().unwrap().read(offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) -> Decoding {
        self.config.lock().unwrap().write(offset, data);
        Decoding::Changed
    }

    fn regions(&self) -> Vec<Region> {
        let config = self.config.lock().unwrap();
        let start = config.bar_address(0);
        match (config.command().decodes_memory(), start.checked_add(BAR_BYTES)) {
            (true, Some(end)) => vec![Region { bar: 0, range: start..end }],
            _ => vec![],
        }
    }

    fn read_memory(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn write_memory(&self, _bar: usize, offset: u64, data: &[u8]) {
        self.written.lock().unwrap().push((offset, data.to_vec()));
    }
}

fn bus(probes: &[Arc<Probe>]) -> Arc<PciRoot> {
    let mut root = PciRoot::default();
    for probe in probes {
        root.add(probe.clone()).unwrap();
    }
    Arc::new(root)
}

fn read32(device: &impl BusDevice, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn a_walk_finds_the_bridge_and_the_devices_by_both_ways() {
    let root = bus(&[Probe::new(HOME)]);
    let (ecam, ports) = (Ecam(root.clone()), ConfigPorts(root));
    let mut found = Vec::new();
    for place in 0..256u64 {
        let id = read32(&ecam, place << 12);
        ports.write(0, &(1u32 << 31 | (place as u32) << 8).to_le_bytes());
        assert_eq!(read32(&ports, 4), id, "ports and ECAM agree at {place}");
        if id != u32::MAX {
            found.push((place, id));
        }
    }
    assert_eq!(found, [(0, 0x0008_1b36), (8, 0x1042_1af4)]);
    assert_eq!(read32(&ecam, 8), 0x0600_0000, "the class of a host bridge");
    assert_eq!(read32(&ecam, 8 << 12 | 8), 0x0180_0001);
    assert_eq!(read32(&ecam, 8 << 12 | 0x100), 0, "no extended capabilities");
}

#[test]
fn the_address_port_takes_whole_words_and_keeps_them() {
    let ports = ConfigPorts(bus(&[]));
    ports.write(0, &0x8000_0000u32.to_le_bytes());
    ports.write(3, &[0x01]);
    ports.write(0, &[0xff, 0xff]);
    assert_eq!(read32(&ports, 0), 0x8000_0000);
    let mut byte = [0xff];
    ports.read(4 + 1, &mut byte);
    assert_eq!(byte, [0x1b], "a byte of a register");
    ports.write(0, &0u32.to_le_bytes());
    assert_eq!(read32(&ports, 4), u32::MAX, "not enabled");
    ports.write(0, &(0x8000_0000u32 | 1 << 16).to_le_bytes());
    assert_eq!(read32(&ports, 4), u32::MAX, "there is no bus 1");
}

#[test]
fn a_bar_is_sized_by_writing_ones_and_moved_by_writing_an_address() {
    let probe = Probe::new(HOME);
    let root = bus(std::slice::from_ref(&probe));
    let (ecam, memory) = (Ecam(root.clone()), PciMemory::new(root, HOME));
    let function = 8 << 12;
    let mut data = [0xff; 4];
    memory.read(8, &mut data);
    assert_eq!(data, [0xff; 4], "memory is not decoded yet");
    ecam.write(function + at::COMMAND as u64, &6u16.to_le_bytes());
    memory.read(8, &mut data);
    assert_eq!(data, [8; 4]);

    for half in [0, 4] {
        ecam.write(function + at::BAR_0 as u64 + half, &u32::MAX.to_le_bytes());
    }
    let size = u64::from(read32(&ecam, function + 0x10)) | u64::from(read32(&ecam, function + 0x14)) << 32;
    assert_eq!(size, !(BAR_BYTES - 1) | 4, "64 bits wide, not prefetchable");
    let to = HOME + 16 * BAR_BYTES;
    ecam.write(function + 0x10, &(to as u32).to_le_bytes());
    ecam.write(function + 0x14, &((to >> 32) as u32).to_le_bytes());
    memory.write(16 * BAR_BYTES + 12, &[7]);
    memory.write(12, &[9]);
    memory.write(17 * BAR_BYTES - 1, &[1, 2]);
    assert_eq!(*probe.written.lock().unwrap(), [(12, vec![7])], "only where it is now, and only as a whole");
}

#[test]
fn what_cannot_be_written_stays() {
    let mut config = ConfigSpace::new(&IDENTITY);
    let before = config.clone();
    config.write(0, &[0xff; 16]);
    assert_eq!(config.word(0), before.word(0));
    assert_eq!(config.word(8), before.word(8));
    assert_eq!(config.half(at::COMMAND), 0x0546);
    assert_eq!(config.half(at::STATUS), 0);
    config.write(250, &[0xff; 64]);
    config.write(usize::MAX, &[0xff]);
    let mut data = [0xff; 8];
    config.read(252, &mut data);
    assert_eq!(data, [0; 8], "beyond the space there are zeros");
}

#[test]
fn capabilities_are_linked_until_the_space_is_full() {
    let mut config = ConfigSpace::new(&IDENTITY);
    let first = config.add_capability(9, &[1, 2, 3]).unwrap();
    let second = config.add_capability(0x11, &[4; 10]).unwrap();
    assert_eq!((first, second), (0x40, 0x48));
    assert_eq!(config.half(at::CAPABILITIES), 0x40);
    assert_eq!((config.half(first), config.half(second)), (0x4809, 0x0011));
    assert_eq!(config.half(at::STATUS), at::STATUS_CAPABILITIES);
    assert_eq!(config.add_capability(9, &[0; 200]), Err(ConfigError::Full(202)));
    assert_eq!(config.half(second), 0x0011, "a capability that does not fit leaves no trace");
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let mut config = ConfigSpace::new(&IDENTITY);
    for (index, bytes, address) in [(5, 0x1000, 0), (0, 0x1800, 0), (0, 8, 0), (0, 0, 0), (0, 0x1000, 0x800)]
    {
        let refused = config.add_memory_bar(index, bytes, address);
        assert_eq!(refused, Err(ConfigError::Bar { index, bytes, address }));
    }
}

#[test]
fn a_bus_holds_32_devices_and_a_window_what_fits() {
    let mut root = PciRoot::default();
    for place in 1..DEVICES_MAX {
        assert_eq!(root.add(Probe::new(HOME)), Ok(place));
    }
    assert_eq!(root.add(Probe::new(HOME)), Err(RootError::Full));
    let mut window = MemoryWindow::new(HOME..HOME + 0x10000).unwrap();
    assert_eq!(window.place(0x1000).unwrap(), HOME);
    assert_eq!(window.place(0x8000).unwrap(), HOME + 0x8000, "at a multiple of its size");
    assert!(window.place(0x8000).unwrap_err().to_string().contains("0x8000 bytes"));
    let empty = Range { start: 1, end: 1 };
    assert!(MemoryWindow::new(empty).is_err());
}

proptest! {
    #[test]
    fn no_access_panics(
        steps in proptest::collection::vec(
            (0u8..6, any::<u64>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..80),
    ) {
        let root = bus(&[Probe::new(HOME), Probe::new(HOME)]);
        let (ecam, ports) = (Ecam(root.clone()), ConfigPorts(root.clone()));
        let memory = PciMemory::new(root, HOME);
        for (what, at, data) in steps {
            let mut into = data.clone();
            match what {
                // Mostly where something is.
                0 => ecam.write((at & 3) << 15 | at >> 32 & 0xff, &data),
                1 => ecam.read(at & 0xf_ffff, &mut into),
                2 => ports.write(at & 7, &data),
                3 => ports.read(at & 7, &mut into),
                4 => memory.write(at & 0xffff, &data),
                _ => memory.read(at >> 1, &mut into),
            }
        }
    }
}
