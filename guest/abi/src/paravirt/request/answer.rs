//! Answers to requests.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Malformed;

/// An answer as it lies in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResponseFields {
    /// [`result`].
    pub result: u16,
    /// [`Reason::to_code`] if it was refused or failed; else 0.
    pub reason: u16,
    /// The number of the [`Field`](super::Field) that is wrong, if one is; else 0.
    pub detail: u32,
    /// A segment's number; the features that are missing; else 0.
    pub value: u64,
    /// Zero.
    pub zero: [u64; 2],
}

const _: () = assert!(size_of::<ResponseFields>() == 32);

/// Results.
pub mod result {
    /// It is done.
    pub const DONE: u16 = 1;
    /// It is not done, for a reason: nothing has changed.
    pub const REFUSED: u16 = 2;
    /// It was begun and did not succeed, for a reason: things are as before.
    pub const FAILED: u16 = 3;
    /// It is no request.
    pub const MALFORMED: u16 = 4;
    /// The device does not know such a request, or the guest has not accepted the feature.
    pub const UNSUPPORTED: u16 = 5;
}

/// Why a request was refused or failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum Reason {
    /// The vCPU is locked by an administrator.
    Locked = 1,
    /// The vCPU may not run on that host.
    Masked = 2,
    /// The vCPU has just moved, and must stay a little.
    Residency = 3,
    /// It moves only when its host is drained.
    DrainOnly = 4,
    /// It uses a device that is only at its host.
    PassthroughDevice = 5,
    /// That host's processors lack something.
    HostFeatures = 6,
    /// That host's clock cannot be matched.
    ClockMismatch = 7,
    /// Nothing would be gained.
    NoGain = 8,
    /// That host has no memory left.
    NoMemory = 9,
    /// That host takes no more.
    TargetBlocked = 10,
    /// Too many moves are under way.
    Flood = 11,
    /// A limit that an administrator has set is reached.
    Limit = 12,
    /// Placement is switched off.
    PolicyOff = 13,
    /// It is there already.
    AlreadyThere = 14,
    /// The vCPU is moving.
    Moving = 15,
    /// That host is not online.
    HostNotOnline = 16,
    /// No memory is at that address.
    NotMemory = 17,
    /// There is a segment of that key or name.
    NameTaken = 18,
    /// There is no such segment, or this guest has not attached it.
    NoSuchSegment = 19,
    /// There are as many segments as there may be, or no room for one of that size.
    Full = 20,
    /// The segment is strictly coherent: there is nothing to release.
    NothingToRelease = 21,
    /// The segment is being removed.
    Removed = 22,
    /// The segment is lost with its owner.
    Broken = 23,
    /// Too many requests are under way.
    Busy = 24,
    /// A host was lost meanwhile.
    HostLost = 25,
}

impl Reason {
    /// All reasons, by number from 1.
    pub const ALL: [Reason; 25] = [
        Reason::Locked,
        Reason::Masked,
        Reason::Residency,
        Reason::DrainOnly,
        Reason::PassthroughDevice,
        Reason::HostFeatures,
        Reason::ClockMismatch,
        Reason::NoGain,
        Reason::NoMemory,
        Reason::TargetBlocked,
        Reason::Flood,
        Reason::Limit,
        Reason::PolicyOff,
        Reason::AlreadyThere,
        Reason::Moving,
        Reason::HostNotOnline,
        Reason::NotMemory,
        Reason::NameTaken,
        Reason::NoSuchSegment,
        Reason::Full,
        Reason::NothingToRelease,
        Reason::Removed,
        Reason::Broken,
        Reason::Busy,
        Reason::HostLost,
    ];

    /// As a number in a field.
    pub const fn to_code(self) -> u16 {
        self as u16
    }

    /// From a field; `None` for reasons of later versions.
    pub fn from_code(code: u16) -> Option<Self> {
        Reason::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// An answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// It is done. The value is a segment's number, or 0.
    Done(u64),
    /// It is not done.
    Refused(Reason),
    /// It was begun and did not succeed.
    Failed(Reason),
    /// It is no request: the field with this number is wrong.
    Malformed(u32),
    /// The device does not do such things; or the guest has not accepted these features.
    Unsupported(u64),
}

impl Answer {
    /// The answer as it lies in a slot.
    pub fn encode(&self) -> ResponseFields {
        let fields = ResponseFields::default();
        match *self {
            Answer::Done(value) => ResponseFields { result: result::DONE, value, ..fields },
            Answer::Refused(reason) => {
                ResponseFields { result: result::REFUSED, reason: reason.to_code(), ..fields }
            }
            Answer::Failed(reason) => {
                ResponseFields { result: result::FAILED, reason: reason.to_code(), ..fields }
            }
            Answer::Malformed(detail) => ResponseFields { result: result::MALFORMED, detail, ..fields },
            Answer::Unsupported(value) => ResponseFields { result: result::UNSUPPORTED, value, ..fields },
        }
    }

    /// The answer in the fields of a slot; `None` if it is none that this version knows.
    pub fn decode(fields: &ResponseFields) -> Option<Answer> {
        let reason = Reason::from_code(fields.reason);
        match fields.result {
            result::DONE => Some(Answer::Done(fields.value)),
            result::REFUSED => reason.map(Answer::Refused),
            result::FAILED => reason.map(Answer::Failed),
            result::MALFORMED => Some(Answer::Malformed(fields.detail)),
            result::UNSUPPORTED => Some(Answer::Unsupported(fields.value)),
            _ => None,
        }
    }
}

impl From<Malformed> for Answer {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Kind(_) => Answer::Unsupported(0),
            Malformed::NotAccepted(features) => Answer::Unsupported(features.0),
            Malformed::Field(field) => Answer::Malformed(field as u32),
        }
    }
}
