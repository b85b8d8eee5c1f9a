use std::time::{Duration, Instant};

use proptest::prelude::*;
use tessera_abi::port::watchdog as at;

use super::countdown::Countdown;
use super::*;
use crate::bus::BusDevice;
use crate::events::GuestEnd;
use crate::platform::tests::Heard;

#[test]
fn it_runs_down_from_when_it_was_last_heard() {
    let mut dog = Countdown::default();
    assert_eq!(dog.expires_ms(), None);
    dog.write(at::COUNT, 50, 0);
    assert_eq!((dog.expires_ms(), dog.read(at::CONTROL, 0)), (None, 0), "it does not run yet");
    dog.write(at::CONTROL, 1, 1000);
    assert_eq!(dog.expires_ms(), Some(6000));
    assert_eq!((dog.read(at::LEFT, 3050), dog.read(at::CONTROL, 3050)), (29, 1));
    dog.write(at::KICK, 1, 4000);
    assert_eq!(dog.expires_ms(), Some(9000));
    dog.write(at::CONTROL, 1, 5000);
    assert_eq!(dog.expires_ms(), Some(9000), "starting what runs is no kick");
    dog.write(at::COUNT, 20, 5000);
    assert_eq!(dog.expires_ms(), Some(7000), "a new time-out begins at once");
    dog.write(at::CONTROL, 0, 5500);
    dog.write(at::KICK, 1, 5500);
    assert_eq!(dog.expires_ms(), None, "a kick does not start it");
}

#[test]
fn time_outs_have_bounds() {
    let mut dog = Countdown::default();
    for (written, read) in [(0, COUNT_MIN), (u32::MAX, COUNT_MAX), (600, 600)] {
        dog.write(at::COUNT, written, 0);
        assert_eq!(dog.read(at::COUNT, 0), read);
    }
}

#[test]
fn a_guest_that_is_not_heard_is_reset_once_and_one_that_is_heard_is_not() {
    let heard = Heard::new();
    let dog = Watchdog::new(heard.clone());
    dog.write(at::COUNT.into(), &COUNT_MIN.to_le_bytes());
    dog.write(at::CONTROL.into(), &1u32.to_le_bytes());
    let begun = Instant::now();
    while heard.ends().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never runs down");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() >= Duration::from_millis(u64::from(COUNT_MIN * PERIOD_MS)), "too soon");
    assert_eq!(heard.ends(), [GuestEnd::Reset]);
    let mut control = [0xff; 4];
    dog.read(at::CONTROL.into(), &mut control);
    assert_eq!(control, [0; 4], "it has stopped");
    // A long time-out and its end: the thread does not wait for it.
    dog.write(at::COUNT.into(), &COUNT_MAX.to_le_bytes());
    dog.write(at::CONTROL.into(), &1u32.to_le_bytes());
    drop(dog);
    assert_eq!(heard.ends().len(), 1);
}

proptest! {
    #[test]
    fn no_access_does_harm(
        accesses in proptest::collection::vec(
            (0u64..20, proptest::collection::vec(any::<u8>(), 0..9), any::<bool>()), 0..60),
    ) {
        // Time-outs are a second at least, and a case is over before.
        let heard = Heard::new();
        let dog = Watchdog::new(heard.clone());
        for (offset, mut data, writes) in accesses {
            match writes {
                true => dog.write(offset, &data),
                false => dog.read(offset, &mut data),
            }
        }
        dog.write(at::CONTROL.into(), &[0; 4]);
    }
}

#[test]
fn a_guest_that_stands_still_is_not_reset_and_has_its_whole_time_afterwards() {
    let heard = Heard::new();
    let dog = Watchdog::new(heard.clone());
    dog.write(at::COUNT.into(), &COUNT_MIN.to_le_bytes());
    dog.write(at::CONTROL.into(), &1u32.to_le_bytes());
    dog.hold();
    let time_out = Duration::from_millis(u64::from(COUNT_MIN * PERIOD_MS));
    std::thread::sleep(time_out + time_out / 2);
    assert_eq!(heard.ends(), []);
    let begun = Instant::now();
    dog.go_on();
    while heard.ends().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never runs down");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() >= time_out, "too soon");
}
