//! What the devices tell the VMM.

use serde::{Deserialize, Serialize};

/// One message-signalled interrupt.
///
/// In the form of KVM_SIGNAL_MSI with KVM_CAP_X2APIC_API (32-bit ids): the low half of `address` is the MSI
/// address of the SDM (volume 3, 11.11.1) with destination bits 7:0 in bits 19:12, and the high half has
/// destination bits 31:8 in its own bits 31:8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Msi {
    /// Where the write goes: destination and destination mode.
    pub address: u64,
    /// What is written: vector, delivery mode, trigger mode.
    pub data: u32,
}

/// Takes the interrupts of the devices to the guest's vCPUs, wherever they run.
pub trait MsiSink: Send + Sync {
    /// Delivers `msi`. Must not call back into the devices.
    fn send(&self, msi: Msi);
}

/// How a guest came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GuestEnd {
    /// It switched itself off (ACPI S5).
    PowerOff,
    /// It asked for a reset (ACPI reset register, keyboard controller).
    Reset,
    /// It reported a panic (pvpanic).
    Panic,
    /// A bare-metal payload ended with this status; 0 = passed.
    PayloadExit(u32),
}

/// Hears what the guest says to the world outside.
pub trait PlatformEvents: Send + Sync {
    /// The guest wrote `bytes` to its console.
    fn console(&self, bytes: &[u8]);

    /// The guest ended. A guest that is not stopped at once may say so again: the first end counts.
    fn guest_end(&self, end: GuestEnd);
}
