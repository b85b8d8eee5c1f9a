//! The I/O interrupt controller (Intel 82093AA, with the EOI register of version 0x20).
//!
//! With KVM's split interrupt chip the local APICs are in the kernel and this one is ours. It turns a pin's
//! redirection entry into a message ([`Msi`](crate::Msi)) which the VMM delivers.
//!
//! Supported: 24 pins; edge (a masked edge is lost, as the data sheet says) and level (remote IRR, held until
//! the EOI, delivered again if the line is still up); delivery modes fixed, lowest priority, NMI and INIT;
//! physical and logical destinations; 15-bit destinations in the form that KVM_FEATURE_MSI_EXT_DEST_ID defines
//! (bits 14:8 of the id in bits 55:49 of the entry). SMI and ExtINT are not delivered: there is no SMM and no
//! PIC. Polarity is kept but means nothing: devices raise and lower lines logically.
//!
//! A level interrupt's EOI reaches the VMM through KVM_EXIT_IOAPIC_EOI, which KVM makes only for vectors of
//! level routes in its routing table; a guest may also write the EOI register. No device here uses level.

mod device;
mod entry;
#[cfg(test)]
mod tests;

pub use device::{IoApic, IoApicState, PINS};
