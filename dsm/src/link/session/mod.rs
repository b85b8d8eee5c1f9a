//! A session: frames between two nodes that outlive the connections they go over.
//!
//! The protocol above needs first in, first out, exactly once, between each two nodes; a TCP connection promises that
//! only as long as it lives. A [`Session`] keeps the bytes of every frame until the other side has confirmed that it
//! took them, and when a connection has broken and there is a new one, both sides say how much they have received and
//! go on from there. So a page that its sender has given up is not lost with a connection.
//!
//! It is pure: time, bytes and what happens to links come in, what to send comes out. `Connection` drives it for
//! pages; the workers' control connections are driven by `tessera_vmm`.
//!
//! **Positions.** What one side sends is one endless string of frames; a *position* is a number of bytes from its
//! beginning. Each frame carries two of them ([`Stamp`]): where it begins, and up to where its sender has received.
//! Both are the low 32 bits, which say enough because no more than [`UNCONFIRMED_BYTES_MAX`] are ever under way.
//!
//! **Epochs.** The first link is epoch 1. One side dials, always the same ([`Side`]). Each attempt has a new epoch, so
//! that an attempt that was given up and arrives late is known as such:
//! ```text
//! dials                                  accepts
//! broke                                  broke, or knows nothing of it yet
//! redial: Greeting{epoch, received} ---> accept: newer than what it has? then it drops its old link for this one
//!                       greeted <------- Greeting{epoch, received}, then frames from where the dialler is
//! frames from where the other is ------> first frame: both know that the link works
//! ```
//! The dialler's greeting travels with the request for the connection (see `tessera_vmm::control::hello`), the answer
//! is the first thing on the link. Neither side takes anything from an old link after it has said what it received.
//!
//! **The end.** If no link has been seen to work for the limit that its driver sets, the peer is lost
//! ([`Session::in_trouble_since`]). A link that was set up and broke again without an answer does not prolong that.

#![forbid(unsafe_code)]

mod frames;
mod resend;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::NodeId;
use crate::protocol::Micros;
use resend::ResendBuffer;

pub(super) use frames::{is_idle, IDLE};
pub use frames::{Greeting, GREETING_BYTES};

/// The most bytes that may be kept for one peer because it has not confirmed them. Every page among them answers a
/// request of that peer, and a node has at most a few requests out for each vCPU: a peer that lets this much pile up is
/// not reading.
pub const UNCONFIRMED_BYTES_MAX: usize = 16 << 20;
/// What is received without being confirmed by the way before it is confirmed by a frame of its own.
const CONFIRM_BYTES: u64 = 32 << 10;

/// Which of the two sides sets up a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// This one.
    Dials,
    /// The other.
    Accepts,
}

impl Side {
    /// The side of `me`: of two nodes the one with the higher number dials, as it did for their first connection.
    pub fn of(me: NodeId, peer: NodeId) -> Self {
        match me > peer {
            true => Side::Dials,
            false => Side::Accepts,
        }
    }
}

/// The number of a link within a session. Greater is later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The link with which a session begins.
    pub const FIRST: Epoch = Epoch(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Epoch(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// What every frame carries for the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    /// Where the frame begins.
    pub seq: u32,
    /// Up to where its sender has received.
    pub ack: u32,
}

/// What a peer did that no session does, or cannot be done for it. The peer is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SessionError {
    /// A frame is not the next one.
    #[error("a frame begins at {found:#x}, not at {expected:#x}: something was lost or came twice")]
    Gap {
        /// Where the next frame begins.
        expected: u32,
        /// Where this one does.
        found: u32,
    },
    /// The peer confirms what is not there to be sent to it.
    #[error("it has received {received:#x}, of {queued:#x} that there are")]
    NeverSent {
        /// What it says.
        received: u64,
        /// What there is.
        queued: u64,
    },
    /// The peer has forgotten what it confirmed.
    #[error("it has received only {received:#x}, after it confirmed {confirmed:#x}")]
    Forgotten {
        /// What it says now.
        received: u64,
        /// What it said before.
        confirmed: u64,
    },
    /// A greeting was due.
    #[error("it begins without a greeting")]
    NoGreeting,
    /// The greeting is for another link.
    #[error("it greets for {found}, this link is {expected}")]
    WrongEpoch {
        /// This link.
        expected: Epoch,
        /// What it says.
        found: Epoch,
    },
    /// Too much is kept for it already.
    #[error("{waiting} bytes wait for it to confirm them, more than {UNCONFIRMED_BYTES_MAX}: it does not read them")]
    Congested {
        /// Bytes kept.
        waiting: usize,
    },
}

