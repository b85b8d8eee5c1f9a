use super::*;
use crate::bus::BusDevice;

fn registers(now: fn() -> u64, indices: &[u8]) -> Vec<u8> {
    let clock = CmosClock::new(now);
    let read = |index: &u8| {
        clock.write(0, &[*index]);
        let mut byte = [0xff];
        clock.read(1, &mut byte);
        byte[0]
    };
    indices.iter().map(read).collect()
}

const TIME: [u8; 8] = [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00];

#[test]
fn the_time_is_shown_in_bcd() {
    // 2000-02-29 23:59:58, a Tuesday: a leap year that is divisible by 400.
    assert_eq!(registers(|| 951_868_798, &TIME), [0x20, 0x00, 0x02, 0x29, 3, 0x23, 0x59, 0x58]);
    // 1970-01-01 00:00:00, a Thursday.
    assert_eq!(registers(|| 0, &TIME), [0x19, 0x70, 0x01, 0x01, 5, 0, 0, 0]);
    // 2026-11-20 09:08:07, a Friday.
    assert_eq!(registers(|| 1_795_165_687, &TIME), [0x20, 0x26, 0x11, 0x20, 6, 0x09, 0x08, 0x07]);
    // 2100-03-01 00:00:00, a Monday: 2100 is no leap year.
    assert_eq!(registers(|| 4_107_542_400, &TIME), [0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0]);
}

#[test]
fn the_clock_is_never_updating_and_always_valid() {
    assert_eq!(registers(|| 0, &[0x0a, 0x0b, 0x0c, 0x0d, 0x0f, 0x7f]), [0x26, 0x02, 0, 0x80, 0, 0]);
    assert_eq!(registers(|| 0, &[0x8d]), [0x80], "the NMI bit is no part of the index");
}

#[test]
fn odd_accesses_do_nothing() {
    let clock = CmosClock::new(|| 0);
    clock.write(0, &[0x0d]);
    clock.write(1, &[0xff]);
    clock.write(0, &[]);
    let mut data = [0xff; 2];
    clock.read(0, &mut data);
    assert_eq!(data, [0xff; 2], "the index cannot be read");
    clock.read(1, &mut data[..1]);
    assert_eq!(data[0], 0x80);
}
