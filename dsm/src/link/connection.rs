//! Frames over a [`Link`], and over the next one when it breaks.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::session::{is_idle, Epoch, Greeting, Refused, Session, SessionError, Side, Stale, Stamp, IDLE};
use super::Link;
use crate::ids::PAGE_BYTES;
use crate::protocol::{Message, Micros};
use crate::wire::{self, Body, WireError, ACK_OFFSET, FRAME_BYTES, SEQ_OFFSET};

/// Bytes of a frame with a page, the longest there is.
const LONGEST_BYTES: usize = FRAME_BYTES + PAGE_BYTES;
/// Room for what has come in: some frames, so that one system call fetches them all.
const INBOX_BYTES: usize = 32 * LONGEST_BYTES;

/// Why a connection is of no use any more, or its link is not.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The peer closed the link.
    #[error("the connection was closed")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// What came is not a frame.
    #[error("a frame is malformed: {0}")]
    Frame(#[from] WireError),
    /// Frames are missing or come twice, or the peer does not read what it is sent.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl LinkError {
    /// Whether only the link has ended: over another one the connection can go on.
    pub fn is_end_of_link(&self) -> bool {
        matches!(self, LinkError::Closed | LinkError::Broken(_))
    }
}

/// What has gone through a connection.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct LinkCounts {
    /// Frames received.
    pub messages_in: u64,
    /// Frames sent (or waiting to be).
    pub messages_out: u64,
    /// Bytes received, headers included.
    pub bytes_in: u64,
    /// Bytes that the link took, headers included.
    pub bytes_out: u64,
    /// Pages received with their bytes.
    pub pages_in: u64,
    /// Pages sent with their bytes.
    pub pages_out: u64,
    /// Pages received that are all zero and came without bytes.
    pub zero_pages_in: u64,
    /// Pages sent that are all zero and went without bytes.
    pub zero_pages_out: u64,
    /// How often the link took less than there was to send.
    pub blocked: u64,
    /// Frames sent that only confirm what was received.
    pub idle_out: u64,
    /// How often the connection went on over a new link.
    pub resumed: u64,
}

impl LinkCounts {
    /// Adds another connection's counts to these.
    pub fn merge(&mut self, other: &LinkCounts) {
        self.messages_in += other.messages_in;
        self.messages_out += other.messages_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.pages_in += other.pages_in;
        self.pages_out += other.pages_out;
        self.zero_pages_in += other.zero_pages_in;
        self.zero_pages_out += other.zero_pages_out;
        self.blocked += other.blocked;
        self.idle_out += other.idle_out;
        self.resumed += other.resumed;
    }
}

/// A frame that came in.
#[derive(Debug)]
pub struct Received<'a> {
    /// What it says.
    pub message: Message,
    /// Whether a page came with it.
    pub body: Body,
    /// The page's bytes, if `body` is [`Body::Page`].
    pub page: Option<&'a [u8; PAGE_BYTES]>,
}

/// Whether all that was queued has gone out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Flushed {
    /// All that can go: with no link, that is nothing.
    All,
    /// The rest waits until the link is writable.
    Blocked,
}

/// A [`Session`] with its link and its buffers. Nothing here blocks, and nothing is allocated once the buffers have
/// grown to what the traffic needs.
pub struct Connection {
    session: Session,
    link: Option<Box<dyn Link>>,
    inbox: Box<[u8]>,
    /// The part of `inbox` that has come in and is not yet taken.
    filled: std::ops::Range<usize>,
    counts: LinkCounts,
}

impl Connection {
    /// Frames over `link`, the first one of a session.
    pub fn new(link: Box<dyn Link>, side: Side) -> Self {
        Connection {
            session: Session::new(side),
            link: Some(link),
            inbox: vec![0; INBOX_BYTES].into_boxed_slice(),
            filled: 0..0,
            counts: LinkCounts::default(),
        }
    }

