use super::*;
use crate::bus::BusDevice;
use crate::events::GuestEnd;
use crate::platform::tests::Heard;

#[test]
fn bytes_written_are_printed_and_a_read_says_the_port_is_there() {
    let heard = Heard::new();
    let console = PayloadConsole::new(heard.clone());
    console.write(0, b"h");
    console.write(0, b"i");
    assert_eq!(heard.console(), b"hi");
    let mut byte = [0];
    console.read(0, &mut byte);
    assert_eq!(byte, [0xe9]);
}

#[test]
fn only_a_whole_status_ends_the_guest() {
    let heard = Heard::new();
    let exit = PayloadExit::new(heard.clone());
    exit.write(0, &[0]);
    exit.write(0, &[0, 0]);
    exit.write(1, &[0, 0, 0]);
    assert_eq!(heard.ends(), vec![]);
    exit.write(0, &3u32.to_le_bytes());
    assert_eq!(heard.ends(), vec![GuestEnd::PayloadExit(3)]);
}
