//! Connections: frames over every kind of link.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::event::PollFlags;

use super::{await_fd, offer, shared, tcp, unix, Ends};
use crate::ids::{Gfn, PAGE_BYTES};
use crate::link::session::{SessionError, Side, Stamp};
use crate::link::{Connection, Flushed, Link, LinkError};
use crate::protocol::{Access, Message, Txn};
use crate::wire::{self, Body};

/// A pair of each kind, with its name.
fn pairs() -> [(&'static str, Ends); 3] {
    [("tcp", tcp()), ("unix", unix()), ("shared", shared())]
}

fn request(gfn: u64) -> Message {
    Message::Request { gfn: Gfn(gfn), access: Access::Read, held: false, turn: Default::default() }
}

fn grant(gfn: u64) -> Message {
    Message::Grant { gfn: Gfn(gfn), txn: Txn(7), rights: Access::Write, page: true, acks: 2 }
}

fn fill_page(page: &mut [u8; PAGE_BYTES], seed: u64) -> Result<(), ()> {
    for (i, word) in page.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(seed * 1000 + i as u64).to_le_bytes());
    }
    Ok(())
}

/// What the test expects of the next frame.
type Seen = (Message, Body, Option<Vec<u8>>);

fn take(connection: &mut Connection) -> Result<Seen, LinkError> {
    loop {
        if let Some(frame) = connection.next_frame()? {
            return Ok((frame.message, frame.body, frame.page.map(|page| page.to_vec())));
        }
        await_fd(connection.descriptor().expect("a link"), PollFlags::IN);
        let _ = connection.fill()?;
    }
}

#[test]
fn frames_and_pages_come_out_as_they_went_in() {
    for (name, (near, far)) in pairs() {
        let (mut near, mut far) = (Connection::new(near, Side::Dials), Connection::new(far, Side::Accepts));
        near.queue(&request(1)).expect("room");
        near.queue_page(&grant(2), |page| fill_page(page, 2)).expect("room").expect("read");
        near.queue_page(&grant(3), |_| Ok::<(), ()>(())).expect("room").expect("read");
        near.queue(&request(4)).expect("room");
        assert_eq!(near.flush().expect("flush"), Flushed::All, "{name}");

        let mut page = [0; PAGE_BYTES];
        fill_page(&mut page, 2).expect("always");
        assert_eq!(take(&mut far).expect("frame"), (request(1), Body::None, None), "{name}");
        assert_eq!(take(&mut far).expect("frame"), (grant(2), Body::Page, Some(page.to_vec())), "{name}");
        assert_eq!(take(&mut far).expect("frame"), (grant(3), Body::ZeroPage, None), "{name}");
        assert_eq!(take(&mut far).expect("frame"), (request(4), Body::None, None), "{name}");
        assert!(far.next_frame().expect("no error").is_none());

        let (sent, got) = (near.counts(), far.counts());
        assert_eq!((sent.messages_out, sent.pages_out, sent.zero_pages_out), (4, 1, 1));
        assert_eq!((got.messages_in, got.pages_in, got.zero_pages_in), (4, 1, 1));
        assert_eq!((sent.bytes_out, got.bytes_in), (4 * 32 + 4096, 4 * 32 + 4096));
    }
}

#[test]
fn a_frame_without_a_page_is_at_most_64_bytes_on_the_wire() {
    for (name, (near, _far)) in pairs() {
        let mut near = Connection::new(near, Side::Dials);
        near.queue(&request(u64::MAX >> 12)).expect("room");
        assert_eq!(near.flush().expect("flush"), Flushed::All);
        let bytes = near.counts().bytes_out;
        assert!((1..=64).contains(&bytes), "{name}: a request takes {bytes} bytes");
        // Nor does one whose page is all zeros.
        near.queue_page(&grant(1), |_| Ok::<(), ()>(())).expect("room").expect("read");
        assert_eq!(near.flush().expect("flush"), Flushed::All);
        assert!(near.counts().bytes_out <= bytes + 64, "{name}");
    }
}

/// A link that notes where what it is given lies.
struct Noting(UnixStream, Arc<Mutex<Vec<Range<usize>>>>);

impl Link for Noting {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut given = self.1.lock().expect("no panic");
        given.extend(parts.iter().map(|part| part.as_ptr() as usize..part.as_ptr() as usize + part.len()));
        Ok(parts.iter().map(|part| part.len()).sum())
    }
}

#[test]
fn a_page_goes_to_the_link_from_where_it_was_read_to() {
    let given = Arc::new(Mutex::new(Vec::new()));
    let socket = UnixStream::pair().expect("pair").0;
    let mut connection = Connection::new(Box::new(Noting(socket, given.clone())), Side::Dials);
    for number in 0..3 {
        let mut place = 0;
        let read = |page: &mut [u8; PAGE_BYTES]| {
            place = page.as_ptr() as usize;
            fill_page(page, number + 1)
        };
        connection.queue_page(&grant(number), read).expect("room").expect("read");
        assert_eq!(connection.flush().expect("flush"), Flushed::All);
        let given = std::mem::take(&mut *given.lock().expect("no panic"));
        let whole = |part: &Range<usize>| part.start <= place && place + PAGE_BYTES <= part.end;
        assert!(given.iter().any(whole), "the page lay at {place:#x}, and the link was given {given:x?}");
        assert_eq!(given.iter().map(Range::len).sum::<usize>(), wire::FRAME_BYTES + PAGE_BYTES);
    }
}

