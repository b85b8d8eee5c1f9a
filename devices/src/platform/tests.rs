use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::events::{GuestEnd, Msi, MsiSink, PlatformEvents};
use crate::pci::PciRoot;

/// Hears everything that the devices say.
#[derive(Default)]
pub(crate) struct Heard {
    console: Mutex<Vec<u8>>,
    ends: Mutex<Vec<GuestEnd>>,
    messages: Mutex<Vec<Msi>>,
}

impl Heard {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn console(&self) -> Vec<u8> {
        self.console.lock().unwrap().clone()
    }

    pub(crate) fn ends(&self) -> Vec<GuestEnd> {
        self.ends.lock().unwrap().clone()
    }

    /// The vectors of the messages sent since the last call.
    pub(crate) fn vectors(&self) -> Vec<u8> {
        self.messages.lock().unwrap().drain(..).map(|msi| msi.data as u8).collect()
    }
}

impl PlatformEvents for Heard {
    fn console(&self, bytes: &[u8]) {
        self.console.lock().unwrap().extend(bytes);
    }

    fn guest_end(&self, end: GuestEnd) {
        self.ends.lock().unwrap().push(end);
    }
}

impl MsiSink for Heard {
    fn send(&self, msi: Msi) {
        self.messages.lock().unwrap().push(msi);
    }
}

fn platform() -> (Platform, Arc<Heard>) {
    let heard = Heard::new();
    let platform = Platform::new(heard.clone(), heard.clone());
    (platform.with_pci(PciRoot::default(), 0x1_4000_0000..0x1_8000_0000).unwrap(), heard)
}

#[test]
fn every_device_is_at_its_place() {
    let (platform, heard) = platform();
    let byte = |port| {
        let mut data = [0];
        platform.pio_read(port, &mut data);
        data[0]
    };
    assert_eq!(byte(0x42), 0, "absent timer");
    assert_eq!(byte(0x64), 0, "keyboard controller");
    assert_eq!(byte(0xe9), 0xe9, "payload console");
    assert_eq!(byte(0x3fd), 0x60, "serial line status: ready to send");
    assert_eq!(byte(0x505), 3, "pvpanic");
    assert_eq!(byte(0x600), 0, "sleep control");
    platform.press_power_button();
    assert_eq!((byte(0x604), byte(0x604)), (1, 0), "events");
    let mut count = [0; 4];
    platform.pio_read(0x610, &mut count);
    assert_eq!(u32::from_le_bytes(count), 36_000, "watchdog");
    platform.pio_write(0x70, &[0x0d]);
    assert_eq!(byte(0x71), 0x80, "CMOS clock: valid");
    assert_eq!(byte(0x72), 0xff, "nothing");
    let mut version = [0; 4];
    platform.mmio_write(0xfec0_0000, &1u32.to_le_bytes());
    platform.mmio_read(0xfec0_0010, &mut version);
    assert_eq!(u32::from_le_bytes(version), 0x0017_0020);
    platform.mmio_read(0xfee0_0020, &mut version);
    assert_eq!(version, [0xff; 4]);
    platform.mmio_read(0xe000_0000, &mut version);
    assert_eq!(u32::from_le_bytes(version), 0x0008_1b36, "host bridge by ECAM");
    platform.pio_write(0xcf8, &0x8000_0000u32.to_le_bytes());
    platform.pio_read(0xcfc, &mut version);
    assert_eq!(u32::from_le_bytes(version), 0x0008_1b36, "host bridge by ports");
    platform.pio_write(0x3f8, b"a");
    platform.pio_write(0xe9, b"b");
    platform.pio_write(0xf4, &[0; 4]);
    platform.pio_write(0x600, &[0x34]);
    platform.pio_write(0x602, &[6]);
    assert_eq!(heard.console(), b"ab");
    assert_eq!(heard.ends(), [GuestEnd::PayloadExit(0), GuestEnd::PowerOff, GuestEnd::Reset]);
}

