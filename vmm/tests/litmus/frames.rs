//! Frames in a stream of bytes, for tests that sit between nodes.

use tessera_dsm::wire::{self, Body, Frame, FRAME_BYTES};
use tessera_dsm::PAGE_BYTES;

/// The first frame and its length, if all of it is there.
pub fn first_frame(bytes: &[u8]) -> Option<(Frame, usize)> {
    let header = bytes.first_chunk::<FRAME_BYTES>()?;
    let frame = wire::decode(header).expect("nodes send frames");
    let length = FRAME_BYTES + if frame.body == Body::Page { PAGE_BYTES } else { 0 };
    (bytes.len() >= length).then_some((frame, length))
}
