//! The control page: one page of registers. Each access leaves the guest, so it is for setting up and for the doorbell;
//! everything else is read from memory.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the control page.
pub const CONTROL_BYTES: u64 = 4096;

/// A piece of the device's information window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Area {
    /// Where it begins in the window, in bytes; a multiple of 4096.
    pub offset: u64,
    /// How long it is, in bytes; 0 if there is none.
    pub bytes: u64,
}

/// The registers, as the page reads. Accesses of 4 bytes, and of 8 where a register has 8. Reserved places read as zero; writes to
/// them, and to registers that are marked R, do nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Registers {
    /// R. [`MAGIC`](super::MAGIC).
    pub magic: u32,
    /// R. [`Version::to_bits`](super::Version::to_bits).
    pub version: u32,
    /// R. [`Features`](super::Features) that the device offers.
    pub offered: u64,
    /// RW. Features that the guest makes use of. What is not offered does not stay.
    pub accepted: u64,
    /// RW. [`status`] bits.
    pub status: u32,
    /// W. The number of a request slot that is [`POSTED`](super::request::slot::POSTED). Reads as zero.
    pub doorbell: u32,
    /// RW. Kinds of [events](super::events::kind) that interrupt the guest, a bit each (bit 0 for kind 0, which is none).
    pub event_mask: u32,
    /// R. How many times the doorbell named no slot, or one that was not posted. Wraps round.
    pub misdialled: u32,
    /// R. Number of hosts that can be part of this guest; sets of statistics.
    pub hosts: u32,
    /// R. Number of vCPUs.
    pub vcpus: u32,
    /// R. The host on which the vCPU that reads this runs at that moment.
    pub here: u32,
    /// Zero.
    pub reserved: u32,
    /// R. Frequency of the guest's time-stamp counter in Hz; the unit of all times that are called ticks.
    pub ticks_per_second: u64,
    /// R. [`stats`](super::stats): sets one after another, each of `stats.bytes / hosts` bytes.
    pub stats: Area,
    /// R. [`events`](super::events).
    pub events: Area,
    /// R. The directory of [`segments`](super::segments).
    pub segments: Area,
    /// R. Request slots; the only area that the guest may write.
    pub requests: Area,
    /// R. The window in which the segments' memory lies: a window of its own, so the offset is 0.
    pub memory: Area,
}

/// Bits of [`Registers::status`].
pub mod status {
    /// R. The areas can be read.
    pub const READY: u32 = 1 << 0;
    /// RW. The guest has accepted features and takes interrupts. Clearing it makes the device forget what was accepted;
    /// requests under way come to their end.
    pub const IN_USE: u32 = 1 << 1;
    /// R. The device is out of order; what is in the areas is old.
    pub const FAILED: u32 = 1 << 2;
}

/// Interrupts, by number of their MSI-X vector.
pub mod interrupt {
    /// Events were written that are in the mask.
    pub const EVENTS: u16 = 0;
    /// A request is done.
    pub const REQUESTS: u16 = 1;
}

const _: () = {
    assert!(size_of::<Registers>() == 0x90);
    assert!(core::mem::offset_of!(Registers, doorbell) == 0x1c);
    assert!(core::mem::offset_of!(Registers, stats) == 0x40);
    assert!(core::mem::offset_of!(Registers, memory) == 0x80);
    assert!(size_of::<Registers>() as u64 <= CONTROL_BYTES);
};
