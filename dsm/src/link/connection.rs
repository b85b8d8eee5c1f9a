//! Frames over a [`Link`].

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Link;
use crate::ids::PAGE_BYTES;
use crate::protocol::Message;
use crate::wire::{self, Body, WireError, FRAME_BYTES};

/// Bytes of a frame with a page, the longest there is.
const LONGEST_BYTES: usize = FRAME_BYTES + PAGE_BYTES;
/// Room for what has come in: some frames, so that one system call fetches them all.
const INBOX_BYTES: usize = 16 * LONGEST_BYTES;
/// Room for what goes out before it has to grow.
const OUTBOX_BYTES: usize = 64 * LONGEST_BYTES;
/// The most that may wait to go out to one peer. Every page that waits there answers a request of that peer, and a
/// node has at most a few requests out for each vCPU: a peer that lets this much pile up is not reading.
pub const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// Why a connection is of no use any more.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The peer closed it.
    #[error("the connection was closed")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// What came is not a frame.
    #[error("a frame is malformed: {0}")]
    Frame(#[from] WireError),
    /// The peer does not read what it is sent.
    #[error("{waiting} bytes wait to be sent, more than {OUTBOX_BYTES_MAX}: it does not read them")]
    Congested {
        /// Bytes that wait.
        waiting: usize,
    },
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
    /// All of it.
    All,
    /// The rest waits until the link is writable.
    Blocked,
}

/// A link with its buffers. Nothing here blocks, and nothing is allocated once the outbox has grown to what the
/// traffic needs.
pub struct Connection {
    link: Box<dyn Link>,
    inbox: Box<[u8]>,
    /// The part of `inbox` that has come in and is not yet taken.
    filled: std::ops::Range<usize>,
    outbox: Vec<u8>,
    /// How much of `outbox` the link has taken.
    sent: usize,
    counts: LinkCounts,
}

impl Connection {
    /// Frames over `link`.
    pub fn new(link: Box<dyn Link>) -> Self {
        Connection {
            link,
            inbox: vec![0; INBOX_BYTES].into_boxed_slice(),
            filled: 0..0,
            outbox: Vec::with_capacity(OUTBOX_BYTES),
            sent: 0,
            counts: LinkCounts::default(),
        }
    }

    /// The descriptor to watch; see [`Link::descriptor`].
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.link.descriptor()
    }

    #[cfg(test)]
    pub(super) fn link(&self) -> &dyn Link {
        &*self.link
    }

    /// What has gone through so far.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// Takes from the link what fits, in one call. The frames are then to be taken with [`Connection::next_frame`] until
    /// there is none.
    ///
    /// # Errors
    /// [`LinkError::Closed`] or [`LinkError::Broken`]: the end of the connection.
    pub fn fill(&mut self) -> Result<(), LinkError> {
        // At most one unfinished frame is left over from the last time.
        self.inbox.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        if self.filled.end == self.inbox.len() {
            return Ok(());
        }
        match self.link.receive(&mut self.inbox[self.filled.end..]) {
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
    /// [`LinkError::Frame`] if it is none: the end of the connection.
    pub fn next_frame(&mut self) -> Result<Option<Received<'_>>, LinkError> {
        let Some((header, rest)) = self.inbox[self.filled.clone()].split_first_chunk::<FRAME_BYTES>() else {
            return Ok(None);
        };
        let frame = wire::decode(header)?;
        let page = match frame.body {
            Body::None | Body::ZeroPage => None,
            Body::Page => match rest.first_chunk::<PAGE_BYTES>() {
                Some(page) => Some(page),
                None => return Ok(None),
            },
        };
        self.filled.start += FRAME_BYTES + page.map_or(0, |page| page.len());
        self.counts.messages_in += 1;
        self.counts.pages_in += u64::from(frame.body == Body::Page);
        self.counts.zero_pages_in += u64::from(frame.body == Body::ZeroPage);
        Ok(Some(Received { message: frame.message, body: frame.body, page }))
    }

    /// Queues a message that carries no page.
    ///
    /// # Errors
    /// [`LinkError::Congested`].
    pub fn queue(&mut self, message: &Message) -> Result<(), LinkError> {
        self.check_room(FRAME_BYTES)?;
        self.outbox.extend_from_slice(&wire::encode(message, false));
        self.counts.messages_out += 1;
        Ok(())
    }

    /// Queues a message with a page, whose bytes `read` puts straight into the outbox. A page of zeros travels
    /// without bytes.
    ///
    /// # Errors
    /// [`LinkError::Congested`] as the outer error, what `read` reports as the inner one.
    pub fn queue_page<E>(
        &mut self,
        message: &Message,
        read: impl FnOnce(&mut [u8; PAGE_BYTES]) -> Result<(), E>,
    ) -> Result<Result<(), E>, LinkError> {
        self.check_room(LONGEST_BYTES)?;
        let start = self.outbox.len();
        self.outbox.extend_from_slice(&wire::encode(message, false));
        self.outbox.resize(start + LONGEST_BYTES, 0);
        let page = self.outbox.last_chunk_mut::<PAGE_BYTES>();
        match page.map(|page| read(page).map(|()| is_zero(page))) {
            Some(Ok(true)) => {
                self.outbox.truncate(start);
                self.outbox.extend_from_slice(&wire::encode(message, true));
                self.counts.zero_pages_out += 1;
            }
            // (The outbox was just made long enough: there is a last page.)
            Some(Ok(false)) | None => self.counts.pages_out += 1,
            Some(Err(error)) => {
                self.outbox.truncate(start);
                return Ok(Err(error));
            }
        }
        self.counts.messages_out += 1;
        Ok(Ok(()))
    }

    /// Gives the link what is queued, as much as it takes.
    ///
    /// # Errors
    /// [`LinkError::Broken`]: the end of the connection.
    pub fn flush(&mut self) -> Result<Flushed, LinkError> {
        while self.sent < self.outbox.len() {
            match self.link.send(&[IoSlice::new(&self.outbox[self.sent..])]) {
                Ok(bytes) => {
                    self.sent += bytes;
                    self.counts.bytes_out += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.counts.blocked += 1;
                    return Ok(Flushed::Blocked);
                }
                Err(error) => return Err(LinkError::Broken(error)),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(Flushed::All)
    }

    /// Whether something waits for [`Connection::flush`].
    pub fn has_queued(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Makes sure that `more` bytes may be queued.
    fn check_room(&mut self, more: usize) -> Result<(), LinkError> {
        let waiting = self.outbox.len() - self.sent;
        if waiting + more > OUTBOX_BYTES_MAX {
            return Err(LinkError::Congested { waiting });
        }
        // What was sent already is cut off when it would make the buffer grow, so each byte is moved at most once
        // for each time that the buffer fills up.
        if self.sent > 0 && self.outbox.len() + more > self.outbox.capacity() {
            self.outbox.copy_within(self.sent.., 0);
            self.outbox.truncate(waiting);
            self.sent = 0;
        }
        Ok(())
    }
}

/// Whether all bytes are zero.
fn is_zero(page: &[u8; PAGE_BYTES]) -> bool {
    // Most pages that are not zero show it early.
    page.chunks_exact(64).all(|line| line.iter().fold(0, |seen, byte| seen | byte) == 0)
}