#[test]
fn a_pci_window_over_another_device_is_refused() {
    let heard = Heard::new();
    let platform = Platform::new(heard.clone(), heard);
    assert!(platform.with_pci(PciRoot::default(), 0xfec0_0000..0xfed0_0000).is_err());
}

#[test]
fn what_is_typed_goes_to_the_console_that_was_chosen() {
    struct Nowhere;
    impl crate::console::ConsoleOutput for Nowhere {
        fn write(&mut self, _: &[u8]) {}
    }
    let (_console, input) = crate::console::device(Box::new(Nowhere)).unwrap();
    let (platform, _) = platform();
    assert_eq!(platform.console_input(b"a"), 1);
    let platform = platform.with_console(input.clone());
    assert_eq!(platform.console_input(b"bc"), 2);
    let mut status = [0];
    platform.pio_read(0x3fd, &mut status);
    assert_eq!(status, [0x61], "the serial console has its own byte");
    let mut byte = [0];
    platform.pio_read(0x3f8, &mut byte);
    assert_eq!(byte, *b"a");
    platform.pio_read(0x3fd, &mut status);
    assert_eq!(status, [0x60]);
}

#[test]
fn a_level_interrupt_is_acknowledged_through_the_platform() {
    let (platform, heard) = platform();
    platform.mmio_write(0xfec0_0000, &[0x10 + 2 * 9, 0, 0, 0]);
    platform.mmio_write(0xfec0_0010, &(0x55u32 | 1 << 15).to_le_bytes());
    platform.ioapic().set_line(9, true);
    platform.ioapic_eoi(0x55);
    assert_eq!(heard.vectors(), [0x55, 0x55]);
}

#[derive(Clone, Debug)]
enum Access {
    PioRead(u16, usize),
    PioWrite(u16, Vec<u8>),
    MmioRead(u64, usize),
    MmioWrite(u64, Vec<u8>),
    Eoi(u8),
    Line(u32, bool),
    Input(Vec<u8>),
}

fn access() -> impl Strategy<Value = Access> {
    let port = prop_oneof![
        any::<u16>(),
        0x3f6..0x402u16,
        0x5feu16..0x606,
        0x3eu16..0x74,
        0xe8u16..0xfa,
        0x504u16..0x507,
        0xcf6u16..0xd02
    ];
    let gpa = prop_oneof![
        any::<u64>(),
        0xfebf_fff0..0xfec0_0060u64,
        0xfec0_0ff0..0xfec0_1010u64,
        0xdfff_fff0..0xe010_0010u64
    ];
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        (port.clone(), 0..20usize).prop_map(|(port, size)| Access::PioRead(port, size)),
        (port, bytes()).prop_map(|(port, data)| Access::PioWrite(port, data)),
        (gpa.clone(), 0..20usize).prop_map(|(gpa, size)| Access::MmioRead(gpa, size)),
        (gpa, bytes()).prop_map(|(gpa, data)| Access::MmioWrite(gpa, data)),
        any::<u8>().prop_map(Access::Eoi),
        (any::<u32>(), any::<bool>()).prop_map(|(pin, up)| Access::Line(pin, up)),
        bytes().prop_map(Access::Input),
    ]
}

proptest! {
    #[test]
    fn no_access_of_any_size_anywhere_panics(accesses in proptest::collection::vec(access(), 1..200)) {
        let (platform, _) = platform();
        for access in accesses {
            match access {
                Access::PioRead(port, size) => platform.pio_read(port, &mut vec![0; size]),
                Access::PioWrite(port, data) => platform.pio_write(port, &data),
                Access::MmioRead(gpa, size) => platform.mmio_read(gpa, &mut vec![0; size]),
                Access::MmioWrite(gpa, data) => platform.mmio_write(gpa, &data),
                Access::Eoi(vector) => platform.ioapic_eoi(vector),
                Access::Line(pin, up) => platform.ioapic().set_line(pin % 32, up),
                Access::Input(data) => {
                    platform.console_input(&data);
                }
            }
        }
    }
}
