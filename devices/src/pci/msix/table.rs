//! The table, the pending bits, and what the guest has enabled.

use super::message;
use crate::events::Msi;

/// Bytes of a table entry.
pub(super) const ENTRY_BYTES: usize = 16;

/// Message control: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Message control: the function interrupts by messages.
const ENABLE: u16 = 1 << 15;
/// Vector control: this vector is masked.
const MASKED: u32 = 1;

/// One vector, as its four registers: address low, address high, data, control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    words: [u32; 4],
    pending: bool,
}

impl Entry {
    const RESET: Entry = Entry { words: [0, 0, 0, MASKED], pending: false };

    fn is_masked(self) -> bool {
        self.words[3] & MASKED != 0
    }

    fn message(self) -> Option<Msi> {
        let [low, high, data, _] = self.words;
        message::interrupt(u64::from(high) << 32 | u64::from(low), data)
    }
}

/// All vectors of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Table {
    entries: Vec<Entry>,
    control: u16,
}

impl Table {
    /// All masked, the function not enabled.
    pub(super) fn new(vectors: u16) -> Self {
        Table { entries: vec![Entry::RESET; usize::from(vectors)], control: 0 }
    }

    fn may_send(&self) -> bool {
        self.control & (ENABLE | FUNCTION_MASK) == ENABLE
    }

    /// The function has an interrupt for a vector: the message to send now, if any.
    pub(super) fn signal(&mut self, vector: u16) -> Option<Msi> {
        let may_send = self.may_send();
        let entry = self.entries.get_mut(usize::from(vector))?;
        if self.control & ENABLE == 0 {
            return None;
        }
        if may_send && !entry.is_masked() {
            return entry.message();
        }
        entry.pending = true;
        None
    }

    /// The guest wrote message control: what is to be sent now.
    pub(super) fn set_control(&mut self, control: u16) -> Vec<Msi> {
        self.control = control;
        self.release()
    }

    /// The pending vectors that may be sent.
    fn release(&mut self) -> Vec<Msi> {
        if !self.may_send() {
            return Vec::new();
        }
        let ready = self.entries.iter_mut().filter(|entry| entry.pending && !entry.is_masked());
        ready
            .filter_map(|entry| {
                entry.pending = false;
                entry.message()
            })
            .collect()
    }

    /// A register of the table; zero where none is.
    pub(super) fn word(&self, index: usize) -> u32 {
        self.entries.get(index / 4).map_or(0, |entry| entry.words[index % 4])
    }

    /// Writes a register of the table. What is to be sent now is asked for by [`Table::written`].
    pub(super) fn set_word(&mut self, index: usize, value: u32) {
        if let Some(entry) = self.entries.get_mut(index / 4) {
            // Of vector control only the mask bit is there.
            entry.words[index % 4] = if index % 4 == 3 { value & MASKED } else { value };
        }
    }

    /// The table was written: what is to be sent now.
    pub(super) fn written(&mut self) -> Vec<Msi> {
        self.release()
    }

    /// 32 pending bits.
    pub(super) fn pending_word(&self, index: usize) -> u32 {
        let vectors = self.entries.iter().skip(index.saturating_mul(32)).take(32);
        vectors.enumerate().fold(0, |word, (bit, entry)| word | u32::from(entry.pending) << bit)
    }
}
