//! Requests: what a guest asks for, and the answers.
//!
//! The requests area is an array of [slots](slot) of 128 bytes. A guest takes a free slot, writes a [`RequestFields`] into it, marks it
//! posted and writes its number to the doorbell. The device copies the slot once, checks every field of the copy
//! ([`Request::decode`]), does what is asked, writes a [`ResponseFields`] and marks the slot done.

mod answer;
mod codec;
pub mod slot;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use answer::{result, Answer, Reason, ResponseFields};
pub use codec::{Field, Limits, Malformed};

use super::names::Name;
use super::segments::Consistency;

/// Most pages that one request may pull: 256 MiB.
pub const PULL_PAGES_MAX: u64 = 1 << 16;
/// As [`RequestFields::vcpu`]: the vCPU that rings the doorbell.
pub const THIS_VCPU: u32 = u32::MAX;

/// A request as it lies in a slot. What a kind does not use is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RequestFields {
    /// [`kind`].
    pub kind: u16,
    /// [`Consistency::to_code`] or [`Hint::to_code`].
    pub code: u16,
    /// A vCPU, or [`THIS_VCPU`].
    pub vcpu: u32,
    /// A host.
    pub host: u32,
    /// A segment.
    pub segment: u32,
    /// Guest-physical address of a page.
    pub address: u64,
    /// A size in bytes.
    pub bytes: u64,
    /// A segment's key; 0: none.
    pub key: u64,
    /// A segment's name; zeros: none.
    pub name: Name,
    /// Zero.
    pub zero: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<RequestFields>() == 80);
    assert!(offset_of!(RequestFields, address) == 16 && offset_of!(RequestFields, name) == 40);
};

impl RequestFields {
    /// All zeros: a request for nothing, of no kind.
    pub const ZERO: RequestFields = RequestFields {
        kind: 0,
        code: 0,
        vcpu: 0,
        host: 0,
        segment: 0,
        address: 0,
        bytes: 0,
        key: 0,
        name: Name::NONE,
        zero: 0,
    };
}

/// Kinds of requests.
pub mod kind {
    /// [`Request::MoveVcpu`](super::Request::MoveVcpu).
    pub const MOVE_VCPU: u16 = 1;
    /// [`Request::LockVcpu`](super::Request::LockVcpu).
    pub const LOCK_VCPU: u16 = 2;
    /// [`Request::UnlockVcpu`](super::Request::UnlockVcpu).
    pub const UNLOCK_VCPU: u16 = 3;
    /// [`Request::PullPages`](super::Request::PullPages).
    pub const PULL_PAGES: u16 = 4;
    /// [`Request::Hint`](super::Request::Hint).
    pub const HINT: u16 = 5;
    /// [`Request::CreateSegment`](super::Request::CreateSegment).
    pub const CREATE_SEGMENT: u16 = 6;
    /// [`Request::AttachSegment`](super::Request::AttachSegment).
    pub const ATTACH_SEGMENT: u16 = 7;
    /// [`Request::DetachSegment`](super::Request::DetachSegment).
    pub const DETACH_SEGMENT: u16 = 8;
    /// [`Request::ReleaseSegment`](super::Request::ReleaseSegment).
    pub const RELEASE_SEGMENT: u16 = 9;
    /// [`Request::RemoveSegment`](super::Request::RemoveSegment).
    pub const REMOVE_SEGMENT: u16 = 10;
}

/// Which vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Vcpu {
    /// The one that rings the doorbell.
    This,
    /// One by number.
    Number(u32),
}

/// How a segment is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SegmentName {
    /// By a key, which is not 0.
    Key(u64),
    /// By a name; one that [`Name::text`] accepts.
    Name(Name),
}

/// What a program says about its vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hint {
    /// It computes: nearness to memory and free CPUs count.
    CpuJob,
    /// It talks to devices: nearness to them counts.
    IoJob,
    /// The past is forgotten slowly: half in 27 s.
    DecaySlow,
    /// The past is forgotten fast: half in 9 s.
    DecayFast,
    /// The past is not forgotten.
    DecayNever,
    /// What was counted so far says nothing any more.
    Clear,
}

impl Hint {
    /// All hints, by number from 1.
    pub const ALL: [Hint; 6] =
        [Hint::CpuJob, Hint::IoJob, Hint::DecaySlow, Hint::DecayFast, Hint::DecayNever, Hint::Clear];

    /// As a number in a field.
    pub fn to_code(self) -> u16 {
        1 + Hint::ALL.iter().take_while(|hint| **hint != self).count() as u16
    }

    /// From a field.
    pub fn from_code(code: u16) -> Option<Self> {
        Hint::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    /// Let a vCPU run on a host, and stay there until it is unlocked or asked elsewhere.
    MoveVcpu {
        /// Which one.
        vcpu: Vcpu,
        /// Where.
        host: u32,
    },
    /// Let a vCPU stay where it is, except when its host is drained.
    LockVcpu {
        /// Which one.
        vcpu: Vcpu,
    },
    /// Let placement move a vCPU again.
    UnlockVcpu {
        /// Which one.
        vcpu: Vcpu,
    },
    /// Have pages brought to a host: the guest knows that they will be used there.
    PullPages {
        /// Guest-physical address of the first byte; a multiple of 4096.
        address: u64,
        /// How many bytes; a multiple of 4096, 1 to [`PULL_PAGES_MAX`] pages.
        bytes: u64,
        /// Where to.
        host: u32,
    },
    /// Something that placement should know.
    Hint {
        /// About which vCPU.
        vcpu: Vcpu,
        /// What.
        hint: Hint,
    },
    /// Make a segment, all zeros, and attach it. Refused if there is one of that key or name.
    CreateSegment {
        /// Its key or name.
        by: SegmentName,
        /// Its size in bytes: whole pages, up to [`SEGMENT_BYTES_MAX`](super::segments::SEGMENT_BYTES_MAX).
        bytes: u64,
        /// When others see what is written to it.
        consistency: Consistency,
    },
    /// Attach a segment that exists. The answer's value is its number.
    AttachSegment {
        /// Its key or name.
        by: SegmentName,
    },
    /// Detach a segment.
    DetachSegment {
        /// Its number.
        segment: u32,
    },
    /// Let others see what this vCPU's host has written to a segment with eager release. Done when they do.
    ReleaseSegment {
        /// Its number.
        segment: u32,
    },
    /// Remove a segment when it is attached no more.
    RemoveSegment {
        /// Its number.
        segment: u32,
    },
}

#[cfg(test)]
mod tests;
