//! The messages of 9P2000.L that a client sends (Linux, include/net/9p/9p.h; the diod project's protocol.md has their fields).

use rustix::io::Errno;

use super::wire::Reader;

/// Most names in one walk (P9_MAXWELEM).
const WALK_MAX: usize = 16;
/// Most bytes of a name (NAME_MAX).
const NAME_BYTES_MAX: usize = 255;

/// The name of something in a folder: neither the folder itself, nor the one above, nor a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Name(Vec<u8>);

impl Name {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Errno> {
        let name = reader.string()?;
        match name {
            b"" | b"." | b".." => Err(Errno::INVAL),
            name if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(Errno::INVAL),
            name if name.len() > NAME_BYTES_MAX => Err(Errno::NAMETOOLONG),
            name => Ok(Name(name.to_vec())),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A number that the client has given to a file.
pub(super) type Fid = u32;

/// What of a file is to be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attributes {
    /// Which of them: P9_SETATTR_*.
    pub valid: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub accessed: (u64, u64),
    pub modified: (u64, u64),
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Request<'a> {
    Version { message_bytes: u32, version: &'a [u8] },
    Flush,
    Attach { fid: Fid },
    Walk { fid: Fid, new: Fid, names: Vec<Name> },
    Open { fid: Fid, flags: u32 },
    Create { fid: Fid, name: Name, flags: u32, mode: u32 },
    Read { fid: Fid, offset: u64, count: u32 },
    Write { fid: Fid, offset: u64, data: &'a [u8] },
    Clunk { fid: Fid },
    Remove { fid: Fid },
    ReadFolder { fid: Fid, offset: u64, count: u32 },
    FileSystem { fid: Fid },
    Attributes { fid: Fid },
    SetAttributes { fid: Fid, attributes: Attributes },
    Sync { fid: Fid, data_only: bool },
    MakeFolder { folder: Fid, name: Name, mode: u32 },
    MakeLink { folder: Fid, fid: Fid, name: Name },
    MakeSymlink { folder: Fid, name: Name, target: &'a [u8] },
    ReadSymlink { fid: Fid },
    Rename { from: (Fid, Name), to: (Fid, Name) },
    RenameFid { fid: Fid, folder: Fid, name: Name },
    Unlink { folder: Fid, name: Name, flags: u32 },
    Lock { fid: Fid },
    TellLock { fid: Fid, start: u64, length: u64, process: u32, client: &'a [u8] },
}

impl<'a> Request<'a> {
    /// Takes a message of this type apart.
    ///
    /// # Errors
    /// EINVAL when something is missing or makes no sense, EOPNOTSUPP for what this server does not do.
    pub fn read(kind: u8, body: &'a [u8]) -> Result<Self, Errno> {
        let mut reader = Reader(body);
        let from = &mut reader;
        Ok(match kind {
            8 => Request::FileSystem { fid: from.word()? },
            12 => Request::Open { fid: from.word()?, flags: from.word()? },
            14 => {
                let (fid, name) = (from.word()?, Name::read(from)?);
                Request::Create { fid, name, flags: from.word()?, mode: from.word()? }
            }
            16 => {
                let (folder, name) = (from.word()?, Name::read(from)?);
                Request::MakeSymlink { folder, name, target: from.string()? }
            }
            20 => Request::RenameFid { fid: from.word()?, folder: from.word()?, name: Name::read(from)? },
            22 => Request::ReadSymlink { fid: from.word()? },
            24 => Request::Attributes { fid: from.word()? },
            26 => {
                let (fid, attributes) = (from.word()?, Attributes::read(from)?);
                Request::SetAttributes { fid, attributes }
            }
            40 => Request::ReadFolder { fid: from.word()?, offset: from.long()?, count: from.word()? },
            50 => Request::Sync { fid: from.word()?, data_only: from.word()? != 0 },
            52 => Request::Lock { fid: from.word()? },
            54 => {
                let (fid, _kind) = (from.word()?, from.byte()?);
                let (start, length, process) = (from.long()?, from.long()?, from.word()?);
                Request::TellLock { fid, start, length, process, client: from.string()? }
            }
            70 => Request::MakeLink { folder: from.word()?, fid: from.word()?, name: Name::read(from)? },
            72 => Request::MakeFolder { folder: from.word()?, name: Name::read(from)?, mode: from.word()? },
            74 => {
                let old = (from.word()?, Name::read(from)?);
                Request::Rename { from: old, to: (from.word()?, Name::read(from)?) }
            }
            76 => Request::Unlink { folder: from.word()?, name: Name::read(from)?, flags: from.word()? },
            100 => Request::Version { message_bytes: from.word()?, version: from.string()? },
            104 => Request::Attach { fid: from.word()? },
            108 => Request::Flush,
            110 => {
                let (fid, new, count) = (from.word()?, from.word()?, usize::from(from.half()?));
                if count > WALK_MAX {
                    return Err(Errno::INVAL);
                }
                let names = (0..count).map(|_| Name::read(from)).collect::<Result<_, _>>()?;
                Request::Walk { fid, new, names }
            }
            116 => Request::Read { fid: from.word()?, offset: from.long()?, count: from.word()? },
            118 => {
                let (fid, offset, count) = (from.word()?, from.long()?, from.word()?);
                Request::Write { fid, offset, data: from.bytes(count as usize)? }
            }
            120 => Request::Clunk { fid: from.word()? },
            122 => Request::Remove { fid: from.word()? },
            // Authentication, device files, extended attributes, and what is no message.
            _ => return Err(Errno::OPNOTSUPP),
        })
    }
}

impl Attributes {
    fn read(from: &mut Reader<'_>) -> Result<Self, Errno> {
        Ok(Attributes {
            valid: from.word()?,
            mode: from.word()?,
            uid: from.word()?,
            gid: from.word()?,
            size: from.long()?,
            accessed: (from.long()?, from.long()?),
            modified: (from.long()?, from.long()?),
        })
    }
}
