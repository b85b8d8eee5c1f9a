//! The port and its interrupt.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;

use tessera_abi::{gsi, port};

use crate::bus::BusDevice;
use crate::ioapic::IoApic;

/// What can happen to the platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Somebody pressed the power button.
    PowerButton,
}

impl Event {
    fn bit(self) -> u8 {
        match self {
            Event::PowerButton => port::EVENT_POWER_BUTTON,
        }
    }
}

/// The generic event device.
pub struct EventDevice {
    /// A bit for each event since the last read.
    pending: AtomicU8,
    ioapic: Arc<IoApic>,
}

impl EventDevice {
    /// A device without events, which interrupts through `ioapic`.
    pub fn new(ioapic: Arc<IoApic>) -> Self {
        EventDevice { pending: AtomicU8::new(0), ioapic }
    }

    /// Tells the guest of an event. Several of a kind that it has not seen yet are one.
    pub fn raise(&self, event: Event) {
        self.pending.fetch_or(event.bit(), Ordering::SeqCst);
        self.ioapic.pulse(gsi::EVENTS);
    }
}

impl BusDevice for EventDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (0, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.pending.swap(0, Ordering::SeqCst);
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) {}
}
