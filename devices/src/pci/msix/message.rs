//! From what a guest wrote into a vector to what the local APICs understand.

use crate::events::Msi;

/// Address bits 31:20 of an interrupt (SDM volume 3, 11.11.1).
const INTERRUPTS: u64 = 0xfee;
/// Address bit 2: the destination is a logical one.
const LOGICAL: u64 = 1 << 2;
/// Data bit 14: assert.
const ASSERT: u32 = 1 << 14;

/// Delivery modes of message data bits 10:8 that are passed on: fixed, lowest priority, NMI, INIT. SMI and ExtINT have
/// nobody here who takes them.
const MODES: [u32; 4] = [0, 1, 4, 5];

/// The interrupt that a write of `data` to `address` is, if it is one.
///
/// The destination's bits 14:8 are taken from address bits 11:5, as guests write them that were told of it (CPUID
/// 0x40000001, "extended destination id"). The trigger mode is dropped: every message is an edge.
pub fn interrupt(address: u64, data: u32) -> Option<Msi> {
    let mode = data >> 8 & 7;
    if address >> 20 != INTERRUPTS || !MODES.contains(&mode) {
        return None;
    }
    let destination_low = address >> 12 & 0xff;
    let destination_high = address >> 5 & 0x7f;
    Some(Msi {
        address: destination_high << 40 | INTERRUPTS << 20 | destination_low << 12 | address & LOGICAL,
        data: data & 0xff | mode << 8 | ASSERT,
    })
}