/// A link that comes too late, because it is not newer than the one in use. Close it; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a connection of {offered}, the last one was {current}")]
pub struct Stale {
    /// What was offered.
    pub offered: Epoch,
    /// What is known.
    pub current: Epoch,
}

/// Why a link is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// It comes too late; the session goes on.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The peer contradicts itself; the session is over.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// What there is to go over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum State {
    /// Nothing.
    Down,
    /// A link, on which the other side's greeting has not come yet. Nothing is sent, since it is not known from where.
    Greeting,
    /// A link; frames go.
    Open,
}

/// One side of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Session {
    side: Side,
    state: State,
    epoch: Epoch,
    /// Since when no link has been seen to work.
    trouble: Option<Micros>,
    /// What is sent first on this link, and how much of it is.
    preamble: Option<([u8; GREETING_BYTES], usize)>,
    /// From what the peer has confirmed to the last frame.
    unconfirmed: ResendBuffer,
    /// Up to where this link has taken it.
    sent: u64,
    received: u64,
    /// What the peer has been told of `received`.
    told: u64,
    /// The peer must hear something soon, so that it knows of the link.
    confirm: bool,
}

impl Session {
    /// A session whose first link is there.
    pub fn new(side: Side) -> Self {
        Session {
            side,
            state: State::Open,
            epoch: Epoch::FIRST,
            trouble: None,
            preamble: None,
            unconfirmed: ResendBuffer::new(),
            sent: 0,
            received: 0,
            told: 0,
            confirm: false,
        }
    }

    /// Which side this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The link in use, or the last one.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether there is a link.
    pub fn has_link(&self) -> bool {
        self.state != State::Down
    }

    /// Since when no link has been seen to work both ways; `None` if the present one has.
    pub fn in_trouble_since(&self) -> Option<Micros> {
        self.trouble
    }

    // Links.

    /// The link has ended, or must not be used any more. What came over it and was not given to
    /// [`Session::take_frame`] is to be forgotten: it comes again.
    pub fn broke(&mut self, now: Micros) {
        self.state = State::Down;
        self.preamble = None;
        self.trouble.get_or_insert(now);
    }

    /// What to say to the other side when dialling it: for the first attempt. Each further one takes the
    /// [next](Epoch::next) epoch. `None` while there is a link, or if it is the other side that dials.
    pub fn redial(&self) -> Option<Greeting> {
        let mine = self.side == Side::Dials && self.state == State::Down;
        mine.then(|| Greeting { epoch: self.epoch.next(), received: self.received })
    }

    /// The other side was reached with the greeting of [`Session::redial`], in this epoch. Frames go when it has
    /// answered.
    ///
    /// # Errors
    /// If this attempt is not newer than the last one, or nobody waits for it.
    pub fn dialled(&mut self, epoch: Epoch) -> Result<(), Stale> {
        if self.side != Side::Dials || self.state != State::Down || epoch <= self.epoch {
            return Err(Stale { offered: epoch, current: self.epoch });
        }
        self.state = State::Greeting;
        self.epoch = epoch;
        Ok(())
    }

    /// Whether the next thing on the link is the other side's greeting.
    pub fn expects_greeting(&self) -> bool {
        self.state == State::Greeting
    }

    /// The other side has answered the dialler.
    ///
    /// # Errors
    /// If it contradicts what it said before.
    pub fn greeted(&mut self, greeting: Greeting) -> Result<(), SessionError> {
        if greeting.epoch != self.epoch {
            return Err(SessionError::WrongEpoch { expected: self.epoch, found: greeting.epoch });
        }
        self.resume_from(greeting.received)?;
        self.trouble = None;
        self.confirm = true;
        Ok(())
    }

    /// The other side has dialled. If the result is `Ok`, the new link takes the place of the old one, which must be
    /// dropped with all that came over it and was not taken.
    ///
    /// # Errors
    /// If the attempt is not newer than the link that is known, or the peer contradicts what it said before.
    pub fn accept(&mut self, greeting: Greeting, now: Micros) -> Result<(), Refused> {
        if self.side != Side::Accepts || greeting.epoch <= self.epoch {
            return Err(Stale { offered: greeting.epoch, current: self.epoch }.into());
        }
        self.resume_from(greeting.received)?;
        self.epoch = greeting.epoch;
        self.trouble.get_or_insert(now);
        let answer = Greeting { epoch: self.epoch, received: self.received };
        self.preamble = Some((answer.encode(), 0));
        Ok(())
    }

