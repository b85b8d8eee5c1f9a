//! What the session itself says on a link.
//!
//! A greeting comes before the first frame of every link but the first, and is no frame: it has no position.
//!
//! | offset | bytes | greeting |
//! |---|---|---|
//! | 0 | 1 | [`KIND_GREETING`] |
//! | 1 | 3 | zero |
//! | 4 | 4 | epoch |
//! | 8 | 8 | position up to which its sender has received |
//! | 16 | 16 | zero |
//!
//! An idle frame is a frame of [`crate::wire`] of kind [`KIND_IDLE`] and nothing else; it is there for what every frame
//! carries at [`crate::wire::ACK_OFFSET`].

use serde::{Deserialize, Serialize};

use super::{Epoch, SessionError};
use crate::wire::{ACK_OFFSET, FRAME_BYTES, SEQ_OFFSET};

/// Bytes of a greeting.
pub const GREETING_BYTES: usize = 32;
/// The first byte of a greeting; no kind of message has it.
const KIND_GREETING: u8 = 0xf0;
/// The first byte of an idle frame; likewise.
const KIND_IDLE: u8 = 0xf1;

/// What a side says when a session goes on over a new link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// The link.
    pub epoch: Epoch,
    /// Up to where the side has received: the position of the first frame that it needs.
    pub received: u64,
}

impl Greeting {
    /// The greeting as it lies on the link.
    pub fn encode(self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[0] = KIND_GREETING;
        bytes[4..8].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.received.to_le_bytes());
        bytes
    }

    /// The greeting in these bytes.
    ///
    /// # Errors
    /// [`SessionError::NoGreeting`] if [`Greeting::encode`] cannot have made them.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, SessionError> {
        let [.., e0, e1, e2, e3] = *bytes.first_chunk::<8>().unwrap_or(&[0; 8]);
        let received = bytes[4..].first_chunk::<12>().map_or(0, |chunk| {
            let [_, _, _, _, rest @ ..] = *chunk;
            u64::from_le_bytes(rest)
        });
        let greeting = Greeting { epoch: Epoch(u32::from_le_bytes([e0, e1, e2, e3])), received };
        match greeting.encode() == *bytes {
            true => Ok(greeting),
            false => Err(SessionError::NoGreeting),
        }
    }
}

/// An idle frame, to be stamped.
pub const IDLE: [u8; FRAME_BYTES] = {
    let mut bytes = [0; FRAME_BYTES];
    bytes[0] = KIND_IDLE;
    bytes
};

/// Whether this header is an idle frame.
pub fn is_idle(header: &[u8; FRAME_BYTES]) -> bool {
    // What is stamped on it may be anything.
    const _: () = assert!(SEQ_OFFSET < ACK_OFFSET);
    header[..SEQ_OFFSET] == IDLE[..SEQ_OFFSET]
}
