//! The UART, its input queue and what it has to say.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_abi::gsi;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::BusDevice;
use crate::events::PlatformEvents;
use crate::ioapic::IoApic;

/// Most bytes of input that wait for the guest.
pub const INPUT_MAX: usize = 64 * 1024;

/// Remembers that the UART wants an interrupt until it is outside the lock.
#[derive(Debug, Default)]
struct Wanted(Cell<bool>);

impl Trigger for Wanted {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

struct State {
    uart: Serial<Wanted, NoEvents, Vec<u8>>,
    input: VecDeque<u8>,
}

impl State {
    /// Moves waiting input into the FIFO as far as it has room.
    fn refill(&mut self) {
        let room = self.uart.fifo_capacity().min(self.input.len());
        let (front, _) = self.input.as_slices();
        let room = room.min(front.len());
        if room == 0 {
            return;
        }
        // In loop-back mode the UART takes nothing: the input goes on waiting.
        let taken = self.uart.enqueue_raw_bytes(&front[..room]).unwrap_or(0);
        self.input.drain(..taken);
    }
}

/// COM1.
pub struct SerialConsole {
    state: Mutex<State>,
    ioapic: Arc<IoApic>,
    events: Arc<dyn PlatformEvents>,
}

impl SerialConsole {
    /// A UART as after a reset that interrupts through `ioapic` and prints to `events`.
    pub fn new(ioapic: Arc<IoApic>, events: Arc<dyn PlatformEvents>) -> Self {
        let uart = Serial::new(Wanted::default(), Vec::new());
        SerialConsole { state: Mutex::new(State { uart, input: VecDeque::new() }), ioapic, events }
    }

    /// Offers `bytes` to the guest and says how many were taken; the rest does not fit into
    /// [`INPUT_MAX`] and should be offered again later.
    pub fn input(&self, bytes: &[u8]) -> usize {
        self.act(|state| {
            let taken = bytes.len().min(INPUT_MAX - state.input.len().min(INPUT_MAX));
            state.input.extend(&bytes[..taken]);
            state.refill();
            taken
        })
    }

    /// Changes the state, then, without the lock, prints and interrupts.
    fn act<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let (result, output, interrupt) = {
            // vm-superio leaves a usable UART at every step, so a poisoned lock holds a good state.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = f(&mut state);
            let output = mem::take(state.uart.writer_mut());
            let interrupt = state.uart.interrupt_evt().0.take();
            (result, output, interrupt)
        };
        if !output.is_empty() {
            self.events.console(&output);
        }
        if interrupt {
            self.ioapic.pulse(gsi::COM1);
        }
        result
    }
}

impl BusDevice for SerialConsole {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.act(|state| {
            for (offset, byte) in (offset..).zip(data) {
                *byte = u8::try_from(offset).map_or(0xff, |offset| state.uart.read(offset));
            }
            state.refill();
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.act(|state| {
            for (offset, &byte) in (offset..).zip(data) {
                if let Ok(offset) = u8::try_from(offset) {
                    // Neither the trigger nor a Vec can fail; a lost byte of console output is no reason to
                    // stop a guest anyway.
                    let _ = state.uart.write(offset, byte);
                }
            }
            // Leaving loop-back mode lets waiting input in.
            state.refill();
        });
    }
}
