//! What every kind of link must do. A new transport adds one line to `every_transport!`.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::{await_readiness, await_room, offer, readiness, take, Ends, Random, HANG};
use crate::link::Link;

/// A link that holds more than this for a peer that takes nothing is not bounded.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Long enough for a descriptor to tell what it has to tell.
const A_MOMENT: Duration = Duration::from_millis(50);

/// Each check with each transport, as a test of its own.
macro_rules! every_transport {
    ($($transport:ident),*) => { $(
        mod $transport {
            use super::super::$transport as ends;
            every_check!(
                ends,
                bytes_come_out_once_and_in_order_whatever_the_pieces,
                parts_are_joined_as_if_they_lay_together,
                both_directions_go_at_once,
                an_idle_link_gives_nothing_and_says_so,
                what_a_peer_does_not_take_is_bounded_and_goes_on_when_it_does,
                more_than_fits_is_taken_in_part,
                what_was_sent_before_the_end_arrives_and_then_the_end,
                a_closed_link_takes_nothing_more,
                who_waits_is_told_of_bytes_and_of_the_end
            );
        }
    )* };
}

macro_rules! every_check {
    ($ends:ident, $($check:ident),*) => { $(
        #[test]
        fn $check() {
            super::$check($ends());
        }
    )* };
}

every_transport!(tcp, unix, shared);

