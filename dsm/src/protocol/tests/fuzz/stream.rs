//! A link on which anything comes: bytes of any kind, in pieces of any size, up to a sudden end.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::input::Input;
use super::oracle;
use super::world::Features;
use crate::ids::{Gfn, PAGE_BYTES};
use crate::link::session::Side;
use crate::link::{Connection, Link, LinkError, Received};
use crate::protocol::{Access, Message, Txn};
use crate::wire::{self, Body, WireError, ACK_OFFSET, FRAME_BYTES, SEQ_OFFSET};

/// The first byte of a frame that only confirms; all others are zero, but for the link's own fields.
const IDLE: u8 = 0xf1;

/// Gives out what the input says, in the pieces that it says; then the peer closes.
struct Script {
    descriptor: OwnedFd,
    pieces: VecDeque<Vec<u8>>,
}

impl Link for Script {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(mut piece) = self.pieces.pop_front() else { return Ok(0) };
        if piece.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = piece.len().min(into.len());
        into[..taken].copy_from_slice(&piece[..taken]);
        if taken < piece.len() {
            self.pieces.push_front(piece.split_off(taken));
        }
        Ok(taken)
    }

    fn send(&mut self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Reads the input as what a peer sends; gives all of it, and the same in pieces.
fn script(input: &mut Input<'_>) -> (Vec<u8>, VecDeque<Vec<u8>>) {
    let mut all = Vec::new();
    let mut pieces = VecDeque::new();
    while !input.is_empty() && pieces.len() < 64 {
        let mut piece = match input.below(7) {
            0 => input.bytes::<FRAME_BYTES>().to_vec(),
            1 => (0..input.below(64)).map(|_| input.byte()).collect(),
            2 => Vec::new(),
            kind => frame(input, kind, all.len() as u32),
        };
        if input.below(8) == 0 {
            // A frame that is cut, or ends in something else.
            piece.truncate(usize::from(input.byte()) * 17);
        }
        all.extend_from_slice(&piece);
        let cut = usize::from(input.byte()) * 32 % (piece.len() + 1);
        let rest = piece.split_off(cut);
        pieces.extend([piece, rest]);
    }
    (all, pieces)
}

/// A frame that is right at position `seq`, or nearly so.
fn frame(input: &mut Input<'_>, kind: usize, seq: u32) -> Vec<u8> {
    let (gfn, txn) = (Gfn(u64::from(input.byte())), Txn(u32::from(input.byte())));
    let message = match kind {
        3 => Message::Done { gfn, txn },
        _ => Message::Grant { gfn, txn, rights: Access::Write, page: true, acks: input.byte() % 32 },
    };
    let mut bytes = wire::encode(&message, kind == 4).to_vec();
    if kind == 6 {
        bytes = [IDLE].into_iter().chain([0; FRAME_BYTES - 1]).collect();
    }
    bytes[SEQ_OFFSET..ACK_OFFSET].copy_from_slice(&seq.to_le_bytes());
    if input.below(8) == 0 {
        bytes[input.below(FRAME_BYTES)] ^= input.byte();
    }
    if kind == 5 {
        bytes.extend(std::iter::repeat_n(input.byte(), PAGE_BYTES));
    }
    bytes
}

/// What should come out next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Expected {
    /// A message, with the digest of its page if one follows.
    Frame(Message, Option<u64>),
    /// The bytes are no frame: which field is wrong.
    NoFrame(WireError),
    /// The frame is not the next one, or confirms what was never sent.
    NotNext,
    /// The peer has closed, perhaps in the middle of a frame.
    End,
}

/// Reads what is sent the plain way, all of it at hand.
fn expected(all: &[u8]) -> Vec<Expected> {
    let (mut at, mut frames) = (0, Vec::new());
    while let Some(header) = all[at..].first_chunk::<FRAME_BYTES>() {
        let field = |offset: usize| {
            header[offset..offset + 4].iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte))
        };
        // Nothing was sent, so nothing can be confirmed; what was confirmed long ago (here: before the beginning, in a
        // number that wraps round) says nothing.
        let is_next = field(SEQ_OFFSET) == at as u32 && field(ACK_OFFSET) as i32 <= 0;
        let is_idle = header[0] == IDLE && header[1..SEQ_OFFSET].iter().all(|&byte| byte == 0);
        if is_idle && is_next {
            at += FRAME_BYTES;
            continue;
        }
        let frame = match wire::decode(header) {
            _ if is_idle => return ended(frames, Expected::NotNext),
            Err(error) => return ended(frames, Expected::NoFrame(error)),
            Ok(frame) => frame,
        };
        let body = if frame.body == Body::Page { PAGE_BYTES } else { 0 };
        let Some(page) = all[at + FRAME_BYTES..].get(..body) else { break };
        if !is_next {
            return ended(frames, Expected::NotNext);
        }
        frames.push(Expected::Frame(frame.message, (body > 0).then(|| oracle::digest(&page))));
        at += FRAME_BYTES + body;
    }
    ended(frames, Expected::End)
}

fn ended(mut frames: Vec<Expected>, end: Expected) -> Vec<Expected> {
    frames.push(end);
    frames
}

/// What came out.
fn seen(outcome: Result<Received<'_>, LinkError>) -> Expected {
    match outcome {
        Ok(received) => {
            Expected::Frame(received.message, received.page.map(|page| oracle::digest(&&page[..])))
        }
        Err(LinkError::Frame(error)) => Expected::NoFrame(error),
        Err(LinkError::Session(_)) => Expected::NotNext,
        Err(LinkError::Closed | LinkError::Broken(_)) => Expected::End,
    }
}

/// Frames come out as they went in, whole and in order, until the first that is none or not the next one.
pub fn run(bytes: &[u8]) -> (Features, Result<(), String>) {
    let (all, pieces) = script(&mut Input::new(bytes));
    let Ok(descriptor) = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC) else {
        return (Features::new(), Err("no descriptor".to_owned()));
    };
    let mut connection = Connection::new(Box::new(Script { descriptor, pieces }), Side::Accepts);
    let expected = expected(&all);
    let features = expected.iter().map(kind_of).collect();
    for (number, expected) in expected.iter().enumerate() {
        let seen = next(&mut connection);
        if seen != *expected {
            return (features, Err(format!("number {number}: {seen:?} in place of {expected:?}")));
        }
    }
    (features, Ok(()))
}

/// The next thing that comes out, however many pieces it takes.
fn next(connection: &mut Connection) -> Expected {
    loop {
        match connection.next_frame() {
            Ok(Some(received)) => return seen(Ok(received)),
            Err(error) => return seen(Err(error)),
            Ok(None) => {}
        }
        if let Err(error) = connection.fill() {
            return seen(Err(error));
        }
    }
}

/// What makes runs differ.
fn kind_of(expected: &Expected) -> u64 {
    match expected {
        Expected::Frame(message, page) => {
            oracle::digest(&(message.kind(), message.carries_page(), page.is_some()))
        }
        Expected::NoFrame(WireError::Kind(_)) => 0,
        Expected::NoFrame(WireError::Field { kind, field, .. }) => oracle::digest(&(*kind, *field)),
        Expected::NotNext => 1,
        Expected::End => 2,
    }
}
