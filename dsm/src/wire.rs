//! The protocol's messages as bytes: one fixed 32-byte little-endian header, then the page if one travels.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | kind of message, [`Kind`] |
//! | 1 | 1 | flags: 1 page follows, 2 page is all zeros and does not follow, 4 requester holds a copy |
//! | 2 | 1 | access or rights: 0 none, 1 read, 2 write; in a directory: 1 untouched, 2 whole, 3 split |
//! | 3 | 1 | acknowledgements to wait for |
//! | 4 | 1 | requester; in a directory, the node that it names; the new home |
//! | 5 | 3 | zero |
//! | 8 | 8 | guest frame number |
//! | 16 | 4 | transaction, or a home's term |
//! | 20 | 4 | turn, or who has a page, the lowest bit for node 0 |
//! | 24 | 4 | where the frame begins, for the link ([`SEQ_OFFSET`]) |
//! | 28 | 4 | up to where its sender has received, for the link ([`ACK_OFFSET`]) |
//!
//! A field that a kind of message does not use is zero. [`decode`] refuses everything that [`encode`] cannot have
//! made (the link's two fields may hold anything), so a frame has one meaning and a message one form.

#![forbid(unsafe_code)]

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Gfn, NodeId, NodeSet, NODES_MAX};
use crate::protocol::{Access, DirectoryState, Message, Term, Turn, Txn};

/// Bytes of a header.
pub const FRAME_BYTES: usize = 32;
/// Where the link puts the frame's own position ([`crate::link::session`]), 4 bytes little-endian. [`encode`] leaves it
/// zero, [`decode`] ignores it.
pub const SEQ_OFFSET: usize = 24;
/// Where the link puts the position up to which it has received, like [`SEQ_OFFSET`].
pub const ACK_OFFSET: usize = 28;

const FLAG_PAGE: u8 = 1;
const FLAG_ZERO_PAGE: u8 = 2;
const FLAG_HELD: u8 = 4;

/// The first byte of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`Message::Request`]
    Request = 1,
    /// [`Message::GrantExtent`]
    GrantExtent = 2,
    /// [`Message::AlreadyYours`]
    AlreadyYours = 3,
    /// [`Message::Recall`]
    Recall = 4,
    /// [`Message::Invalidate`]
    Invalidate = 5,
    /// [`Message::Grant`]
    Grant = 6,
    /// [`Message::Invalidated`]
    Invalidated = 7,
    /// [`Message::Done`]
    Done = 8,
    /// [`Message::Hurry`]
    Hurry = 9,
    /// [`Message::Merge`]
    Merge = 10,
    /// [`Message::Directory`]
    Directory = 11,
    /// [`Message::DirectoryEntry`]
    DirectoryEntry = 12,
    /// [`Message::NewHome`]
    NewHome = 13,
    /// [`Message::HomeKnown`]
    HomeKnown = 14,
    /// [`Message::Moved`]
    Moved = 15,
}

impl Kind {
    const ALL: [Kind; 15] = [
        Kind::Request,
        Kind::GrantExtent,
        Kind::AlreadyYours,
        Kind::Recall,
        Kind::Invalidate,
        Kind::Grant,
        Kind::Invalidated,
        Kind::Done,
        Kind::Hurry,
        Kind::Merge,
        Kind::Directory,
        Kind::DirectoryEntry,
        Kind::NewHome,
        Kind::HomeKnown,
        Kind::Moved,
    ];
}

/// A header as it lies in the buffer.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    kind: u8,
    flags: u8,
    access: u8,
    acks: u8,
    requester: u8,
    reserved: [u8; 3],
    gfn: U64,
    txn: U32,
    turn: U32,
    seq: U32,
    ack: U32,
}

const _: () = assert!(size_of::<Header>() == FRAME_BYTES);
const _: () = assert!(std::mem::offset_of!(Header, seq) == SEQ_OFFSET);
const _: () = assert!(std::mem::offset_of!(Header, ack) == ACK_OFFSET);

/// What follows a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing; the message carries no page.
    None,
    /// [`PAGE_BYTES`](crate::ids::PAGE_BYTES) bytes, the page.
    Page,
    /// Nothing; the page that the message carries is all zeros.
    ZeroPage,
}

/// A decoded header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What the peer says.
    pub message: Message,
    /// What comes behind the header.
    pub body: Body,
}

