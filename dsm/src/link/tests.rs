//! What every kind of link must do for a [`Connection`], checked on each of them.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::ids::{Gfn, PAGE_BYTES};
use crate::protocol::{Access, Message, Txn};
use crate::wire::{self, Body};

const HANG: Duration = Duration::from_secs(20);

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    (near, listener.accept().expect("accept").0)
}

/// A kind of link, and two connected ones of it.
type Pair = (&'static str, Box<dyn Link>, Box<dyn Link>);

/// A pair of each kind.
fn pairs() -> Vec<Pair> {
    let (near, far) = tcp_pair();
    let tcp = (TcpLink::new(near).expect("link"), TcpLink::new(far).expect("link"));
    let (near, far) = UnixStream::pair().expect("pair");
    let unix = (UnixLink::new(near).expect("link"), UnixLink::new(far).expect("link"));
    vec![("tcp", Box::new(tcp.0), Box::new(tcp.1)), ("unix", Box::new(unix.0), Box::new(unix.1))]
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

/// Waits until the link can do what `flags` say.
fn wait_for(connection: &Connection, flags: PollFlags) {
    let fd = connection.descriptor();
    let timeout = HANG.try_into().expect("fits");
    let ready = rustix::event::poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)).expect("poll");
    assert_eq!(ready, 1, "the link is not ready");
}

/// What the test expects of the next frame.
type Seen = (Message, Body, Option<Vec<u8>>);

fn take(connection: &mut Connection) -> Result<Seen, LinkError> {
    let start = Instant::now();
    loop {
        if let Some(frame) = connection.next_frame()? {
            return Ok((frame.message, frame.body, frame.page.map(|page| page.to_vec())));
        }
        assert!(start.elapsed() < HANG, "no frame came");
        wait_for(connection, PollFlags::IN);
        connection.fill()?;
    }
}

#[test]
fn frames_and_pages_come_out_as_they_went_in() {
    for (name, near, far) in pairs() {
        let (mut near, mut far) = (Connection::new(near), Connection::new(far));
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
fn a_frame_in_pieces_is_put_together() {
    for (name, mut near, far) in pairs() {
        let mut far = Connection::new(far);
        let mut bytes = wire::encode(&grant(9), false).to_vec();
        bytes.extend(std::iter::repeat_n(0xa5, PAGE_BYTES));
        for piece in bytes.chunks(1000) {
            assert!(far.next_frame().expect("no error").is_none(), "{name}: the frame is not whole yet");
            assert_eq!(near.send(piece).expect("send"), piece.len());
            wait_for(&far, PollFlags::IN);
            far.fill().expect("fill");
        }
        assert_eq!(take(&mut far).expect("frame"), (grant(9), Body::Page, Some(vec![0xa5; PAGE_BYTES])));
    }
}

#[test]
fn what_the_link_does_not_take_waits_in_order() {
    for (name, near, far) in pairs() {
        let (mut near, mut far) = (Connection::new(near), Connection::new(far));
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
        assert!(near.counts().blocked > 0, "{name}: the test must fill the socket");
        while taken < frames {
            let _ = near.flush().expect("flush");
            let (message, _, page) = take(&mut far).expect("frame");
            let mut expected = [0; PAGE_BYTES];
            fill_page(&mut expected, taken + 1).expect("always");
            assert_eq!((message, page), (grant(taken), Some(expected.to_vec())), "{name}");
            taken += 1;
        }
        assert!(!near.has_queued());
    }
}

#[test]
fn a_peer_that_does_not_read_is_given_up() {
    for (name, near, _far) in pairs() {
        let mut near = Connection::new(near);
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
        assert!(matches!(error, LinkError::Congested { .. }), "{name}: {error}");
    }
}

#[test]
fn a_page_that_cannot_be_read_sends_nothing() {
    for (_, near, far) in pairs() {
        let (mut near, mut far) = (Connection::new(near), Connection::new(far));
        assert_eq!(near.queue_page(&grant(1), |_| Err("gone")).expect("room"), Err("gone"));
        near.queue(&request(2)).expect("room");
        assert_eq!(near.flush().expect("flush"), Flushed::All);
        assert_eq!(take(&mut far).expect("frame").0, request(2));
    }
}

#[test]
fn a_closed_link_and_a_bad_frame_are_errors() {
    for (name, mut near, far) in pairs() {
        let mut far = Connection::new(far);
        assert!(near.send(&[0xff; 32]).is_ok());
        assert!(matches!(take(&mut far), Err(LinkError::Frame(_))), "{name}");
    }
    for (name, near, far) in pairs() {
        let mut far = Connection::new(far);
        drop(near);
        assert!(matches!(take(&mut far), Err(LinkError::Closed | LinkError::Broken(_))), "{name}");
    }
}

#[test]
fn reading_an_idle_link_does_not_block() {
    for (name, near, _far) in pairs() {
        let mut near = Connection::new(near);
        near.fill().expect("nothing is no error");
        assert!(near.next_frame().expect("no error").is_none(), "{name}");
    }
}