    /// The descriptor to watch, if there is a link; see [`Link::descriptor`].
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.descriptor())
    }

    /// How the session stands.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// What has gone through so far.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// The link is of no use any more: gives it back, to be dropped. What has not been confirmed is kept for the next
    /// one.
    pub fn broke(&mut self, now: Micros) -> Option<Box<dyn Link>> {
        self.session.broke(now);
        // What came and was not taken comes again.
        self.filled = 0..0;
        self.link.take()
    }

    /// The peer was dialled, in this epoch, and this is the link to it. Frames go as soon as it has answered.
    ///
    /// # Errors
    /// See [`Session::dialled`]; the link is dropped.
    pub fn dialled(&mut self, link: Box<dyn Link>, epoch: Epoch) -> Result<(), Stale> {
        self.session.dialled(epoch)?;
        self.link = Some(link);
        Ok(())
    }

    /// The peer has dialled, with this greeting, and this is the link to it. Gives back the old link, if it still had
    /// one, from which nothing more is taken.
    ///
    /// # Errors
    /// See [`Session::accept`]; the new link is dropped.
    pub fn accept(
        &mut self,
        link: Box<dyn Link>,
        greeting: Greeting,
        now: Micros,
    ) -> Result<Option<Box<dyn Link>>, Refused> {
        self.session.accept(greeting, now)?;
        // What came over the old link and was not taken comes again.
        self.filled = 0..0;
        self.counts.resumed += 1;
        Ok(self.link.replace(link))
    }

    /// Takes from the link what fits, in one call. The frames are then to be taken with [`Connection::next_frame`] until
    /// there is none.
    ///
    /// # Errors
    /// [`LinkError::Closed`] or [`LinkError::Broken`]: the end of the link.
    pub fn fill(&mut self) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        // At most one unfinished frame is left over from the last time.
        self.inbox.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        if self.filled.end == self.inbox.len() {
            return Ok(());
        }
        match link.receive(&mut self.inbox[self.filled.end..]) {
            Ok(0) => Err(LinkError::Closed),
            Ok(bytes) => {
                self.filled.end += bytes;
                self.counts.bytes_in += bytes as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(LinkError::Broken(error)),
        }
    }

    /// The next whole frame of those that have come in.
    ///
    /// # Errors
    /// [`LinkError::Frame`] or [`LinkError::Session`]: the peer is of no use any more.
    pub fn next_frame(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        loop {
            let Some((header, rest)) = self.inbox[self.filled.clone()].split_first_chunk::<FRAME_BYTES>()
            else {
                return Ok(None);
            };
            if self.session.expects_greeting() {
                self.session.greeted(Greeting::decode(header)?)?;
                self.counts.resumed += 1;
                self.filled.start += header.len();
                continue;
            }
            if is_idle(header) {
                self.session.take_frame(stamp_of(header), header.len())?;
                self.filled.start += header.len();
                continue;
            }
            let frame = wire::decode(header)?;
            let page = match frame.body {
                Body::None | Body::ZeroPage => None,
                Body::Page => match rest.first_chunk::<PAGE_BYTES>() {
                    Some(page) => Some(page),
                    None => return Ok(None),
                },
            };
            let bytes = FRAME_BYTES + page.map_or(0, |page| page.len());
            self.session.take_frame(stamp_of(header), bytes)?;
            self.filled.start += bytes;
            self.counts.messages_in += 1;
            self.counts.pages_in += u64::from(frame.body == Body::Page);
            self.counts.zero_pages_in += u64::from(frame.body == Body::ZeroPage);
            return Ok(Some(Received { message: frame.message, body: frame.body, page }));
        }
    }

    /// Queues a message that carries no page.
    ///
    /// # Errors
    /// [`SessionError::Congested`].
    pub fn queue(&mut self, message: &Message) -> Result<(), LinkError> {
        self.queue_header(wire::encode(message, false))?;
        self.counts.messages_out += 1;
        Ok(())
    }

    fn queue_header(&mut self, header: [u8; FRAME_BYTES]) -> Result<(), LinkError> {
        self.session.check_room(FRAME_BYTES)?;
        let header = stamped(header, self.session.stamp());
        Ok(self.session.queue(&header)?)
    }

    /// Queues a message with a page, whose bytes `read` puts straight to where they are kept and sent from. A page of
    /// zeros travels without bytes.
    ///
    /// # Errors
    /// [`SessionError::Congested`] as the outer error, what `read` reports as the inner one.
    pub fn queue_page<E>(
        &mut self,
        message: &Message,
        read: impl FnOnce(&mut [u8; PAGE_BYTES]) -> Result<(), E>,
    ) -> Result<Result<(), E>, LinkError> {
        self.session.check_room(LONGEST_BYTES)?;
        let header = stamped(wire::encode(message, false), self.session.stamp());
        let read = |bytes: &mut [u8]| {
            // (The session gives what it was asked for: a page.)
            let Some(page) = bytes.first_chunk_mut::<PAGE_BYTES>() else { return Ok(()) };
            read(page).map_err(Unsent::Unread)?;
            match is_zero(page) {
                true => Err(Unsent::Zero),
                false => Ok(()),
            }
        };
        match self.session.queue_with(&header, PAGE_BYTES, read)? {
            Ok(()) => self.counts.pages_out += 1,
            Err(Unsent::Zero) => {
                self.queue_header(wire::encode(message, true))?;
                self.counts.zero_pages_out += 1;
            }
            Err(Unsent::Unread(error)) => return Ok(Err(error)),
        }
        self.counts.messages_out += 1;
        Ok(Ok(()))
    }

    /// Queues a confirmation of what was received, if the peer waits for one and nothing else is on its way to it;
    /// whether that was so. To be called when the frames that have come in are handled.
    ///
    /// # Errors
    /// [`SessionError::Congested`].
    pub fn confirm(&mut self) -> Result<bool, LinkError> {
        if !self.session.owes_confirmation() {
            return Ok(false);
        }
        self.queue_header(IDLE)?;
        self.counts.idle_out += 1;
        Ok(true)
    }

    /// Gives the link what is queued, as much as it takes.
    ///
    /// # Errors
    /// [`LinkError::Broken`]: the end of the link.
    pub fn flush(&mut self) -> Result<Flushed, LinkError> {
        let Some(link) = &mut self.link else { return Ok(Flushed::All) };
        while self.session.has_pending() {
            let [preamble, first, second] = self.session.pending();
            let parts = [preamble, first, second].map(IoSlice::new);
            let (from, to) = (usize::from(preamble.is_empty()), 3 - usize::from(second.is_empty()));
            match link.send(&parts[from..to]) {
                Ok(bytes) => {
                    self.session.took(bytes);
                    self.counts.bytes_out += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.counts.blocked += 1;
                    return Ok(Flushed::Blocked);
                }
                Err(error) => return Err(LinkError::Broken(error)),
            }
        }
        Ok(Flushed::All)
    }
}

/// Why a page's bytes are not sent.
enum Unsent<E> {
    /// It is all zeros.
    Zero,
    /// It could not be read.
    Unread(E),
}

fn stamped(mut header: [u8; FRAME_BYTES], stamp: Stamp) -> [u8; FRAME_BYTES] {
    header[SEQ_OFFSET..SEQ_OFFSET + 4].copy_from_slice(&stamp.seq.to_le_bytes());
    header[ACK_OFFSET..ACK_OFFSET + 4].copy_from_slice(&stamp.ack.to_le_bytes());
    header
}

pub(super) fn stamp_of(header: &[u8; FRAME_BYTES]) -> Stamp {
    let field = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&header[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    Stamp { seq: field(SEQ_OFFSET), ack: field(ACK_OFFSET) }
}

/// Whether all bytes are zero.
fn is_zero(page: &[u8; PAGE_BYTES]) -> bool {
    // Most pages that are not zero show it early.
    page.chunks_exact(64).all(|line| line.iter().fold(0, |seen, byte| seen | byte) == 0)
}
