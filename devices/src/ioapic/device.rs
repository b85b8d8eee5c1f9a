//! Registers, lines and delivery.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use crate::bus::BusDevice;
use crate::events::{Msi, MsiSink};

/// Interrupt pins.
pub const PINS: usize = 24;

/// Offsets in the memory window.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

/// Indices behind the window.
const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const TABLE: u8 = 0x10;

/// Version 0x20 has the EOI register.
const VERSION_VALUE: u32 = 0x20 | (PINS as u32 - 1) << 16;
/// The id is four bits wide in the ID register.
const ID_MASK: u32 = 0x0f00_0000;

/// All that the controller remembers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IoApicState {
    /// The ID register.
    id: u32,
    /// The index that the guest selected.
    selected: u8,
    /// Lines that are up, one bit a pin.
    lines: u32,
    table: [Entry; PINS],
}

impl Default for IoApicState {
    fn default() -> Self {
        IoApicState { id: 0, selected: 0, lines: 0, table: [Entry::RESET; PINS] }
    }
}

impl IoApicState {
    fn is_up(&self, pin: usize) -> bool {
        self.lines & 1 << pin != 0
    }

    /// The message of a pin whose level line is up and not yet acknowledged; takes note of it.
    fn level_message(&mut self, pin: usize) -> Option<Msi> {
        let up = self.is_up(pin);
        let entry = &mut self.table[pin];
        if !up || !entry.is_level() || entry.is_masked() || entry.remote_irr() {
            return None;
        }
        let message = entry.message()?;
        entry.set_remote_irr();
        Some(message)
    }

    fn set_line(&mut self, pin: usize, up: bool) -> Option<Msi> {
        let rising = up && !self.is_up(pin);
        if up {
            self.lines |= 1 << pin;
        } else {
            self.lines &= !(1 << pin);
        }
        let entry = self.table[pin];
        if entry.is_level() {
            self.level_message(pin)
        } else if rising && !entry.is_masked() {
            entry.message()
        } else {
            None
        }
    }

    fn eoi(&mut self, vector: u8) -> Vec<Msi> {
        let mut messages = Vec::new();
        for pin in 0..PINS {
            let entry = &mut self.table[pin];
            if entry.is_level() && entry.vector() == vector && entry.remote_irr() {
                entry.clear_remote_irr();
                messages.extend(self.level_message(pin));
            }
        }
        messages
    }

    /// The pin and the half (0 = low) behind an index of the window, if it is in the table.
    fn place(index: u8) -> Option<(usize, u8)> {
        let index = index.checked_sub(TABLE)?;
        let pin = usize::from(index / 2);
        (pin < PINS).then_some((pin, index % 2))
    }

    fn read(&self, index: u8) -> u32 {
        match (index, Self::place(index)) {
            // The arbitration id follows the id: there is no APIC bus to arbitrate on.
            (ID | ARBITRATION, _) => self.id,
            (VERSION, _) => VERSION_VALUE,
            (_, Some((pin, 0))) => self.table[pin].low(),
            (_, Some((pin, _))) => self.table[pin].high(),
            (_, None) => 0,
        }
    }

    fn write(&mut self, index: u8, value: u32) -> Option<Msi> {
        match (index, Self::place(index)) {
            (ID, _) => self.id = value & ID_MASK,
            (_, Some((pin, 0))) => {
                self.table[pin].set_low(value);
                return self.level_message(pin);
            }
            (_, Some((pin, _))) => self.table[pin].set_high(value),
            (_, None) => {}
        }
        None
    }
}

/// The controller: its state behind a lock, and where its messages go.
pub struct IoApic {
    state: Mutex<IoApicState>,
    sink: Arc<dyn MsiSink>,
}

impl IoApic {
    /// A controller as after a reset.
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        IoApic { state: Mutex::default(), sink }
    }

    /// Raises or lowers the line of `pin`. A pin that does not exist is ignored.
    pub fn set_line(&self, pin: u32, up: bool) {
        let pin = pin as usize;
        if pin < PINS {
            self.act(|state| state.set_line(pin, up));
        }
    }

    /// Raises and lowers the line of `pin`: one edge. A pin that does not exist is ignored.
    ///
    /// Both happen before the edge is delivered: a thread that is put aside in between must not hold the line up, or
    /// another's pulse would be no edge.
    pub fn pulse(&self, pin: u32) {
        let pin = pin as usize;
        if pin < PINS {
            self.act(|state| [state.set_line(pin, true), state.set_line(pin, false)].into_iter().flatten());
        }
    }

    /// The guest's end-of-interrupt for `vector` (KVM_EXIT_IOAPIC_EOI).
    pub fn eoi(&self, vector: u8) {
        self.act(|state| state.eoi(vector));
    }

    /// A copy of the state.
    pub fn state(&self) -> IoApicState {
        self.with(|state| state.clone())
    }

    /// Takes over `state` without delivering anything.
    pub fn restore(&self, state: IoApicState) {
        self.with(|own| *own = state);
    }

    fn with<T>(&self, f: impl FnOnce(&mut IoApicState) -> T) -> T {
        // Each change is whole before anything can panic, so a poisoned lock holds a good state.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state, then, without the lock, delivers what came of it.
    fn act<M: IntoIterator<Item = Msi>>(&self, f: impl FnOnce(&mut IoApicState) -> M) {
        let messages = self.with(f);
        for message in messages {
            self.sink.send(message);
        }
    }
}

impl BusDevice for IoApic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let register = offset & !3;
        let value = self.with(|state| match register {
            SELECT => u32::from(state.selected),
            WINDOW => state.read(state.selected),
            _ => 0,
        });
        // Bytes from within the register, then zeros: reads are not meant to be of another size than four.
        let bytes = value.to_le_bytes().into_iter().skip((offset - register) as usize).chain([0; 8]);
        data.fill(0);
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let word = data.get(..4).and_then(|word| <[u8; 4]>::try_from(word).ok()).map(u32::from_le_bytes);
        match (offset, data.first(), word) {
            (SELECT, Some(&index), _) => self.with(|state| state.selected = index),
            (WINDOW, _, Some(word)) => self.act(|state| state.write(state.selected, word)),
            (EOI, Some(&vector), _) => self.eoi(vector),
            _ => {}
        }
    }
}
