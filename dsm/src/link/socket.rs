//! Stream sockets as links.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use super::Link;

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

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        send(self.0.as_fd(), parts)
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

    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        send(self.0.as_fd(), parts)
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

fn send(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    // NOSIGNAL: a peer that is gone is an error to report, not a signal that ends the process.
    let once = || match parts {
        // The common case costs less without a message header.
        [part] => rustix::net::send(socket, part, SendFlags::NOSIGNAL),
        parts => {
            let mut control = SendAncillaryBuffer::default();
            rustix::net::sendmsg(socket, parts, &mut control, SendFlags::NOSIGNAL)
        }
    };
    loop {
        match once() {
            Ok(bytes) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
