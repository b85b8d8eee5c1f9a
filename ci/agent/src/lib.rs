//! What `cargo xtask` and the agent inside a lab host say to each other.
//!
//! One TCP connection carries one request: either a command ([`Kind::Run`], whose output and exit status come
//! back) or a file ([`Kind::Put`]). Both sides speak in frames: one byte of [`Kind`], the payload's length as
//! a little-endian `u32`, the payload. Everything is binary safe; nothing is bigger than [`MAX_PAYLOAD`].
//!
//! There is no authentication: the port is reachable only from the lab's own machine through 127.0.0.1, and
//! what it opens is a throw-away virtual machine.

use std::io::{self, Read, Write};

/// The TCP port that the agent listens on inside the lab host.
pub const PORT: u16 = 7071;

/// The largest payload of one frame, in bytes; longer input is split by the sender.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client: run a program. The payload is the program and its arguments, each ended by a zero byte.
    Run = b'R',
    /// Client: write a file. The payload is the mode (little-endian `u32`) and the path.
    Put = b'P',
    /// Client: bytes of the command's standard input, or of the file.
    Data = b'D',
    /// Client: no more bytes.
    End = b'E',
    /// Agent: bytes of the command's standard output.
    Out = b'O',
    /// Agent: bytes of the command's standard error.
    Err = b'e',
    /// Agent: the command ended, or the file is written. The payload is a little-endian `i32`: the exit
    /// status, or 128 plus the number of the signal.
    Exit = b'X',
    /// Agent: the request could not be carried out. The payload is the reason as text.
    Failed = b'F',
}

impl Kind {
    fn from_byte(byte: u8) -> io::Result<Self> {
        let all =
            [Self::Run, Self::Put, Self::Data, Self::End, Self::Out, Self::Err, Self::Exit, Self::Failed];
        all.into_iter().find(|kind| *kind as u8 == byte).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("frame of unknown kind {byte:#04x}"))
        })
    }
}

/// Writes one frame.
///
/// # Errors
/// `InvalidInput` if the payload is longer than [`MAX_PAYLOAD`]; else what the writer says.
pub fn write_frame(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    if payload.len() > MAX_PAYLOAD {
        let text = format!("payload of {} bytes, {MAX_PAYLOAD} allowed", payload.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.push(kind as u8);
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(payload);
    to.write_all(&frame)
}

/// Reads one frame.
///
/// # Errors
/// `InvalidData` for an unknown kind or a length above [`MAX_PAYLOAD`]; else what the reader says
/// (`UnexpectedEof` when the other side has gone).
pub fn read_frame(from: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0_u8; 5];
    from.read_exact(&mut head)?;
    let kind = Kind::from_byte(head[0])?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > MAX_PAYLOAD {
        let text = format!("frame of {len} bytes, {MAX_PAYLOAD} allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// The payload of [`Kind::Run`].
pub fn encode_command(command: &[String]) -> Vec<u8> {
    command.iter().flat_map(|word| word.bytes().chain(std::iter::once(0))).collect()
}

/// The program and its arguments from the payload of [`Kind::Run`].
///
/// # Errors
/// `InvalidData` if it is empty, not ended by a zero byte, or not UTF-8.
pub fn decode_command(payload: &[u8]) -> io::Result<Vec<String>> {
    let bad = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let words = payload.strip_suffix(&[0]).ok_or_else(|| bad("command without its final zero byte"))?;
    let words = std::str::from_utf8(words).map_err(|_| bad("command is not UTF-8"))?;
    Ok(words.split('\0').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_written() {
        let mut wire = Vec::new();
        write_frame(&mut wire, Kind::Out, b"a\0\xff\n").unwrap();
        write_frame(&mut wire, Kind::End, b"").unwrap();
        let mut from = wire.as_slice();
        assert_eq!(read_frame(&mut from).unwrap(), (Kind::Out, b"a\0\xff\n".to_vec()));
        assert_eq!(read_frame(&mut from).unwrap(), (Kind::End, Vec::new()));
        assert_eq!(read_frame(&mut from).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_that_is_too_long_or_unknown_is_refused() {
        let too_long = [b'O', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(read_frame(&mut too_long.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let unknown = [0_u8; 5];
        assert_eq!(read_frame(&mut unknown.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let payload = vec![0; MAX_PAYLOAD + 1];
        assert!(write_frame(&mut io::sink(), Kind::Data, &payload).is_err());
    }

    #[test]
    fn a_command_keeps_empty_arguments_and_spaces() {
        let command = ["sh", "-c", "", "a b"].map(str::to_owned).to_vec();
        assert_eq!(decode_command(&encode_command(&command)).unwrap(), command);
        assert!(decode_command(b"").is_err());
        assert!(decode_command(b"sh").is_err());
        assert!(decode_command(b"\xff\0").is_err());
    }
}
