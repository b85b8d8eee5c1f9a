//! Frames: a length (u32, little endian), then that many bytes of postcard.
//!
//! A reader takes bytes only as they arrive, so that a peer which announces a large frame and sends nothing
//! costs nothing, and it never reads behind the frame, so that a socket can change hands between two frames.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::Serialize;
use tessera_dsm::link::session::SessionError;
use thiserror::Error;

/// Most bytes in a frame's body.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of a large file that go in one frame.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Bytes taken from a socket in one read.
const READ_BYTES: usize = 64 << 10;
/// Bytes of a frame's length.
pub(super) const LENGTH_BYTES: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The other side closed the connection between two frames.
    #[error("connection closed")]
    Closed,
    /// The other side closed the connection inside a frame.
    #[error("connection closed inside a frame, {have} of {want} bytes in")]
    Truncated {
        /// Bytes that arrived.
        have: usize,
        /// Bytes that were announced.
        want: usize,
    },
    /// The deadline passed. Bytes that arrived are kept: reading may go on.
    #[error("no answer in time")]
    TimedOut,
    /// The frame is larger than this place accepts.
    #[error("frame of {bytes} bytes, the most is {most}")]
    TooLarge {
        /// Announced size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The bytes are not what this place expects.
    #[error("frame of {bytes} bytes is not understood")]
    Malformed {
        /// Size of the body.
        bytes: usize,
    },
    /// The value cannot be written as a frame.
    #[error("cannot encode a frame: {0}")]
    Encode(postcard::Error),
    /// A frame is not the next one, or the other side does not take what it is sent; see [`super::line`].
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The operating system refused.
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
}

impl FrameError {
    /// Whether the other side did what it must not, rather than that the connection ended.
    pub fn is_fault(&self) -> bool {
        matches!(self, FrameError::Malformed { .. } | FrameError::TooLarge { .. } | FrameError::Session(_))
    }
}

/// An I/O error in the words of a log line: the usual network causes by name, without error numbers.
pub fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "connection closed".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer in time".into(),
        io::ErrorKind::HostUnreachable => "host unreachable".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        _ => error.to_string(),
    }
}

/// A byte stream whose reads can be given a time limit.
pub trait Stream: Read + Write {
    /// Limits each following read to `limit`; `None` waits for ever.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
}

impl Stream for &TcpStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
}

impl Stream for UnixStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
}

/// Decodes the body of one frame; bytes behind the value are refused.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(FrameError::Malformed { bytes: body.len() }),
    }
}

/// One frame with its length, ready to be written.
///
/// # Errors
/// When the value is too large or cannot be encoded.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, FrameError> {
    encode_behind(0, value)
}

/// As [`encode`], with so many zero bytes in front of the value, for the caller to fill in.
///
/// # Errors
/// When the value is too large or cannot be encoded.
pub(super) fn encode_behind<T: Serialize + ?Sized>(prefix: usize, value: &T) -> Result<Vec<u8>, FrameError> {
    let frame = postcard::to_extend(value, vec![0; LENGTH_BYTES + prefix]).map_err(FrameError::Encode)?;
    seal(frame)
}

/// Puts the length into the first four bytes of `frame`, which were left for it.
///
/// # Errors
/// When the body is too large.
pub(super) fn seal(mut frame: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let bytes = frame.len() - LENGTH_BYTES;
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes, most: FRAME_BYTES_MAX });
    }
    frame[..LENGTH_BYTES].copy_from_slice(&(bytes as u32).to_le_bytes());
    Ok(frame)
}

/// Encodes `value` and writes it in one call.
///
/// # Errors
/// When the value is too large or the stream fails.
pub fn write<T: Serialize + ?Sized>(stream: &mut impl Write, value: &T) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(value)?)?)
}

/// Reads frames from a stream and keeps what arrived of one that is not whole yet.
#[derive(Debug)]
pub struct FrameReader<S> {
    stream: S,
    /// Length and body of the frame that is being read, as far as it has arrived.
    partial: Vec<u8>,
    most: usize,
}

impl<S: Stream> FrameReader<S> {
    /// Reads frames of up to [`FRAME_BYTES_MAX`] from `stream`.
    pub fn new(stream: S) -> Self {
        FrameReader::with_limit(stream, FRAME_BYTES_MAX)
    }

