use tessera_abi::port;

use super::*;
use crate::bus::BusDevice;
use crate::events::GuestEnd;
use crate::platform::tests::Heard;

const S5: u8 = port::SLEEP_TYPE_S5 << port::SLEEP_TYPE_SHIFT;

#[test]
fn only_an_enabled_s5_powers_off() {
    let heard = Heard::new();
    let power = AcpiPower::new(heard.clone());
    power.write(0, &[S5]);
    power.write(0, &[port::SLEEP_ENABLE | 3 << port::SLEEP_TYPE_SHIFT]);
    power.write(1, &[S5 | port::SLEEP_ENABLE]);
    assert_eq!(heard.ends(), vec![]);
    power.write(0, &[S5 | port::SLEEP_ENABLE]);
    assert_eq!(heard.ends(), vec![GuestEnd::PowerOff]);
}

#[test]
fn only_the_reset_value_resets() {
    let heard = Heard::new();
    let power = AcpiPower::new(heard.clone());
    power.write(2, &[0]);
    assert_eq!(heard.ends(), vec![]);
    power.write(2, &[port::RESET_VALUE]);
    assert_eq!(heard.ends(), vec![GuestEnd::Reset]);
}

#[test]
fn the_keyboard_controller_is_ready_and_resets_on_command_only() {
    let heard = Heard::new();
    let mut status = [0xff];
    I8042::new(port::I8042_COMMAND, heard.clone()).read(0, &mut status);
    assert_eq!(status, [0]);
    I8042::new(port::I8042_DATA, heard.clone()).write(0, &[port::I8042_RESET]);
    I8042::new(port::I8042_COMMAND, heard.clone()).write(0, &[0xd1]);
    assert_eq!(heard.ends(), vec![]);
    I8042::new(port::I8042_COMMAND, heard.clone()).write(0, &[port::I8042_RESET]);
    assert_eq!(heard.ends(), vec![GuestEnd::Reset]);
}

#[test]
fn a_panic_ends_the_guest_and_a_crash_kernel_does_not() {
    let heard = Heard::new();
    let panic = PvPanic::new(heard.clone());
    let mut events = [0];
    panic.read(0, &mut events);
    assert_eq!(events, [3]);
    panic.write(0, &[port::PVPANIC_CRASH_LOADED]);
    assert_eq!(heard.ends(), vec![]);
    panic.write(0, &[port::PVPANIC_PANICKED]);
    assert_eq!(heard.ends(), vec![GuestEnd::Panic]);
}
