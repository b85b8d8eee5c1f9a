//! Where frames come from and go to.

use std::io;
use std::os::fd::BorrowedFd;

/// Bytes in front of every frame (struct virtio_net_hdr_v1; virtio 1.2, 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// Most bytes of a frame: what a guest may send that leaves the cutting to the host.
pub const FRAME_BYTES_MAX: usize = 65_550;

/// What is in front of a frame: what the host is to do with it.
pub type FrameHeader = [u8; HEADER_BYTES];

/// What a back end does for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Nothing: frames must be as they are to be on the wire.
    None,
    /// It computes sums and cuts long frames, as the header says.
    SumsAndCutting,
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is on its way, or was dropped for good.
    Done,
    /// There is no room: try again when the descriptor can be written.
    Later,
}

/// Where frames come from and go to. Nothing here waits.
pub trait NetBackend: Send {
    /// What to listen to.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// What it does for the guest.
    fn offload(&self) -> Offload;

    /// The next frame with its header, at the front of `into`, which has room for the longest; its length. `None` when
    /// there is none.
    ///
    /// # Errors
    /// When there will never be one again.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends a frame with its header.
    ///
    /// # Errors
    /// When none will ever be sent again.
    fn send(&mut self, frame: &[u8]) -> io::Result<Sent>;

    /// Whether a part of a frame waits until the descriptor can be written.
    fn has_unsent(&self) -> bool {
        false
    }

    /// The descriptor can be written: sends what was begun.
    ///
    /// # Errors
    /// As [`NetBackend::send`].
    fn flush(&mut self) -> io::Result<Sent> {
        Ok(Sent::Done)
    }
}
