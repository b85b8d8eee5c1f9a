//! How frames travel between nodes.
//!
//! A [`Link`] moves bytes to and from one peer without ever blocking; a [`Connection`] makes frames of them. The
//! pager knows only these two, so another transport needs no more than another `Link`.
//!
//! On the wire: [`crate::wire::FRAME_BYTES`] of header, then the 4096 bytes of the page if the header says
//! [`Body::Page`](crate::wire::Body::Page). Order is kept; nothing is lost; the end of a link is the end of the guest.

mod connection;

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

pub use connection::{Connection, Flushed, LinkCounts, LinkError, Received, OUTBOX_BYTES_MAX};

/// A reliable, ordered stream of bytes to one peer that never blocks.
///
/// A call that would have to wait fails with [`io::ErrorKind::WouldBlock`].
pub trait Link: Send {
    /// The descriptor whose readiness `epoll` tells: readable when [`Link::receive`] may give something, writable
    /// when [`Link::send`] may take something. A link that buffers for itself must give out all that it has before
    /// it returns fewer bytes than there was room for.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Takes bytes that have come in. `Ok(0)` means that the peer has closed the link.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; anything else is the end of the link.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Gives bytes to the link; returns how many it took.
    ///
    /// # Errors
    /// `WouldBlock` if it takes none now; anything else is the end of the link.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// A TCP connection as a link, without Nagle's delay.
#[derive(Debug)]
pub struct TcpLink(TcpStream);

impl TcpLink {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// If the socket's options cannot be set.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(TcpLink(stream))
    }
}

impl Link for TcpLink {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        receive(self.0.as_fd(), into)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0.as_fd(), bytes)
    }
}

/// A Unix stream socket as a link, for nodes on one host.
#[derive(Debug)]
pub struct UnixLink(UnixStream);

impl UnixLink {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(UnixLink(stream))
    }
}

impl Link for UnixLink {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        receive(self.0.as_fd(), into)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0.as_fd(), bytes)
    }
}

fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(socket, &mut *into, RecvFlags::empty()) {
            Ok((bytes, _)) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // NOSIGNAL: a peer that is gone is an error to report, not a signal that ends the process.
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(bytes) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests;
