use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::message::interrupt;
use super::{Msix, MsixPlace};
use crate::events::{Msi, MsiSink};
use crate::pci::config::{ConfigSpace, Identity};

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const ADDRESS: u64 = 0xfee0_3000;

#[derive(Default)]
struct Sent(Mutex<Vec<Msi>>);

impl MsiSink for Sent {
    fn send(&self, msi: Msi) {
        self.0.lock().unwrap().push(msi);
    }
}

impl Sent {
    fn vectors(&self) -> Vec<u8> {
        self.0.lock().unwrap().drain(..).map(|msi| msi.data as u8).collect()
    }
}

fn msix(vectors: u16) -> (Msix, Arc<Sent>) {
    let sent = Arc::new(Sent::default());
    (Msix::new(vectors, sent.clone()), sent)
}

/// Sets a vector's message and unmasks it.
fn arm(msix: &Msix, vector: u64, data: u32) {
    msix.write_table(vector * 16, &ADDRESS.to_le_bytes());
    msix.write_table(vector * 16 + 8, &data.to_le_bytes());
    msix.write_table(vector * 16 + 12, &0u32.to_le_bytes());
}

#[test]
fn a_vector_that_is_armed_is_sent_and_no_other() {
    let (msix, sent) = msix(3);
    msix.signal(1);
    arm(&msix, 1, 0x41);
    msix.signal(1);
    assert_eq!(sent.vectors(), [0u8; 0], "the function is not enabled, and does not remember");
    msix.set_control(ENABLE);
    msix.signal(1);
    msix.signal(3);
    msix.signal(u16::MAX);
    assert_eq!(sent.vectors(), [0x41]);
}

#[test]
fn what_is_signalled_under_a_mask_is_sent_once_when_the_mask_is_lifted() {
    let (msix, sent) = msix(40);
    arm(&msix, 33, 0x50);
    msix.set_control(ENABLE | FUNCTION_MASK);
    msix.signal(33);
    msix.signal(33);
    msix.signal(2);
    let mut pending = [0; 8];
    msix.read_pending(0, &mut pending);
    assert_eq!(u64::from_le_bytes(pending), 1 << 33 | 1 << 2);
    msix.set_control(ENABLE);
    assert_eq!(sent.vectors(), [0x50], "vector 2 is masked by itself");
    arm(&msix, 2, 0x51);
    assert_eq!(sent.vectors(), [0x51]);
    msix.write_table(33 * 16 + 12, &1u32.to_le_bytes());
    msix.signal(33);
    assert_eq!(sent.vectors(), [0u8; 0]);
    msix.write_table(33 * 16 + 8, &[0x52u32.to_le_bytes(), 0u32.to_le_bytes()].concat());
    assert_eq!(sent.vectors(), [0x52], "data and mask in one write");
}

#[test]
fn the_table_takes_whole_registers_only() {
    let (msix, _) = msix(2);
    msix.write_table(0, &[1, 2]);
    msix.write_table(2, &[1; 4]);
    msix.write_table(0, &[1; 3]);
    msix.write_table(u64::MAX - 3, &[1; 4]);
    msix.write_table(32, &[1; 8]);
    msix.write_table(12, &[0xff; 4]);
    let mut table = [0; 32];
    msix.read_table(0, &mut table);
    let mut fresh = [0; 32];
    (fresh[12], fresh[28]) = (1, 1);
    assert_eq!(table, fresh, "masked, and nothing else is in vector control");
}

#[test]
fn the_capability_says_where_everything_is() {
    let (msix, _) = msix(17);
    let identity =
        Identity { vendor: 1, device: 2, revision: 3, class: [4, 5, 6], subsystem_vendor: 7, subsystem: 8 };
    let mut config = ConfigSpace::new(&identity);
    let place = MsixPlace { bar: 4, table: 0x4000, pending: 0x5000 };
    let control = msix.add_capability(&mut config, place).unwrap();
    assert_eq!((config.half(control - 2), config.half(control)), (0x11, 16));
    assert_eq!((config.word(control + 2), config.word(control + 6)), (0x4004, 0x5004));
    config.write(control, &[0xff, 0xff]);
    assert_eq!(config.half(control), 0xc010);
}

#[test]
fn only_writes_to_the_interrupt_range_in_known_modes_are_interrupts() {
    let plain = interrupt(0xfee0_3000, 0x41);
    assert_eq!(plain, Some(Msi { address: 0xfee0_3000, data: 0x4041 }));
    // Destination 0x1234 in 15 bits: 0x34 in bits 19:12, 0x12 in bits 11:5.
    let extended = interrupt(0xfee3_4000 | 0x12 << 5, 0x8141);
    assert_eq!(extended, Some(Msi { address: 0x1200 << 32 | 0xfee3_4000, data: 0x4141 }), "an edge");
    assert_eq!(interrupt(0xfee0_0004, 0x441), Some(Msi { address: 0xfee0_0004, data: 0x4441 }));
    for (address, data) in
        [(0xfed0_3000, 0x41), (0x1_fee0_3000, 0x41), (0, 0), (ADDRESS, 0x241), (ADDRESS, 0x741)]
    {
        assert_eq!(interrupt(address, data), None, "{address:#x} {data:#x}");
    }
}

proptest! {
    #[test]
    fn no_access_panics_and_what_is_sent_was_written(
        steps in proptest::collection::vec((0u8..5, any::<u16>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..60),
    ) {
        let (msix, sent) = msix(5);
        for (what, at, data) in steps {
            match what {
                0 => msix.signal(at % 7),
                1 => msix.set_control(at),
                2 => msix.write_table(u64::from(at) % 96, &data),
                3 => msix.read_table(at.into(), &mut data.clone()),
                _ => msix.read_pending(at.into(), &mut data.clone()),
            }
        }
        for msi in sent.0.lock().unwrap().iter() {
            prop_assert_eq!(msi.address >> 20 & 0xfff, 0xfee);
        }
    }
}