    /// Sends from here on what the peer has not received.
    fn resume_from(&mut self, received: u64) -> Result<(), SessionError> {
        let confirmed = self.unconfirmed.start();
        if received < confirmed {
            return Err(SessionError::Forgotten { received, confirmed });
        }
        let queued = self.unconfirmed.end();
        if received > queued {
            return Err(SessionError::NeverSent { received, queued });
        }
        self.unconfirmed.release(received);
        self.sent = received;
        // Both greetings say it.
        self.told = self.received;
        self.state = State::Open;
        Ok(())
    }

    // Sending.

    /// Whether `bytes` more may be queued.
    ///
    /// # Errors
    /// [`SessionError::Congested`].
    pub fn check_room(&self, bytes: usize) -> Result<(), SessionError> {
        let waiting = self.unconfirmed.len();
        match waiting + bytes <= UNCONFIRMED_BYTES_MAX {
            true => Ok(()),
            false => Err(SessionError::Congested { waiting }),
        }
    }

    /// What the next frame to be queued must carry. It counts as said: the frame must follow.
    pub fn stamp(&mut self) -> Stamp {
        self.told = self.received;
        self.confirm = false;
        Stamp { seq: self.unconfirmed.end() as u32, ack: self.received as u32 }
    }

    /// Queues a whole frame, stamped with [`Session::stamp`].
    ///
    /// # Errors
    /// [`SessionError::Congested`].
    pub fn queue(&mut self, frame: &[u8]) -> Result<(), SessionError> {
        self.check_room(frame.len())?;
        self.unconfirmed.push(frame);
        Ok(())
    }

    /// Queues a frame of a stamped `header` and a body of `bytes` bytes that `write` puts where it is kept. If `write`
    /// fails, nothing is queued.
    ///
    /// # Errors
    /// [`SessionError::Congested`] as the outer error, that of `write` as the inner one.
    pub fn queue_with<E>(
        &mut self,
        header: &[u8],
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, SessionError> {
        self.check_room(header.len() + bytes)?;
        let before = self.unconfirmed.end();
        self.unconfirmed.push(header);
        let written = self.unconfirmed.push_with(bytes, write);
        if written.is_err() {
            self.unconfirmed.truncate(before);
        }
        Ok(written)
    }

    /// What the link is to be given next: parts that belong one behind the other, possibly empty.
    pub fn pending(&self) -> [&[u8]; 3] {
        let preamble = self.preamble.as_ref().map_or(&[][..], |(bytes, sent)| &bytes[*sent..]);
        let [first, second] = match self.state {
            State::Open => self.unconfirmed.parts(self.sent),
            State::Down | State::Greeting => [&[][..]; 2],
        };
        [preamble, first, second]
    }

    /// Whether there is something for the link.
    pub fn has_pending(&self) -> bool {
        self.preamble.is_some()
            || self.state == State::Open && self.sent.max(self.unconfirmed.start()) < self.unconfirmed.end()
    }

    /// The link has taken this many bytes of what is [pending](Session::pending).
    pub fn took(&mut self, mut bytes: usize) {
        if let Some((preamble, sent)) = &mut self.preamble {
            let now = bytes.min(preamble.len() - *sent);
            *sent += now;
            bytes -= now;
            if *sent == preamble.len() {
                self.preamble = None;
            }
        }
        self.sent = self.unconfirmed.end().min(self.sent + bytes as u64);
    }

    /// Bytes that the peer has not confirmed, whether they were sent or not.
    pub fn unconfirmed_bytes(&self) -> usize {
        self.unconfirmed.len()
    }

    // Receiving.

    /// A whole frame of `bytes` bytes came, and goes on to whom it is for.
    ///
    /// # Errors
    /// If it is not the next one, or confirms what was never sent. It must not go on.
    pub fn take_frame(&mut self, stamp: Stamp, bytes: usize) -> Result<(), SessionError> {
        if self.state != State::Open {
            return Err(SessionError::NoGreeting);
        }
        let expected = self.received as u32;
        if stamp.seq != expected {
            return Err(SessionError::Gap { expected, found: stamp.seq });
        }
        let confirmed = self.unconfirmed.start();
        // Frames that are sent again carry what was true when they were first queued: less than is known by now.
        let more = i64::from(stamp.ack.wrapping_sub(confirmed as u32) as i32);
        if more > 0 {
            // (A thread that writes may not have told yet what the link took: what is queued is the limit.)
            let (received, queued) = (confirmed + more as u64, self.unconfirmed.end());
            if received > queued {
                return Err(SessionError::NeverSent { received, queued });
            }
            self.unconfirmed.release(received);
        }
        self.received += bytes as u64;
        self.trouble = None;
        Ok(())
    }

    /// Whether the peer should hear soon of what was received, by a frame that carries nothing else.
    pub fn owes_confirmation(&self) -> bool {
        self.confirm || self.received.saturating_sub(self.told) >= CONFIRM_BYTES
    }
}
