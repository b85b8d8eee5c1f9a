//! Events: a ring of what has happened, written by the home node, and the disruption marker.
//!
//! The area begins with a [`Header`] of 64 bytes; then the entries follow, 64 bytes each. Event number `n` (from 0) stands in
//! entry `n % capacity`, behind a word that is `2n + 2`; while it is written, that word is odd. The device never waits for
//! readers: it writes over the oldest events. Any number of readers follow, each with a number of its own, and see when they
//! were too slow.

mod entry;
mod ring;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use entry::Entry;
pub use ring::{EventReader, EventWriter, Found, NoEvents};

/// First word of the area: "TSEV" as the bytes lie in memory.
pub const EVENTS_MAGIC: u32 = u32::from_le_bytes(*b"TSEV");
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 64;

/// The area's beginning. The first four fields never change; the others are words that are read one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`EVENTS_MAGIC`].
    pub magic: u32,
    /// [`Version::to_bits`](super::Version::to_bits).
    pub version: u32,
    /// How many entries there are: a power of two.
    pub capacity: u32,
    /// Zero.
    pub reserved: u32,
    /// How many events have been written.
    pub written: u64,
    /// The disruption marker: it changes whenever the guest was disrupted, that is, stood still, or its clock or its memory
    /// jumped. A program that relies on time or on being the only one looks at it before and after, and begins anew if
    /// it has changed.
    pub disruption_marker: u64,
    /// What the last change of the marker was for: [`disruption`].
    pub disruption_reason: u64,
    /// Zero.
    pub zero: [u64; 3],
}

/// Why the guest was disrupted.
pub mod disruption {
    /// It has not been.
    pub const NONE: u64 = 0;
    /// It was stopped and went on.
    pub const PAUSED: u64 = 1;
    /// It goes on from a checkpoint: what happened after that has not happened.
    pub const RESTORED: u64 = 2;
    /// Its clock jumped.
    pub const CLOCK: u64 = 3;
    /// A host was lost, and pages with it.
    pub const HOST_LOST: u64 = 4;
}

/// Kinds of events, as numbers and as bits of [`Registers::event_mask`](super::registers::Registers::event_mask).
pub mod kind {
    /// [`Event::VcpuMoved`](super::Event::VcpuMoved).
    pub const VCPU_MOVED: u32 = 1;
    /// [`Event::HostJoined`](super::Event::HostJoined).
    pub const HOST_JOINED: u32 = 2;
    /// [`Event::HostDraining`](super::Event::HostDraining).
    pub const HOST_DRAINING: u32 = 3;
    /// [`Event::HostLost`](super::Event::HostLost).
    pub const HOST_LOST: u32 = 4;
    /// [`Event::MemoryLow`](super::Event::MemoryLow).
    pub const MEMORY_LOW: u32 = 5;
    /// [`Event::HotPage`](super::Event::HotPage).
    pub const HOT_PAGE: u32 = 6;
    /// [`Event::Advice`](super::Event::Advice).
    pub const ADVICE: u32 = 7;
    /// [`Event::SegmentBroken`](super::Event::SegmentBroken).
    pub const SEGMENT_BROKEN: u32 = 8;
}

/// Why a vCPU has moved.
pub mod move_reason {
    /// Somebody asked for it: the guest, or an administrator.
    pub const REQUEST: u32 = 1;
    /// To be nearer to the memory that it uses.
    pub const MEMORY: u32 = 2;
    /// Its host had too much to do.
    pub const LOAD: u32 = 3;
    /// Its host was short of memory.
    pub const USHERING: u32 = 4;
    /// Its host is being drained.
    pub const DRAIN: u32 = 5;
}

/// Advice: what a program could do for itself.
pub mod advice {
    /// Threads of vCPU `vcpu` wait for pages for `value` of 1000 parts of their time: run them on `host`.
    pub const RUN_ON: u32 = 1;
    /// Two programs use page `value` (its address): give them pages of their own.
    pub const SPLIT_PAGE: u32 = 2;
    /// The guest would be faster on fewer hosts: `value` of 1000 parts of all time is spent waiting for pages.
    pub const USE_FEWER_HOSTS: u32 = 3;
}

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A vCPU runs on another host now.
    VcpuMoved {
        /// Which one.
        vcpu: u32,
        /// Where it was.
        from: u32,
        /// Where it is.
        to: u32,
        /// The time in which it ran nowhere, in nanoseconds.
        blackout_ns: u64,
        /// [`move_reason`].
        reason: u32,
    },
    /// A host has become part of the guest.
    HostJoined {
        /// Which one.
        host: u32,
    },
    /// A host is about to leave: it gives away what it has.
    HostDraining {
        /// Which one.
        host: u32,
    },
    /// A host is gone for ever.
    HostLost {
        /// Which one.
        host: u32,
        /// How many pages were lost with it.
        pages: u64,
    },
    /// How a host is off for memory has changed.
    MemoryLow {
        /// Which one.
        host: u32,
        /// [`memory_state`](super::stats::memory_state).
        state: u32,
        /// What is free, in bytes.
        free: u64,
    },
    /// Hosts fight for a page.
    HotPage {
        /// Guest-physical address of its first byte.
        address: u64,
        /// The hosts, a bit each.
        hosts: u32,
        /// How often it changed hands per second.
        moves_per_second: u32,
    },
    /// What a program could do for itself.
    Advice {
        /// [`advice`].
        advice: u32,
        /// About which vCPU.
        vcpu: u32,
        /// About which host.
        host: u32,
        /// As the advice says.
        value: u64,
    },
    /// A shared segment is lost with its owner.
    SegmentBroken {
        /// Which one.
        segment: u32,
    },
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Header>() == HEADER_BYTES);
    assert!(offset_of!(Header, written) == 16 && offset_of!(Header, disruption_marker) == 24);
};