/// Why 32 bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// The first byte names no message.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// A field holds a value that it cannot have in this kind of message.
    #[error("frame of kind {kind} with {value:#x} in field {field}")]
    Field {
        /// The frame's first byte.
        kind: u8,
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// The header for `message`. `zero_page`: the page that it carries is all zeros and will not follow; without effect on
/// a message that carries no page.
pub fn encode(message: &Message, zero_page: bool) -> [u8; FRAME_BYTES] {
    let mut header = Header { gfn: U64::new(message.gfn().0), ..Header::default() };
    match *message {
        Message::Request { access, held, turn, .. } => {
            header.turn = U32::new(turn.0);
            header.kind = Kind::Request as u8;
            header.access = access_code(access);
            header.flags = if held { FLAG_HELD } else { 0 };
        }
        Message::GrantExtent { txn, .. } => {
            header.kind = Kind::GrantExtent as u8;
            header.txn = U32::new(txn.0);
        }
        Message::Merge { txn, .. } => {
            header.kind = Kind::Merge as u8;
            header.txn = U32::new(txn.0);
        }
        Message::AlreadyYours { .. } => header.kind = Kind::AlreadyYours as u8,
        Message::Recall { txn, requester, turn, access, acks, .. } => {
            header.turn = U32::new(turn.0);
            header.kind = Kind::Recall as u8;
            header.txn = U32::new(txn.0);
            header.requester = requester.0;
            header.access = access_code(access);
            header.acks = acks;
        }
        Message::Invalidate { txn, requester, turn, .. } => {
            header.turn = U32::new(turn.0);
            header.kind = Kind::Invalidate as u8;
            header.txn = U32::new(txn.0);
            header.requester = requester.0;
        }
        Message::Hurry { txn, turn, .. } => {
            header.kind = Kind::Hurry as u8;
            header.txn = U32::new(txn.0);
            header.turn = U32::new(turn.0);
        }
        Message::Grant { txn, rights, page, acks, .. } => {
            header.kind = Kind::Grant as u8;
            header.txn = U32::new(txn.0);
            header.access = access_code(rights);
            header.acks = acks;
            header.flags = match (page, zero_page) {
                (false, _) => 0,
                (true, false) => FLAG_PAGE,
                (true, true) => FLAG_ZERO_PAGE,
            };
        }
        Message::Invalidated { txn, .. } => {
            header.kind = Kind::Invalidated as u8;
            header.txn = U32::new(txn.0);
        }
        Message::Done { txn, .. } => {
            header.kind = Kind::Done as u8;
            header.txn = U32::new(txn.0);
        }
        Message::Directory { .. }
        | Message::DirectoryEntry { .. }
        | Message::NewHome { .. }
        | Message::HomeKnown { .. }
        | Message::Moved { .. } => of_homes(message, &mut header),
    }
    zerocopy::transmute!(header)
}

/// Fills in what messages about homes say.
fn of_homes(message: &Message, header: &mut Header) {
    match *message {
        Message::Directory { term, state, .. } => {
            header.kind = Kind::Directory as u8;
            header.txn = U32::new(term.0);
            header.access = match state {
                DirectoryState::Untouched => 1,
                DirectoryState::Whole(_) => 2,
                DirectoryState::Split(_) => 3,
            };
            header.requester = state.node().map_or(0, |node| node.0);
        }
        Message::DirectoryEntry { holders, .. } => {
            header.kind = Kind::DirectoryEntry as u8;
            header.turn = U32::new(holders.bits());
        }
        Message::NewHome { term, home, .. } => {
            header.kind = Kind::NewHome as u8;
            header.txn = U32::new(term.0);
            header.requester = home.0;
        }
        Message::HomeKnown { term, .. } => {
            header.kind = Kind::HomeKnown as u8;
            header.txn = U32::new(term.0);
        }
        Message::Moved { .. } => header.kind = Kind::Moved as u8,
        _ => {}
    }
}

/// The message in a header.
///
/// # Errors
/// If the bytes are not what [`encode`] makes of any message. Whether the frame exists, the nodes are of this guest and
/// the message makes sense now is the protocol's to say.
pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, WireError> {
    let header: Header = zerocopy::transmute!(*bytes);
    let known = Kind::ALL.into_iter().find(|&kind| kind as u8 == header.kind);
    let kind = known.ok_or(WireError::Kind(header.kind))?;
    let (message, body) = Reader { header }.message(kind)?;
    // A field that this kind does not use must be zero: then, and only then, encoding gives the same bytes.
    let mut canonical = encode(&message, body == Body::ZeroPage);
    canonical[SEQ_OFFSET..].copy_from_slice(&bytes[SEQ_OFFSET..]);
    match canonical.iter().zip(bytes).position(|(ours, theirs)| ours != theirs) {
        None => Ok(Frame { message, body }),
        Some(at) => {
            let (kind, value) = (header.kind, u64::from(bytes[at]));
            Err(WireError::Field { kind, field: FIELDS[at], value })
        }
    }
}

/// For each byte before the link's, the field that it is part of.
const FIELDS: [&str; SEQ_OFFSET] = [
    "kind",
    "flags",
    "access",
    "acks",
    "requester",
    "reserved",
    "reserved",
    "reserved",
    "gfn",
    "gfn",
    "gfn",
    "gfn",
    "gfn",
    "gfn",
    "gfn",
    "gfn",
    "txn",
    "txn",
    "txn",
    "txn",
    "turn",
    "turn",
    "turn",
    "turn",
];

fn access_code(access: Access) -> u8 {
    match access {
        Access::Read => 1,
        Access::Write => 2,
    }
}

/// Reads fields with their checks.
struct Reader {
    header: Header,
}

impl Reader {
    fn message(&self, kind: Kind) -> Result<(Message, Body), WireError> {
        let gfn = Gfn(self.header.gfn.get());
        let (txn, turn) = (Txn(self.header.txn.get()), Turn(self.header.turn.get()));
        let message = match kind {
            Kind::Request => {
                let held = self.header.flags == FLAG_HELD;
                Message::Request { gfn, access: self.access()?, held, turn }
            }
            Kind::GrantExtent => Message::GrantExtent { gfn, txn },
            Kind::Merge => Message::Merge { gfn, txn },
            Kind::AlreadyYours => Message::AlreadyYours { gfn },
            Kind::Recall => {
                let (requester, access, acks) = (self.requester()?, self.access()?, self.acks()?);
                Message::Recall { gfn, txn, requester, turn, access, acks }
            }
            Kind::Invalidate => {
                let requester = self.requester()?;
                Message::Invalidate { gfn, txn, requester, turn }
            }
            Kind::Grant => {
                let body = match self.header.flags {
                    0 => Body::None,
                    FLAG_PAGE => Body::Page,
                    FLAG_ZERO_PAGE => Body::ZeroPage,
                    flags => return Err(self.field("flags", flags)),
                };
                let (rights, acks) = (self.access()?, self.acks()?);
                return Ok((Message::Grant { gfn, txn, rights, page: body != Body::None, acks }, body));
            }
            Kind::Invalidated => Message::Invalidated { gfn, txn },
            Kind::Done => Message::Done { gfn, txn },
            Kind::Hurry => Message::Hurry { gfn, txn, turn },
            Kind::Directory => Message::Directory { gfn, term: Term(txn.0), state: self.directory_state()? },
            Kind::DirectoryEntry => Message::DirectoryEntry { gfn, holders: NodeSet::from_bits(turn.0) },
            Kind::NewHome => Message::NewHome { gfn, term: Term(txn.0), home: self.requester()? },
            Kind::HomeKnown => Message::HomeKnown { gfn, term: Term(txn.0) },
            Kind::Moved => Message::Moved { gfn },
        };
        Ok((message, Body::None))
    }

    fn directory_state(&self) -> Result<DirectoryState, WireError> {
        let node = self.requester()?;
        match self.header.access {
            1 => Ok(DirectoryState::Untouched),
            2 => Ok(DirectoryState::Whole(node)),
            3 => Ok(DirectoryState::Split(node)),
            other => Err(self.field("access", other)),
        }
    }

    fn access(&self) -> Result<Access, WireError> {
        match self.header.access {
            1 => Ok(Access::Read),
            2 => Ok(Access::Write),
            other => Err(self.field("access", other)),
        }
    }

    fn requester(&self) -> Result<NodeId, WireError> {
        match usize::from(self.header.requester) < NODES_MAX {
            true => Ok(NodeId(self.header.requester)),
            false => Err(self.field("requester", self.header.requester)),
        }
    }

    fn acks(&self) -> Result<u8, WireError> {
        match usize::from(self.header.acks) < NODES_MAX {
            true => Ok(self.header.acks),
            false => Err(self.field("acks", self.header.acks)),
        }
    }

    fn field(&self, field: &'static str, value: u8) -> WireError {
        WireError::Field { kind: self.header.kind, field, value: u64::from(value) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access() -> impl Strategy<Value = Access> {
        prop_oneof![Just(Access::Read), Just(Access::Write)]
    }

    fn message() -> impl Strategy<Value = Message> {
        let gfn = any::<u64>().prop_map(Gfn);
        let txn = any::<u32>().prop_map(Txn);
        let turn = any::<u32>().prop_map(Turn);
        let node = (0..NODES_MAX as u8).prop_map(NodeId);
        let acks = 0..NODES_MAX as u8;
        (0..17u8, gfn, txn, turn, node, access(), acks, any::<bool>()).prop_map(
            |(kind, gfn, txn, turn, requester, access, acks, flag)| match kind {
                0 => Message::Request { gfn, access, held: flag, turn },
                1 => Message::GrantExtent { gfn, txn },
                2 => Message::AlreadyYours { gfn },
                3 => Message::Recall { gfn, txn, requester, turn, access, acks },
                4 => Message::Invalidate { gfn, txn, requester, turn },
                5 => Message::Grant { gfn, txn, rights: access, page: flag, acks },
                6 => Message::Invalidated { gfn, txn },
                7 => Message::Hurry { gfn, txn, turn },
                8 => Message::Merge { gfn, txn },
                9 => Message::Directory { gfn, term: Term(txn.0), state: DirectoryState::Untouched },
                10 => Message::Directory { gfn, term: Term(txn.0), state: DirectoryState::Whole(requester) },
                11 => Message::Directory { gfn, term: Term(txn.0), state: DirectoryState::Split(requester) },
                12 => Message::DirectoryEntry { gfn, holders: NodeSet::from_bits(turn.0) },
                13 => Message::NewHome { gfn, term: Term(txn.0), home: requester },
                14 => Message::HomeKnown { gfn, term: Term(txn.0) },
                15 => Message::Moved { gfn },
                _ => Message::Done { gfn, txn },
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_is_decoded(message in message(), zero_page: bool, link: [u8; 8]) {
            let mut bytes = encode(&message, zero_page);
            prop_assert_eq!(&bytes[SEQ_OFFSET..], &[0u8; 8][..], "the link's fields are its own");
            bytes[SEQ_OFFSET..].copy_from_slice(&link);
            let body = match (message.carries_page(), zero_page) {
                (false, _) => Body::None,
                (true, false) => Body::Page,
                (true, true) => Body::ZeroPage,
            };
            prop_assert_eq!(decode(&bytes), Ok(Frame { message, body }));
        }

        #[test]
        fn garbage_is_refused_or_means_exactly_what_it_says(bytes: [u8; FRAME_BYTES], kind in 0..17u8) {
            let mut bytes = bytes;
            bytes[0] = kind;
            if let Ok(frame) = decode(&bytes) {
                let again = encode(&frame.message, frame.body == Body::ZeroPage);
                prop_assert_eq!(&again[..SEQ_OFFSET], &bytes[..SEQ_OFFSET]);
            }
        }

        #[test]
        fn one_changed_byte_never_yields_the_same_message(message in message(), at in 0..SEQ_OFFSET, to: u8) {
            let before = encode(&message, false);
            let mut bytes = before;
            bytes[at] = to;
            prop_assume!(bytes != before);
            let unchanged = Frame {
                message,
                body: if message.carries_page() { Body::Page } else { Body::None },
            };
            prop_assert_ne!(decode(&bytes), Ok(unchanged));
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let recall = Message::Recall {
            gfn: Gfn(7),
            txn: Txn(1),
            requester: NodeId(1),
            turn: Turn(9),
            access: Access::Read,
            acks: 0,
        };
        let good = encode(&recall, false);
        let field = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            decode(&bytes)
        };
        let wrong = |field, value| Err(WireError::Field { kind: 4, field, value });
        assert_eq!(field(0, 0), Err(WireError::Kind(0)));
        assert_eq!(field(0, 16), Err(WireError::Kind(16)));
        assert_eq!(field(1, FLAG_PAGE), wrong("flags", 1));
        assert_eq!(field(2, 0), wrong("access", 0));
        assert_eq!(field(2, 3), wrong("access", 3));
        assert_eq!(field(3, 32), wrong("acks", 32));
        assert_eq!(field(4, 32), wrong("requester", 32));
        assert_eq!(field(6, 1), wrong("reserved", 1));
        let done = encode(&Message::Done { gfn: Gfn(7), txn: Txn(1) }, false);
        let mut bytes = done;
        bytes[23] = 5;
        assert_eq!(decode(&bytes), Err(WireError::Field { kind: 8, field: "turn", value: 5 }));
    }

    #[test]
    fn the_layout_of_a_header_is_fixed() {
        let grant =
            Message::Grant { gfn: Gfn(0x0102), txn: Txn(0x0304), rights: Access::Write, page: true, acks: 3 };
        let mut expected = [0u8; FRAME_BYTES];
        expected[..5].copy_from_slice(&[6, 1, 2, 3, 0]);
        expected[8..10].copy_from_slice(&[0x02, 0x01]);
        expected[16..18].copy_from_slice(&[0x04, 0x03]);
        assert_eq!(encode(&grant, false), expected);
        expected[1] = 2;
        assert_eq!(encode(&grant, true), expected);
    }
}