    /// Reads frames whose body has up to `most` bytes.
    pub fn with_limit(stream: S, most: usize) -> Self {
        FrameReader { stream, partial: Vec::new(), most }
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Gives the stream back. Nothing behind the last frame was taken from it.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// The next frame, decoded. Waits for ever without a deadline.
    ///
    /// # Errors
    /// [`FrameError::TimedOut`] leaves the reader usable; after every other error the connection is of no
    /// use.
    pub fn read<T: DeserializeOwned>(&mut self, deadline: Option<Instant>) -> Result<T, FrameError> {
        decode(&self.read_body(deadline)?)
    }

    /// The next frame's body.
    ///
    /// # Errors
    /// As [`FrameReader::read`].
    pub fn read_body(&mut self, deadline: Option<Instant>) -> Result<Vec<u8>, FrameError> {
        loop {
            let want = self.wanted()?;
            if self.partial.len() >= LENGTH_BYTES && self.partial.len() == want {
                let mut frame = std::mem::take(&mut self.partial);
                return Ok(frame.split_off(LENGTH_BYTES));
            }
            self.fill(want, deadline)?;
        }
    }

    /// How many bytes the frame has with its length, as far as that is known.
    fn wanted(&self) -> Result<usize, FrameError> {
        let Some(length) = self.partial.first_chunk::<LENGTH_BYTES>() else { return Ok(LENGTH_BYTES) };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes > self.most {
            return Err(FrameError::TooLarge { bytes, most: self.most });
        }
        Ok(LENGTH_BYTES + bytes)
    }

    /// Reads once, no further than `want` bytes in all.
    fn fill(&mut self, want: usize, deadline: Option<Instant>) -> Result<(), FrameError> {
        let limit = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Err(FrameError::TimedOut),
            // The kernel counts in microseconds, and zero would mean no limit.
            Some(left) => Some(left.max(Duration::from_micros(1))),
            None => None,
        };
        self.stream.limit_reads(limit)?;
        let have = self.partial.len();
        self.partial.resize(want.min(have + READ_BYTES), 0);
        let result = self.stream.read(&mut self.partial[have..]);
        self.partial.truncate(have + result.as_ref().map_or(0, |&bytes| bytes));
        match result {
            Ok(0) if have == 0 => Err(FrameError::Closed),
            Ok(0) => Err(FrameError::Truncated { have, want }),
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                // Looped back to: the deadline decides, because a read may end a moment before it.
                io::ErrorKind::WouldBlock => Ok(()),
                _ => Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(50))
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_nothing_behind_them_is_taken() {
        let (mut there, here) = UnixStream::pair().expect("socketpair");
        write(&mut there, &(String::from("one"), 1u32)).expect("write");
        there.write_all(b"rest").expect("write");
        let mut reader = FrameReader::new(here);
        assert_eq!(reader.read::<(String, u32)>(soon()).expect("frame"), ("one".into(), 1));
        let mut rest = [0; 4];
        reader.into_stream().read_exact(&mut rest).expect("what follows is still there");
        assert_eq!(&rest, b"rest");
    }

    #[test]
    fn an_announced_length_above_the_limit_is_refused_at_once() {
        let (mut there, here) = UnixStream::pair().expect("socketpair");
        there.write_all(&u32::MAX.to_le_bytes()).expect("write");
        let error = FrameReader::new(here).read::<String>(None).expect_err("too large");
        assert!(matches!(error, FrameError::TooLarge { bytes: 0xffff_ffff, most: FRAME_BYTES_MAX }));
        assert!(matches!(encode(&vec![0u8; FRAME_BYTES_MAX + 1]), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn bytes_behind_the_value_are_refused() {
        let (mut there, here) = UnixStream::pair().expect("socketpair");
        write(&mut there, &[1u8, 2]).expect("write");
        assert!(matches!(FrameReader::new(here).read::<u8>(soon()), Err(FrameError::Malformed { bytes: 2 })));
    }

    #[test]
    fn a_frame_in_pieces_survives_time_outs_between_them() {
        let (mut there, here) = UnixStream::pair().expect("socketpair");
        let bytes = encode(&String::from("hello")).expect("encode");
        let mut reader = FrameReader::new(here);
        for piece in bytes.chunks(2) {
            assert!(matches!(reader.read::<String>(Some(Instant::now())), Err(FrameError::TimedOut)));
            there.write_all(piece).expect("write");
            if reader.partial.len() + piece.len() < bytes.len() {
                assert!(matches!(reader.read::<String>(soon()), Err(FrameError::TimedOut)));
            }
        }
        assert_eq!(reader.read::<String>(soon()).expect("whole"), "hello");
        drop(there);
        assert!(matches!(reader.read::<String>(soon()), Err(FrameError::Closed)));
    }
}