#[test]
fn a_frame_in_pieces_is_put_together() {
    for (name, (mut near, far)) in pairs() {
        let mut far = Connection::new(far, Side::Accepts);
        let mut bytes = wire::encode(&grant(9), false).to_vec();
        bytes.extend(std::iter::repeat_n(0xa5, PAGE_BYTES));
        for piece in bytes.chunks(1000) {
            assert!(far.next_frame().expect("no error").is_none(), "{name}: the frame is not whole yet");
            assert_eq!(offer(&mut *near, &[IoSlice::new(piece)]), piece.len());
            await_fd(far.descriptor().expect("a link"), PollFlags::IN);
            let _ = far.fill().expect("fill");
        }
        assert_eq!(take(&mut far).expect("frame"), (grant(9), Body::Page, Some(vec![0xa5; PAGE_BYTES])));
    }
}

#[test]
fn what_the_link_does_not_take_waits_in_order() {
    for (name, (near, far)) in pairs() {
        let (mut near, mut far) = (Connection::new(near, Side::Dials), Connection::new(far, Side::Accepts));
        let frames = 3000;
        let mut taken = 0;
        for gfn in 0..frames {
            near.queue_page(&grant(gfn), |page| fill_page(page, gfn + 1)).expect("room").expect("read");
            if near.flush().expect("flush") == Flushed::Blocked && gfn % 3 == 0 {
                // Now and then the peer reads one, so that the outbox is cut at odd places.
                assert_eq!(take(&mut far).expect("frame").0, grant(taken));
                taken += 1;
            }
        }
        assert!(near.counts().blocked > 0, "{name}: the test must fill the link");
        while taken < frames {
            let _ = near.flush().expect("flush");
            let (message, _, page) = take(&mut far).expect("frame");
            far.confirm().expect("room");
            let _ = far.flush().expect("flush");
            let mut expected = [0; PAGE_BYTES];
            fill_page(&mut expected, taken + 1).expect("always");
            assert_eq!((message, page), (grant(taken), Some(expected.to_vec())), "{name}");
            taken += 1;
        }
        // Confirmed by the way, without a frame of the peer's that says anything else.
        far.confirm().expect("room");
        let _ = far.flush().expect("flush");
        let _ = near.fill().expect("fill");
        assert!(near.next_frame().expect("no error").is_none());
        assert!(far.counts().idle_out > 0 && near.session().unconfirmed_bytes() < 1 << 20, "{name}");
    }
}

#[test]
fn a_peer_that_does_not_read_is_given_up() {
    for (name, (near, _far)) in pairs() {
        let mut near = Connection::new(near, Side::Dials);
        let mut queued = 0;
        let error = loop {
            match near.queue_page(&grant(queued), |page| fill_page(page, 1)) {
                Ok(read) => read.expect("always"),
                Err(error) => break error,
            }
            let _ = near.flush().expect("flush");
            queued += 1;
            assert!(queued < 100_000, "{name}: the outbox is not bounded");
        };
        assert!(matches!(error, LinkError::Session(SessionError::Congested { .. })), "{name}: {error}");
    }
}

#[test]
fn a_page_that_cannot_be_read_sends_nothing() {
    for (_, (near, far)) in pairs() {
        let (mut near, mut far) = (Connection::new(near, Side::Dials), Connection::new(far, Side::Accepts));
        assert_eq!(near.queue_page(&grant(1), |_| Err("gone")).expect("room"), Err("gone"));
        near.queue(&request(2)).expect("room");
        assert_eq!(near.flush().expect("flush"), Flushed::All);
        assert_eq!(take(&mut far).expect("frame").0, request(2));
    }
}

#[test]
fn a_frame_that_is_not_the_next_one_is_refused() {
    for (name, (mut near, far)) in pairs() {
        let mut far = Connection::new(far, Side::Accepts);
        let mut frame = wire::encode(&request(1), false);
        for _ in 0..2 {
            // Twice the same, or one that was left out before: the position says it.
            assert_eq!(offer(&mut *near, &[IoSlice::new(&frame)]), 32);
        }
        assert_eq!(take(&mut far).expect("the first").0, request(1));
        let gap = SessionError::Gap { expected: 32, found: 0 };
        assert!(matches!(take(&mut far), Err(LinkError::Session(error)) if error == gap), "{name}");
        frame[wire::SEQ_OFFSET] = 32;
        assert_eq!(super::super::connection::stamp_of(&frame), Stamp { seq: 32, ack: 0 });
    }
}

#[test]
fn a_closed_link_and_a_bad_frame_are_errors() {
    for (name, (mut near, far)) in pairs() {
        let mut far = Connection::new(far, Side::Accepts);
        assert_eq!(offer(&mut *near, &[IoSlice::new(&[0xff; 32])]), 32);
        assert!(matches!(take(&mut far), Err(LinkError::Frame(_))), "{name}");
    }
    for (name, (near, far)) in pairs() {
        let mut far = Connection::new(far, Side::Accepts);
        drop(near);
        assert!(matches!(take(&mut far), Err(LinkError::Closed | LinkError::Broken(_))), "{name}");
    }
}

#[test]
fn reading_an_idle_link_does_not_block() {
    for (name, (near, _far)) in pairs() {
        let mut near = Connection::new(near, Side::Dials);
        let _ = near.fill().expect("nothing is no error");
        assert!(near.next_frame().expect("no error").is_none(), "{name}");
    }
}
