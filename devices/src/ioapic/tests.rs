//! Rules of the 82093AA data sheet, by its sections.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::*;
use crate::bus::BusDevice;
use crate::events::{Msi, MsiSink};

#[derive(Default)]
struct Sent(Mutex<Vec<Msi>>);

impl MsiSink for Sent {
    fn send(&self, msi: Msi) {
        self.0.lock().unwrap().push(msi);
    }
}

struct Bench {
    ioapic: IoApic,
    sent: Arc<Sent>,
}

impl Bench {
    fn new() -> Self {
        let sent = Arc::new(Sent::default());
        Bench { ioapic: IoApic::new(sent.clone()), sent }
    }

    fn read(&self, index: u8) -> u32 {
        self.ioapic.write(0, &u32::from(index).to_le_bytes());
        let mut data = [0; 4];
        self.ioapic.read(0x10, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, index: u8, value: u32) {
        self.ioapic.write(0, &u32::from(index).to_le_bytes());
        self.ioapic.write(0x10, &value.to_le_bytes());
    }

    fn program(&self, pin: u8, entry: u64) {
        self.write(0x11 + 2 * pin, (entry >> 32) as u32);
        self.write(0x10 + 2 * pin, entry as u32);
    }

    fn vectors(&self) -> Vec<u8> {
        self.sent.0.lock().unwrap().drain(..).map(|msi| msi.data as u8).collect()
    }
}

const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

#[test]
fn section_3_2_the_registers_read_as_specified() {
    let bench = Bench::new();
    assert_eq!(bench.read(1), 0x0017_0020, "24 entries, version with EOI register");
    bench.write(0, 0xffff_ffff);
    assert_eq!(bench.read(0), 0x0f00_0000, "only the id bits can be written");
    assert_eq!(bench.read(2), 0x0f00_0000, "the arbitration id follows the id");
    bench.write(1, 0);
    assert_eq!(bench.read(1), 0x0017_0020, "the version is read-only");
    for pin in 0..24 {
        assert_eq!(
            (bench.read(0x10 + 2 * pin), bench.read(0x11 + 2 * pin)),
            (0x1_0000, 0),
            "masked at reset"
        );
    }
    assert_eq!(bench.read(0x40), 0, "behind the table");
    assert_eq!(bench.read(0xff), 0);
}

#[test]
fn section_3_2_4_status_bits_cannot_be_written() {
    let bench = Bench::new();
    bench.write(0x10, 0x1_f0ff);
    assert_eq!(bench.read(0x10), 0x1_a0ff, "delivery status and remote IRR stay 0");
}

#[test]
fn an_edge_is_delivered_once_for_each_rise() {
    let bench = Bench::new();
    bench.program(4, 0x31);
    bench.ioapic.set_line(4, true);
    bench.ioapic.set_line(4, true);
    assert_eq!(bench.vectors(), [0x31], "the line was already up");
    bench.ioapic.set_line(4, false);
    assert_eq!(bench.vectors(), []);
    bench.ioapic.pulse(4);
    assert_eq!(bench.vectors(), [0x31]);
}

/// Where messages go: with the first one, somebody else pulses the same pin.
#[derive(Default)]
struct Meddler {
    ioapic: OnceLock<Weak<IoApic>>,
    sent: Mutex<usize>,
}

impl MsiSink for Meddler {
    fn send(&self, _msi: Msi) {
        *self.sent.lock().unwrap() += 1;
        if *self.sent.lock().unwrap() == 1 {
            self.ioapic.get().unwrap().upgrade().unwrap().pulse(4);
        }
    }
}

#[test]
fn a_pulse_while_another_is_delivered_is_an_edge_of_its_own() {
    let meddler = Arc::new(Meddler::default());
    let ioapic = Arc::new(IoApic::new(meddler.clone()));
    meddler.ioapic.set(Arc::downgrade(&ioapic)).unwrap();
    ioapic.write(0, &0x18_u32.to_le_bytes());
    ioapic.write(0x10, &0x31_u32.to_le_bytes());
    ioapic.pulse(4);
    assert_eq!(*meddler.sent.lock().unwrap(), 2);
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let bench = Bench::new();
    bench.program(4, 0x31 | MASKED);
    bench.ioapic.pulse(4);
    bench.program(4, 0x31);
    assert_eq!(bench.vectors(), []);
}

#[test]
fn a_level_is_delivered_once_until_its_eoi_and_again_if_still_up() {
    let bench = Bench::new();
    bench.program(10, 0x41 | LEVEL);
    bench.ioapic.set_line(10, true);
    bench.ioapic.set_line(10, false);
    bench.ioapic.set_line(10, true);
    assert_eq!(bench.vectors(), [0x41], "remote IRR holds the next one back");
    assert_eq!(bench.read(0x24) >> 14 & 1, 1, "remote IRR is set");
    bench.ioapic.eoi(0x42);
    assert_eq!(bench.vectors(), [], "the EOI of another vector");
    bench.ioapic.eoi(0x41);
    assert_eq!(bench.vectors(), [0x41], "still up");
    bench.ioapic.set_line(10, false);
    bench.ioapic.eoi(0x41);
    assert_eq!(bench.vectors(), []);
    assert_eq!(bench.read(0x24) >> 14 & 1, 0);
}

#[test]
fn a_level_that_was_masked_is_delivered_when_it_is_unmasked() {
    let bench = Bench::new();
    bench.program(10, 0x41 | LEVEL | MASKED);
    bench.ioapic.set_line(10, true);
    assert_eq!(bench.vectors(), []);
    bench.program(10, 0x41 | LEVEL);
    assert_eq!(bench.vectors(), [0x41]);
}

#[test]
fn the_eoi_register_acknowledges_like_the_local_apic() {
    let bench = Bench::new();
    bench.program(10, 0x41 | LEVEL);
    bench.ioapic.set_line(10, true);
    bench.ioapic.write(0x40, &0x41u32.to_le_bytes());
    assert_eq!(bench.vectors(), [0x41, 0x41]);
}

#[test]
fn making_a_pin_edge_triggered_drops_its_remote_irr() {
    let bench = Bench::new();
    bench.program(10, 0x41 | LEVEL);
    bench.ioapic.set_line(10, true);
    bench.program(10, 0x41 | MASKED);
    bench.program(10, 0x41 | LEVEL);
    assert_eq!(bench.vectors(), [0x41, 0x41], "an acknowledged line that is still up comes again");
}

#[test]
fn messages_carry_destination_mode_and_trigger() {
    let message = |entry: u64| {
        let bench = Bench::new();
        bench.program(3, entry);
        bench.ioapic.set_line(3, true);
        let sent = bench.sent.0.lock().unwrap().first().copied();
        sent
    };
    let msi = |address, data| Some(Msi { address, data });
    assert_eq!(message(0x31 | 5 << 56), msi(0xfee0_5000, 0x4031), "physical, fixed, edge");
    assert_eq!(message(0x31 | 0xff << 56 | 1 << 11), msi(0xfeef_f004, 0x4031), "logical");
    assert_eq!(message(0x31 | 1 << 8 | LEVEL), msi(0xfee0_0000, 0xc131), "lowest priority, level");
    assert_eq!(message(0x31 | 4 << 8), msi(0xfee0_0000, 0x4431), "NMI");
    assert_eq!(message(0x31 | 2 << 8), None, "SMI is not delivered");
    assert_eq!(message(0x31 | 7 << 8), None, "ExtINT is not delivered");
    // Id 0x1234: bits 7:0 in 63:56, bits 14:8 in 55:49; KVM takes bits 31:8 in the high half's 31:8.
    assert_eq!(
        message(0x31 | 0x34 << 56 | 0x12 << 49),
        msi(0x1200_fee3_4000, 0x4031),
        "extended destination"
    );
}

#[test]
fn odd_accesses_are_harmless() {
    let bench = Bench::new();
    bench.program(4, 0x31);
    bench.ioapic.write(0x10, &[0xff]);
    bench.ioapic.write(0x11, &[0xff; 4]);
    assert_eq!(bench.read(0x18), 0x31, "only whole, aligned writes reach the window");
    let mut data = [0xee; 8];
    bench.ioapic.read(0x12, &mut data);
    assert_eq!(data, [0; 8], "the register's upper half, then zeros");
    bench.ioapic.set_line(24, true);
    bench.ioapic.set_line(u32::MAX, true);
    assert_eq!(bench.vectors(), []);
}

#[test]
fn a_restored_controller_goes_on_where_the_other_was() {
    let one = Bench::new();
    one.program(10, 0x41 | LEVEL);
    one.ioapic.set_line(10, true);
    let other = Bench::new();
    other.ioapic.restore(one.ioapic.state());
    assert_eq!(other.vectors(), []);
    other.ioapic.eoi(0x41);
    assert_eq!(other.vectors(), [0x41]);
}
