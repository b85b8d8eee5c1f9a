//! How frames travel between nodes.
//!
//! A [`Link`] moves bytes to and from one peer without ever blocking; a [`Connection`] makes frames of them, and goes on
//! where it was when its link breaks and there is another ([`session`]). The pager knows only these two, so another
//! transport needs no more than another `Link`, which must pass the one suite of tests that all of them pass
//! (`dsm/src/link/tests/conformance.rs`).
//!
//! On the wire: [`crate::wire::FRAME_BYTES`] of header, then the 4096 bytes of the page if the header says
//! [`Body::Page`](crate::wire::Body::Page). Order is kept, and nothing is lost or comes twice. `docs/links.md` has more.

mod connection;
pub mod session;
mod shared;
mod socket;

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

pub use connection::{Connection, Filled, Flushed, LinkCounts, LinkError, Received};
pub use shared::SharedLink;
pub use socket::{TcpLink, UnixLink};

/// How the descriptor of a link tells that there is room again after [`Link::send`] found none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoomSign {
    /// It becomes writable.
    Writable,
    /// It becomes readable, as for bytes that have come: whoever waits for room takes what has come first, and then tries
    /// to send. It always says that it is writable.
    Readable,
}

/// A reliable, ordered stream of bytes to one peer that never blocks.
///
/// Bytes come out once and in the order in which they went in, in pieces of any size. A call that would have to wait
/// fails with [`io::ErrorKind::WouldBlock`]. What the peer has not taken out is bounded: then `send` takes no more.
pub trait Link: Send {
    /// The descriptor whose readiness `epoll` tells: readable when [`Link::receive`] may give something, or the end;
    /// for room see [`Link::room_sign`]. It may tell in vain now and then. It need not tell of bytes that were left behind by
    /// a `receive` that had no room for more: who takes goes on until there is less than it has room for.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// How the descriptor tells that [`Link::send`] may take something, after it took nothing.
    fn room_sign(&self) -> RoomSign {
        RoomSign::Writable
    }

    /// Takes bytes that have come in. `Ok(0)` means that the peer has closed the link and all that it sent before
    /// has been taken.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; anything else is the end of the link.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Gives bytes to the link, one part behind the other; returns how many of them it took, which may end inside a
    /// part. The parts need not lie together: a page can go from where it is.
    ///
    /// # Errors
    /// `WouldBlock` if it takes none now; anything else is the end of the link.
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
}

#[cfg(test)]
pub(crate) mod tests;