/// The byte at a place of the stream that tests send: any 8 in a row tell where they are.
fn byte_at(at: usize) -> u8 {
    ((at / 8) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[at % 8]
}

fn stream(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(byte_at).collect()
}

fn assert_stream(bytes: &[u8], from: usize) {
    let wrong = bytes.iter().enumerate().find(|&(i, &byte)| byte != byte_at(from + i));
    assert!(wrong.is_none(), "byte {} of the stream is wrong", from + wrong.map_or(0, |(i, _)| i));
}

/// Takes all that is there now.
fn drain(link: &mut dyn Link, from: usize) -> usize {
    let mut buffer = vec![0; 1 << 16];
    let mut taken = 0;
    loop {
        match link.receive(&mut buffer) {
            Ok(bytes) => {
                assert!(bytes > 0, "the link has ended");
                assert_stream(&buffer[..bytes], from + taken);
                taken += bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return taken,
            Err(error) => panic!("the link broke: {error}"),
        }
    }
}

/// Sends until the link takes nothing more; how many bytes it took.
fn stuff(link: &mut dyn Link, from: usize) -> usize {
    let mut taken = 0;
    loop {
        let piece = stream(from + taken..from + taken + (1 << 16));
        match offer(link, &[IoSlice::new(&piece)]) {
            0 => return taken,
            bytes => taken += bytes,
        }
        assert!(taken < HELD_BYTES_MAX, "the link takes without end");
    }
}

fn bytes_come_out_once_and_in_order_whatever_the_pieces((mut near, mut far): Ends) {
    let mut random = Random::new();
    let (mut sent, mut taken, all) = (0, 0, 4 << 20);
    while taken < all {
        let most = [10, 100, 10_000, 300_000][random.below(4)];
        let size = 1 + random.below(most);
        let piece = stream(sent..(sent + size).min(all));
        if !piece.is_empty() {
            sent += offer(&mut *near, &[IoSlice::new(&piece)]);
        }
        if random.below(2) == 0 {
            let mut into = vec![0; 1 + random.below(100_000)];
            match far.receive(&mut into) {
                Ok(bytes) => {
                    assert!(bytes > 0, "the link has ended");
                    assert_stream(&into[..bytes], taken);
                    taken += bytes;
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
        }
    }
    assert_eq!((sent, drain(&mut *far, taken)), (all, 0));
}

fn parts_are_joined_as_if_they_lay_together((mut near, mut far): Ends) {
    let mut random = Random::new();
    let mut at = 0;
    for _ in 0..300 {
        // Headers and pages as the pager sends them, and odd ones; up to 16 parts.
        let sizes: Vec<usize> =
            (0..1 + random.below(16)).map(|_| [0, 1, 32, 4096, 4128, 7][random.below(6)]).collect();
        let mut from = at;
        let parts: Vec<Vec<u8>> = sizes
            .iter()
            .map(|size| {
                from += size;
                stream(from - size..from)
            })
            .collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let sent = offer(&mut *near, &slices);
        let mut into = vec![0; sent];
        let mut taken = 0;
        while taken < sent {
            taken += take(&mut *far, &mut into[taken..]);
        }
        assert_stream(&into, at);
        at += sent;
    }
    assert!(at > 1 << 20);
    assert_eq!(offer(&mut *near, &[]), 0, "no part is no byte");
}

fn both_directions_go_at_once((near, far): Ends) {
    let all = 8 << 20;
    let run = move |mut link: Box<dyn Link>| {
        let (mut sent, mut taken) = (0, 0);
        let begin = Instant::now();
        while sent < all || taken < all {
            let piece = stream(sent..(sent + 20_000).min(all));
            if !piece.is_empty() {
                sent += offer(&mut *link, &[IoSlice::new(&piece)]);
            }
            taken += drain(&mut *link, taken);
            assert!(begin.elapsed() < HANG, "{sent} out, {taken} in, and no further");
        }
        // The link lives until the other end has all.
        link
    };
    let other = std::thread::spawn(move || run(far));
    let near = run(near);
    drop((near, other.join().expect("no panic")));
}

fn an_idle_link_gives_nothing_and_says_so((mut near, mut far): Ends) {
    for link in [&mut near, &mut far] {
        let error = link.receive(&mut [0; 64]).expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(!readiness(link.descriptor(), PollFlags::IN, A_MOMENT).contains(PollFlags::IN));
        assert!(readiness(link.descriptor(), PollFlags::OUT, A_MOMENT).contains(PollFlags::OUT));
    }
}

fn what_a_peer_does_not_take_is_bounded_and_goes_on_when_it_does((mut near, mut far): Ends) {
    let (mut sent, mut taken) = (0, 0);
    for _ in 0..5 {
        sent += stuff(&mut *near, sent);
        let error = near.send(&[IoSlice::new(&[0; 8])]).expect_err("it is full");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // Whoever waits for room is told once there is some.
        let from = taken;
        let reader = std::thread::spawn(move || {
            let mut taken = from;
            while taken < sent {
                await_readiness(&*far, PollFlags::IN);
                taken += drain(&mut *far, taken);
            }
            far
        });
        await_room(&*near);
        far = reader.join().expect("no panic");
        taken = sent;
    }
    assert_eq!(drain(&mut *far, taken), 0);
}

fn more_than_fits_is_taken_in_part((mut near, mut far): Ends) {
    let held = stuff(&mut *near, 0);
    assert_eq!(drain(&mut *far, 0), held);
    let whole = stream(held..held + held + (1 << 20));
    let (first, second) = whole.split_at(5);
    let sent = offer(&mut *near, &[IoSlice::new(first), IoSlice::new(second)]);
    assert!(0 < sent && sent < whole.len(), "{sent} of {} bytes", whole.len());
    let mut taken = 0;
    while taken < sent {
        await_readiness(&*far, PollFlags::IN);
        taken += drain(&mut *far, held + taken);
    }
    assert_eq!(taken, sent);
}

fn what_was_sent_before_the_end_arrives_and_then_the_end((mut near, mut far): Ends) {
    let sent = offer(&mut *near, &[IoSlice::new(&stream(0..10_000))]);
    drop(near);
    let mut into = vec![0; sent];
    let mut taken = 0;
    while taken < sent {
        taken += take(&mut *far, &mut into[taken..]);
    }
    assert_stream(&into, 0);
    for _ in 0..3 {
        assert_eq!(take(&mut *far, &mut into), 0, "the end stays the end");
    }
}

fn a_closed_link_takes_nothing_more((mut near, far): Ends) {
    drop(far);
    let begin = Instant::now();
    loop {
        match near.send(&[IoSlice::new(&[1; 1000])]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
            // The news of the end may be on its way.
            _ => assert!(begin.elapsed() < HANG, "it takes bytes for nobody"),
        }
    }
}

fn who_waits_is_told_of_bytes_and_of_the_end((mut near, mut far): Ends) {
    let waiter = std::thread::spawn(move || {
        for at in 0..200 {
            // It may have come already; else the descriptor tells. It may tell of one that was taken before it did.
            let mut in_vain = 0;
            while drain(&mut *far, at) == 0 {
                await_readiness(&*far, PollFlags::IN);
                in_vain += 1;
                assert!(in_vain < 4, "the descriptor tells of nothing");
            }
            assert_eq!(offer(&mut *far, &[IoSlice::new(&[byte_at(at)])]), 1);
        }
        assert_eq!(take(&mut *far, &mut [0; 8]), 0, "the end is no error");
    });
    for at in 0..200 {
        assert_eq!(offer(&mut *near, &[IoSlice::new(&[byte_at(at)])]), 1);
        let mut byte = [0];
        assert_eq!(take(&mut *near, &mut byte), 1);
        assert_stream(&byte, at);
    }
    drop(near);
    waiter.join().expect("no panic");
}
