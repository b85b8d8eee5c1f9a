//! A tap device of the host.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::backend::{NetBackend, Offload, Sent};

/// A tap device. Frames come and go with the header that the guest uses too.
#[derive(Debug)]
pub struct TapBackend(OwnedFd);

impl TapBackend {
    /// The tap device behind a descriptor that does not block, has headers of [`HEADER_BYTES`](super::HEADER_BYTES), and
    /// gives frames that are complete (no `TUN_F_` is set).
    pub fn new(descriptor: OwnedFd) -> Self {
        TapBackend(descriptor)
    }
}

impl NetBackend for TapBackend {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn offload(&self) -> Offload {
        Offload::SumsAndCutting
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.0, into) {
            Ok(count) => Ok(Some(count)),
            // It is down.
            Err(Errno::WOULDBLOCK | Errno::INTR | Errno::IO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<Sent> {
        match rustix::io::write(&self.0, frame) {
            Err(Errno::WOULDBLOCK) => Ok(Sent::Later),
            // It is down, or the frame is none: a wire would lose it too.
            Ok(_) | Err(Errno::IO | Errno::INVAL | Errno::INTR) => Ok(Sent::Done),
            Err(errno) => Err(errno.into()),
        }
    }
}
