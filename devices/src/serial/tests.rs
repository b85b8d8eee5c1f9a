use std::sync::Arc;

use super::*;
use crate::bus::BusDevice;
use crate::ioapic::IoApic;
use crate::platform::tests::Heard;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const MCR: u64 = 4;
const LSR: u64 = 5;
const LSR_DATA_READY: u8 = 1;

/// A UART whose interrupt is unmasked with vector 0x34.
fn console() -> (SerialConsole, Arc<Heard>) {
    let heard = Heard::new();
    let ioapic = Arc::new(IoApic::new(heard.clone()));
    ioapic.write(0, &[0x10 + 2 * 4]);
    ioapic.write(0x10, &0x34u32.to_le_bytes());
    (SerialConsole::new(ioapic, heard.clone()), heard)
}

fn read(console: &SerialConsole, offset: u64) -> u8 {
    let mut byte = [0];
    console.read(offset, &mut byte);
    byte[0]
}

#[test]
fn output_is_printed_in_order() {
    let (console, heard) = console();
    for byte in b"hello" {
        console.write(DATA, &[*byte]);
    }
    assert_eq!(heard.console(), b"hello");
    assert_eq!(heard.vectors(), [], "no interrupt was enabled");
}

#[test]
fn input_interrupts_and_is_read_whole_however_long() {
    let (console, heard) = console();
    console.write(IER, &[1]);
    let input: Vec<u8> = (0..1000).map(|i| i as u8).collect();
    assert_eq!(console.input(&input), 1000);
    assert_eq!(heard.vectors(), [0x34]);
    let mut output = Vec::new();
    // As a driver does: read while there is data; more must be announced by an interrupt or by the status.
    while output.len() < 1000 {
        if read(&console, LSR) & LSR_DATA_READY == 0 {
            assert!(heard.vectors().contains(&0x34), "stuck after {} bytes", output.len());
            read(&console, IIR);
            continue;
        }
        output.push(read(&console, DATA));
    }
    assert_eq!(output, input);
    assert_eq!(read(&console, LSR) & LSR_DATA_READY, 0);
}

#[test]
fn the_input_queue_is_bounded() {
    let (console, _) = console();
    let taken = console.input(&vec![b'x'; 2 * INPUT_MAX]);
    assert_eq!(taken, INPUT_MAX);
    assert!(console.input(&[b'x'; 100]) <= 64, "only what went into the FIFO made room");
    assert_eq!(console.input(b"y"), 0);
}

#[test]
fn input_waits_while_the_uart_is_looped_back() {
    let (console, _) = console();
    console.write(MCR, &[0x10]);
    assert_eq!(console.input(b"a"), 1);
    console.write(DATA, b"l");
    assert_eq!(read(&console, DATA), b'l', "what was looped back");
    console.write(MCR, &[0]);
    assert_eq!(read(&console, DATA), b'a');
}

#[test]
fn the_transmitter_interrupts_when_enabled() {
    let (console, heard) = console();
    console.write(IER, &[2]);
    assert_eq!(heard.vectors(), [0x34]);
    assert_eq!(read(&console, IIR) & 0xf, 2, "transmitter empty");
}
