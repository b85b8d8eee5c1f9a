//! The registers that end a guest. None has state.

use std::sync::Arc;

use tessera_abi::port;
use tracing::debug;

use crate::bus::BusDevice;
use crate::events::{GuestEnd, PlatformEvents};

/// Sleep control, sleep status and reset register: three byte-wide ports in a row.
pub struct AcpiPower {
    events: Arc<dyn PlatformEvents>,
}

impl AcpiPower {
    /// Ports, counted from [`port::SLEEP_CONTROL`].
    pub const PORTS: u16 = 3;

    /// Registers that end the guest through `events`.
    pub fn new(events: Arc<dyn PlatformEvents>) -> Self {
        AcpiPower { events }
    }

    fn sleep(&self, control: u8) {
        if control & port::SLEEP_ENABLE == 0 {
            return;
        }
        match control >> port::SLEEP_TYPE_SHIFT & 7 {
            port::SLEEP_TYPE_S5 => self.events.guest_end(GuestEnd::PowerOff),
            other => debug!(sleep_type = other, "the guest asked for a sleep state it was not offered"),
        }
    }
}

impl BusDevice for AcpiPower {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (port, &byte) in (u64::from(port::SLEEP_CONTROL) + offset..).zip(data) {
            match u16::try_from(port) {
                Ok(port::SLEEP_CONTROL) => self.sleep(byte),
                Ok(port::RESET) if byte == port::RESET_VALUE => self.events.guest_end(GuestEnd::Reset),
                _ => {}
            }
        }
    }
}

/// The keyboard controller's two ports, of which only the reset command does something. Put one at each.
pub struct I8042 {
    port: u16,
    events: Arc<dyn PlatformEvents>,
}

impl I8042 {
    /// The controller's port `port`, resetting through `events`.
    pub fn new(port: u16, events: Arc<dyn PlatformEvents>) -> Self {
        I8042 { port, events }
    }
}

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if self.port == port::I8042_COMMAND && data.first() == Some(&port::I8042_RESET) {
            self.events.guest_end(GuestEnd::Reset);
        }
    }
}

/// The pvpanic port.
pub struct PvPanic {
    events: Arc<dyn PlatformEvents>,
}

impl PvPanic {
    /// A port that reports panics to `events`.
    pub fn new(events: Arc<dyn PlatformEvents>) -> Self {
        PvPanic { events }
    }
}

impl BusDevice for PvPanic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        if let Some(byte) = data.first_mut() {
            *byte = port::PVPANIC_PANICKED | port::PVPANIC_CRASH_LOADED;
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|event| event & port::PVPANIC_PANICKED != 0) {
            self.events.guest_end(GuestEnd::Panic);
        }
    }
}
