//! Slots: where a request lies while it is made, and its answer.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | state |
//! | 8 | 80 | [`RequestFields`] |
//! | 88 | 32 | [`ResponseFields`] |
//! | 120 | 8 | zero |
//!
//! `FREE` to `CLAIMED` (by whoever of the guest's threads wins), `POSTED` (by it), `TAKEN` (by the device, when the doorbell names the
//! slot), `DONE` (by the device), `FREE` (by the guest). The device believes the state no more than the rest: a guest that
//! changes a slot while it is taken gets a useless answer.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Answer, Request, RequestFields, ResponseFields};
use crate::seqlock::{self, WORD_BYTES};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 128;
/// Words of a slot.
pub const SLOT_WORDS: usize = SLOT_BYTES / WORD_BYTES;
/// Most slots of one guest.
pub const SLOTS_MAX: u32 = 256;

/// Nobody uses the slot.
pub const FREE: u64 = 0;
/// A thread of the guest writes its request.
pub const CLAIMED: u64 = 1;
/// The request is written. Now ring the doorbell.
pub const POSTED: u64 = 2;
/// The device has copied the request.
pub const TAKEN: u64 = 3;
/// The answer is written.
pub const DONE: u64 = 4;

const REQUEST_WORD: usize = 1;
const RESPONSE_WORD: usize = REQUEST_WORD + size_of::<RequestFields>() / WORD_BYTES;

const _: () = assert!(RESPONSE_WORD * WORD_BYTES + size_of::<ResponseFields>() + WORD_BYTES == SLOT_BYTES);

/// The words of slot `number` of an area; `None` if it has no such slot.
pub fn find(area: &[AtomicU64], number: u32) -> Option<Slot<'_>> {
    let begin = usize::try_from(number).ok()?.checked_mul(SLOT_WORDS)?;
    let words = area.get(begin..begin.checked_add(SLOT_WORDS)?)?;
    (number < SLOTS_MAX).then_some(Slot { number, words })
}

/// A slot of the requests area.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    number: u32,
    words: &'a [AtomicU64],
}

impl<'a> Slot<'a> {
    /// Its number, for the doorbell.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The guest: claims a free slot, writes the request and posts it. `None` if the slot is in use. Then ring the doorbell with
    /// [`Slot::number`].
    pub fn post(self, request: &Request) -> Option<Posted<'a>> {
        let claim = self.words[0].compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        claim.ok()?;
        seqlock::store(&self.words[REQUEST_WORD..RESPONSE_WORD], &request.encode());
        self.words[0].store(POSTED, Ordering::Release);
        Some(Posted(self))
    }

    /// The device: copies the request that the doorbell named. `None` if the slot is not posted. What comes back is a copy: the
    /// guest cannot change it any more.
    pub fn take(&self) -> Option<RequestFields> {
        let taken = self.words[0].compare_exchange(POSTED, TAKEN, Ordering::Acquire, Ordering::Relaxed);
        taken.ok()?;
        Some(seqlock::load(&self.words[REQUEST_WORD..RESPONSE_WORD]))
    }

    /// The device: writes the answer to the request that it has taken.
    pub fn answer(&self, answer: Answer) {
        seqlock::store(&self.words[RESPONSE_WORD..], &answer.encode());
        self.words[0].store(DONE, Ordering::Release);
    }
}

/// A request that was made.
#[derive(Debug)]
pub struct Posted<'a>(Slot<'a>);

impl Posted<'_> {
    /// The slot's number, for the doorbell.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Whether there is an answer.
    pub fn is_done(&self) -> bool {
        self.0.words[0].load(Ordering::Relaxed) == DONE
    }

    /// The answer, and the slot is free again; or the request still, if there is none yet.
    ///
    /// # Errors
    /// If there is none yet.
    pub fn answer(self) -> Result<ResponseFields, Self> {
        if self.0.words[0].load(Ordering::Acquire) != DONE {
            return Err(self);
        }
        let answer = seqlock::load(&self.0.words[RESPONSE_WORD..]);
        self.0.words[0].store(FREE, Ordering::Release);
        Ok(answer)
    }
}
