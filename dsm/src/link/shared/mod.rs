//! A link through memory that two processes share, for nodes on one machine.
//!
//! Bytes go through two [rings](ring) in one memfd. Beside it there is a Unix socket: over it comes the memfd; later each byte
//! in it is a bell that wakes who waits; and its end is the end of the link, however the other process died. As long as both
//! sides have something to do, a frame costs no system call.

mod memory;
mod ring;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use self::ring::{Direction, Moved, Reader, Writer};
use super::{Link, RoomSign};

/// Bells that are taken at once; there are never more than a few unless the other side plays.
const BELLS: usize = 64;

/// Shared memory as a link.
#[derive(Debug)]
pub struct SharedLink {
    socket: UnixStream,
    inbound: Reader,
    outbound: Writer,
    /// The other side has gone; what it sent before may still be in the ring.
    ended: bool,
}

impl SharedLink {
    /// Makes the memory, and gives it to who is at the other end of the socket. That one calls [`SharedLink::join`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn offer(socket: UnixStream) -> io::Result<Self> {
        let memory = memory::make()?;
        let region = memory::map(memory.try_clone()?)?;
        ring::prepare(&region)?;
        memory::give(&socket, &memory)?;
        Ok(SharedLink {
            socket,
            inbound: Reader::new(region.clone(), Direction::ToMaker),
            outbound: Writer::new(region, Direction::FromMaker),
            ended: false,
        })
    }

    /// Takes the memory that who is at the other end of the socket gives until the deadline.
    ///
    /// # Errors
    /// If none comes, or it is not what a link needs.
    pub fn join(socket: UnixStream, by: Instant) -> io::Result<Self> {
        await_input(&socket, by)?;
        let region = memory::map(memory::receive(&socket)?)?;
        Ok(SharedLink {
            socket,
            inbound: Reader::new(region.clone(), Direction::FromMaker),
            outbound: Writer::new(region, Direction::ToMaker),
            ended: false,
        })
    }

    fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Moved { bytes, ring } = self.inbound.take(into)?;
        if ring {
            self.ring();
        }
        Ok(bytes)
    }

    fn put(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Moved { bytes, ring } = self.outbound.put(parts)?;
        if ring {
            self.ring();
        }
        Ok(bytes)
    }

    /// Wakes the other side. If it is gone, the next attempt to take or to put in shows it; if it takes no bell, it has
    /// some.
    fn ring(&self) {
        let _gone = rustix::net::send(&self.socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Takes the bells that have rung: whoever waits again is woken by new ones only.
    fn silence(&mut self) -> io::Result<()> {
        loop {
            match rustix::net::recv(&self.socket, &mut [0; BELLS], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => self.ended = true,
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            return Ok(());
        }
    }

    /// Whether the other side has gone, without touching its bells.
    fn is_deserted(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        self.ended || poll(&mut fds, Some(&at_once)).is_ok_and(|_| fds[0].revents().intersects(gone))
    }
}

impl Link for SharedLink {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn room_sign(&self) -> RoomSign {
        RoomSign::Readable
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut taken = self.take(into)?;
        if taken == into.len() {
            return Ok(taken);
        }
        // The caller may wait now. In this order: a bell that rings from here on wakes it.
        self.silence()?;
        self.inbound.wait_for_bytes()?;
        taken += self.take(&mut into[taken..])?;
        match taken {
            0 if self.ended => Ok(0),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        }
    }

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let put = self.put(parts)?;
        if put > 0 || parts.iter().all(|part| part.is_empty()) {
            return Ok(put);
        }
        if self.is_deserted() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.outbound.wait_for_room()?;
        match self.put(parts)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            put => Ok(put),
        }
    }
}

/// Waits until there is something to read, or the end.
fn await_input(socket: &UnixStream, by: Instant) -> io::Result<()> {
    loop {
        let left = by.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests;
