//! One redirection table entry.

use serde::{Deserialize, Serialize};

use crate::events::Msi;

/// Start of the address range in which a write is an interrupt (SDM volume 3, 11.11.1).
const MSI_BASE: u64 = 0xfee0_0000;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;

/// A redirection table entry, bits as in 3.2.4 of the 82093AA data sheet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Entry(u64);

impl Entry {
    /// As after a reset: masked.
    pub(super) const RESET: Entry = Entry(MASKED);

    pub(super) fn low(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn high(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Writes the low half. What is read-only stays, except that a pin made edge triggered forgets its
    /// remote IRR: so kernels acknowledge on controllers without an EOI register.
    pub(super) fn set_low(&mut self, value: u32) {
        let kept = self.0 & (!0 << 32 | READ_ONLY);
        self.0 = kept | u64::from(value) & !READ_ONLY;
        if !self.is_level() {
            self.0 &= !REMOTE_IRR;
        }
    }

    pub(super) fn set_high(&mut self, value: u32) {
        self.0 = self.0 & u64::from(u32::MAX) | u64::from(value) << 32;
    }

    pub(super) fn vector(self) -> u8 {
        self.0 as u8
    }

    pub(super) fn is_level(self) -> bool {
        self.0 & LEVEL != 0
    }

    pub(super) fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    pub(super) fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self) {
        self.0 |= REMOTE_IRR;
    }

    pub(super) fn clear_remote_irr(&mut self) {
        self.0 &= !REMOTE_IRR;
    }

    /// The message that the entry stands for, or `None` for a delivery mode that nothing here takes.
    pub(super) fn message(self) -> Option<Msi> {
        let mode = self.0 >> 8 & 7;
        // Fixed, lowest priority, NMI, INIT.
        if !matches!(mode, 0 | 1 | 4 | 5) {
            return None;
        }
        let logical = self.0 >> 11 & 1;
        let destination = self.0 >> 56;
        let destination_high = self.0 >> 49 & 0x7f;
        let level = u64::from(self.is_level());
        Some(Msi {
            address: destination_high << 40 | MSI_BASE | destination << 12 | logical << 2,
            // Bit 14: assert. Deasserting is a notion of level messages on the old APIC bus.
            data: (u64::from(self.vector()) | mode << 8 | 1 << 14 | level << 15) as u32,
        })
    }
}
