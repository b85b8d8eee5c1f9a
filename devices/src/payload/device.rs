//! The payload's console and exit ports. Neither has state.

use std::sync::Arc;

use tessera_abi::port;

use crate::bus::BusDevice;
use crate::events::{GuestEnd, PlatformEvents};

/// The console port.
pub struct PayloadConsole {
    events: Arc<dyn PlatformEvents>,
}

impl PayloadConsole {
    /// A console that prints to `events`.
    pub fn new(events: Arc<dyn PlatformEvents>) -> Self {
        PayloadConsole { events }
    }
}

impl BusDevice for PayloadConsole {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        if let Some(byte) = data.first_mut() {
            *byte = port::CONSOLE_MAGIC;
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        self.events.console(data);
    }
}

/// The exit port.
pub struct PayloadExit {
    events: Arc<dyn PlatformEvents>,
}

impl PayloadExit {
    /// An exit that ends the guest through `events`.
    pub fn new(events: Arc<dyn PlatformEvents>) -> Self {
        PayloadExit { events }
    }
}

impl BusDevice for PayloadExit {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Ok(status)) = (offset, <[u8; 4]>::try_from(data)) {
            self.events.guest_end(GuestEnd::PayloadExit(u32::from_le_bytes(status)));
        }
    }
}
