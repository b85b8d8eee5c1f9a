//! Messages as bytes: little-endian numbers, and strings with two bytes of length in front.

use rustix::io::Errno;

/// Bytes in front of every message: its length, its type, its tag.
pub(super) const HEADER_BYTES: usize = 7;

/// A file as the protocol tells it from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Qid {
    /// What kind of file it is: QTDIR, QTSYMLINK or 0.
    pub kind: u8,
    /// Changes when the file does.
    pub version: u32,
    /// Its inode's number.
    pub path: u64,
}

/// Takes a message apart. Whatever is missing is an error.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        self.bytes(N)?.try_into().map_err(|_| Errno::INVAL)
    }

    pub fn byte(&mut self) -> Result<u8, Errno> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn half(&mut self) -> Result<u16, Errno> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn word(&mut self) -> Result<u32, Errno> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn long(&mut self) -> Result<u64, Errno> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn string(&mut self) -> Result<&'a [u8], Errno> {
        let length = self.half()?;
        self.bytes(length.into())
    }
}

/// Puts an answer together.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// An answer of this type to the message with this tag. Its length is filled in at the [end](Writer::end).
    pub fn new(kind: u8, tag: u16) -> Self {
        let mut writer = Writer::default();
        writer.word(0).byte(kind).half(tag);
        writer
    }

    pub fn byte(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub fn half(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn word(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn long(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A string; one that is too long for its length is cut. (None is: the host's names and links are shorter.)
    pub fn string(&mut self, text: &[u8]) -> &mut Self {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.half(length).bytes(&text[..usize::from(length)])
    }

    /// A run of bytes with four bytes of length in front.
    pub fn data(&mut self, data: &[u8]) -> &mut Self {
        // (It is never longer than a message.)
        self.word(data.len() as u32).bytes(data)
    }

    pub fn qid(&mut self, qid: Qid) -> &mut Self {
        self.byte(qid.kind).word(qid.version).long(qid.path)
    }

    /// What was put together, without a length.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The whole answer.
    pub fn end(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}
