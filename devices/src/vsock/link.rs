//! One connection: a Unix socket on one side, the guest on the other.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::flow::{Flow, Overrun};
use super::packet::{NO_RECEIVE, NO_SEND};
use crate::virtio::engine::{Interest, Watcher};

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// A caller on the host waits for the guest to accept.
    Offered,
    /// Both sides are there.
    Open,
}

/// What reading the host's socket gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FromHost {
    /// Some bytes.
    Bytes(Vec<u8>),
    /// Nothing for now.
    Nothing,
    /// The host sends no more.
    End,
}

/// A connection.
pub(super) struct Link {
    pub(super) socket: UnixStream,
    pub(super) stage: Stage,
    pub(super) flow: Flow,
    /// What is listened for on the socket.
    pub(super) interest: Interest,
    /// Bytes of the guest that the socket has not taken yet.
    unsent: VecDeque<u8>,
    /// Bytes of ours in front of them that do not count: the answer to a caller.
    greeting: usize,
    /// It is among those whose socket is to be read.
    pub(super) is_ready: bool,
    /// The guest has no room; it was asked to say when it has.
    pub(super) is_stalled: bool,
    /// The ways that the guest has ended: [`NO_RECEIVE`], [`NO_SEND`].
    guest_ended: u32,
    /// The host sends no more, and the guest was told.
    pub(super) host_ended: bool,
    /// The host's end is closed: the socket is not listened to any more.
    pub(super) is_hung_up: bool,
    /// A packet that tells the guest of its room is on its way.
    pub(super) is_news_due: bool,
}

impl Link {
    pub(super) fn new(socket: UnixStream, stage: Stage) -> Self {
        Link {
            socket,
            stage,
            flow: Flow::default(),
            interest: Interest::None,
            unsent: VecDeque::new(),
            greeting: 0,
            is_ready: false,
            is_stalled: false,
            guest_ended: 0,
            host_ended: false,
            is_hung_up: false,
            is_news_due: false,
        }
    }

    /// Listens for what is wanted now; `false` when that cannot be.
    pub(super) fn listen(&mut self, token: u32, watcher: &mut dyn Watcher) -> bool {
        let wanted = self.wanted();
        if self.is_hung_up || wanted == self.interest {
            return true;
        }
        self.interest = wanted;
        watcher.change(self.socket.as_fd(), token, wanted).is_ok()
    }

    /// Listens no more.
    pub(super) fn forget(&self, watcher: &mut dyn Watcher) {
        if !self.is_hung_up {
            watcher.forget(self.socket.as_fd());
        }
    }

    /// What is to be listened for.
    pub(super) fn wanted(&self) -> Interest {
        let reads = self.stage == Stage::Open && self.may_read() && !self.is_ready && !self.is_stalled;
        match (reads, !self.unsent.is_empty()) {
            (false, false) => Interest::None,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (true, true) => Interest::Both,
        }
    }

    /// Whether the host's socket is to be read at all.
    pub(super) fn may_read(&self) -> bool {
        !self.host_ended && self.guest_ended & NO_RECEIVE == 0
    }

    /// Reads the host's socket.
    pub(super) fn read(&mut self, most: usize) -> io::Result<FromHost> {
        let mut bytes = vec![0; most];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Ok(FromHost::End),
                Ok(count) => {
                    bytes.truncate(count);
                    return Ok(FromHost::Bytes(bytes));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(FromHost::Nothing),
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers a caller.
    pub(super) fn greet(&mut self, text: &str) {
        self.unsent.extend(text.bytes());
        self.greeting += text.len();
    }

    /// Takes bytes of the guest.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> Result<(), Overrun> {
        // (Bounded by the queue's limits.)
        self.flow.receive(bytes.len() as u32)?;
        self.unsent.extend(bytes);
        Ok(())
    }

    /// Passes bytes of the guest on as far as the socket takes them.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match self.socket.write(front) {
                Ok(count) => {
                    self.unsent.drain(..count);
                    let own = count.min(self.greeting);
                    self.greeting -= own;
                    self.flow.pass_on((count - own) as u32);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.guest_ended & NO_SEND != 0 {
            // It fails only when the other end is gone.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// The guest ends one or both ways.
    pub(super) fn end(&mut self, ways: u32) {
        self.guest_ended |= ways & (NO_RECEIVE | NO_SEND);
    }

    /// Whether the guest has ended both ways, and all that it sent went on.
    pub(super) fn is_over(&self) -> bool {
        self.guest_ended == NO_RECEIVE | NO_SEND && self.unsent.is_empty()
    }
}
