//! A Unix stream socket with a length before each frame, as passt and QEMU's `-netdev stream` speak it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::backend::{NetBackend, Offload, Sent, FRAME_BYTES_MAX, HEADER_BYTES};
use super::error::NetError;

/// Bytes of a frame's length, the highest first.
const LENGTH_BYTES: usize = 4;

/// A socket.
#[derive(Debug)]
pub struct StreamBackend {
    socket: UnixStream,
    /// What has come of the next frame, with its length.
    incoming: Vec<u8>,
    /// What the socket has not taken yet of the last frame.
    outgoing: Vec<u8>,
}

impl StreamBackend {
    /// Connects to the socket at `path`, where passt or the like listens.
    ///
    /// # Errors
    /// When nobody does.
    pub fn connect(path: &Path) -> Result<Self, NetError> {
        let connect = || StreamBackend::new(UnixStream::connect(path)?);
        connect().map_err(|source| NetError::Backend {
            what: format!("the network at {}", path.display()),
            source,
        })
    }

    /// A socket that is connected.
    ///
    /// # Errors
    /// When it cannot be kept from blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(StreamBackend { socket, incoming: Vec::new(), outgoing: Vec::new() })
    }

    /// Reads until `bytes` bytes of the frame are there; `false` when they have not all come.
    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.incoming.len() < bytes {
            let start = self.incoming.len();
            self.incoming.resize(bytes, 0);
            let read = self.socket.read(&mut self.incoming[start..]);
            self.incoming.truncate(start + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl NetBackend for StreamBackend {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn offload(&self) -> Offload {
        Offload::None
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.fill(LENGTH_BYTES)? {
            return Ok(None);
        }
        let Some(&length) = self.incoming.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        let place = into.get_mut(..HEADER_BYTES + length).filter(|_| length <= FRAME_BYTES_MAX);
        let Some(place) = place else {
            // What follows cannot be told from frames.
            return Err(io::Error::other(format!("a frame of {length} bytes is announced")));
        };
        if !self.fill(LENGTH_BYTES + length)? {
            return Ok(None);
        }
        let (header, frame) = place.split_at_mut(HEADER_BYTES);
        header.fill(0);
        frame.copy_from_slice(&self.incoming[LENGTH_BYTES..]);
        self.incoming.clear();
        Ok(Some(HEADER_BYTES + length))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Sent> {
        if self.flush()? == Sent::Later {
            return Ok(Sent::Later);
        }
        let frame = frame.get(HEADER_BYTES..).unwrap_or_default();
        // (The caller has bounded it.)
        self.outgoing.extend((frame.len() as u32).to_be_bytes());
        self.outgoing.extend(frame);
        // What the socket does not take now goes out before the next frame.
        self.flush().map(|_| Sent::Done)
    }

    fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn flush(&mut self) -> io::Result<Sent> {
        while !self.outgoing.is_empty() {
            match self.socket.write(&self.outgoing) {
                Ok(count) => {
                    self.outgoing.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Later),
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::Done)
    }
}
