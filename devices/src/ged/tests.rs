use std::sync::Arc;

use tessera_abi::{gsi, port};

use super::*;
use crate::bus::BusDevice;
use crate::ioapic::IoApic;
use crate::platform::tests::Heard;

fn read(device: &EventDevice) -> u8 {
    let mut byte = [0xff];
    device.read(0, &mut byte);
    byte[0]
}

#[test]
fn an_event_interrupts_and_is_read_once() {
    let heard = Heard::new();
    let ioapic = Arc::new(IoApic::new(heard.clone()));
    let device = EventDevice::new(ioapic.clone());
    // Redirection entry of the pin: vector 0x51, edge, not masked.
    for (index, value) in [(0x10 + 2 * gsi::EVENTS, 0x51u32), (0x11 + 2 * gsi::EVENTS, 0)] {
        ioapic.write(0, &index.to_le_bytes());
        ioapic.write(0x10, &value.to_le_bytes());
    }
    assert_eq!(read(&device), 0);
    device.raise(Event::PowerButton);
    device.raise(Event::PowerButton);
    assert_eq!(heard.vectors(), [0x51, 0x51]);
    assert_eq!(read(&device), port::EVENT_POWER_BUTTON);
    assert_eq!(read(&device), 0, "reading clears it");
    device.write(0, &[0xff]);
    assert_eq!(read(&device), 0, "nothing can be written");
}
