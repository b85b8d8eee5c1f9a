//! The table behind its lock, and where its messages go.

use std::sync::{Arc, Mutex, PoisonError};

use super::table::{Table, ENTRY_BYTES};
use crate::events::{Msi, MsiSink};
use crate::pci::config::{ConfigError, ConfigSpace};

/// Capability id (PCI Local Bus 3.0, appendix H).
pub const CAPABILITY_ID: u8 = 0x11;
/// Most vectors of a function.
pub const VECTORS_MAX: u16 = 2048;
/// Of message control, what a guest can write: function mask and enable.
const CONTROL_WRITABLE: u16 = 0b11 << 14;

/// Where a function has its table and its pending bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsixPlace {
    /// The BAR in which both are.
    pub bar: u8,
    /// The table's offset in it, a multiple of 8.
    pub table: u32,
    /// The pending bits' offset in it, a multiple of 8.
    pub pending: u32,
}

/// The vectors of one function.
pub struct Msix {
    table: Mutex<Table>,
    vectors: u16,
    sink: Arc<dyn MsiSink>,
}

impl Msix {
    /// `vectors` vectors, at least 1 and at most [`VECTORS_MAX`], all masked.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Self {
        let vectors = vectors.clamp(1, VECTORS_MAX);
        Msix { table: Mutex::new(Table::new(vectors)), vectors, sink }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }

    /// Bytes of the table in the function's memory.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.vectors) * ENTRY_BYTES as u64
    }

    /// Adds the capability. Gives the offset of message control, 16 bits, which is to be passed to
    /// [`Msix::set_control`] when it is written.
    ///
    /// # Errors
    /// When it finds no room.
    pub fn add_capability(&self, config: &mut ConfigSpace, place: MsixPlace) -> Result<usize, ConfigError> {
        let mut body = (self.vectors - 1).to_le_bytes().to_vec();
        for offset in [place.table, place.pending] {
            // The low three bits name the BAR.
            body.extend((offset & !7 | u32::from(place.bar & 7)).to_le_bytes());
        }
        let control = config.add_capability(CAPABILITY_ID, &body)? + 2;
        config.allow(control, &CONTROL_WRITABLE.to_le_bytes());
        Ok(control)
    }

    /// The function has an interrupt for `vector`. One that does not exist is ignored.
    pub fn signal(&self, vector: u16) {
        self.act(|table| table.signal(vector));
    }

    /// The guest wrote message control.
    pub fn set_control(&self, control: u16) {
        self.act(|table| table.set_control(control));
    }

    /// Reads the table at `offset`.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        self.with(|table| read_words(offset, data, |index| table.word(index)));
    }

    /// Writes the table at `offset`: one or two whole registers (PCI Local Bus 3.0, 6.8.2); anything else is ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) || !matches!(data.len(), 4 | 8) {
            return;
        }
        self.act(|table| {
            for (index, word) in (offset as usize / 4..).zip(data.chunks_exact(4)) {
                table.set_word(index, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
            }
            table.written()
        });
    }

    /// Reads the pending bits at `offset`.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        self.with(|table| read_words(offset, data, |index| table.pending_word(index)));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        // Each change is whole before anything can panic, so a poisoned lock holds a good table.
        f(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the table, then, without the lock, sends what came of it.
    fn act<M: IntoIterator<Item = Msi>>(&self, f: impl FnOnce(&mut Table) -> M) {
        let messages = self.with(f);
        for message in messages {
            self.sink.send(message);
        }
    }
}

/// Reads bytes out of little-endian 32-bit registers.
fn read_words(offset: u64, data: &mut [u8], word: impl Fn(usize) -> u32) {
    for (at, byte) in (offset as usize..).zip(data) {
        *byte = word(at / 4).to_le_bytes()[at % 4];
    }
}
