//! Messages about segments as bytes: one fixed 32-byte little-endian header, then the page or difference if one travels.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | kind of message, [`Kind`]: none that a frame of [`crate::wire`] has |
//! | 1 | 1 | what follows: 0 nothing, 1 a page, 2 nothing, for a page of zeros, 3 a difference |
//! | 2 | 1 | the next owner |
//! | 3 | 1 | zero |
//! | 4 | 4 | segment |
//! | 8 | 4 | page |
//! | 12 | 4 | term |
//! | 16 | 4 | nodes with copies, a bit each |
//! | 20 | 4 | bytes that follow |
//! | 24 | 4 | sequence number, for the link ([`SEQ_OFFSET`]) |
//! | 28 | 4 | acknowledged sequence number, for the link ([`ACK_OFFSET`]) |
//!
//! A field that a kind of message does not use is zero. [`decode`] refuses everything that [`encode`] cannot have made (the
//! link's two fields may hold anything), so a frame has one meaning and a message one form.

use thiserror::Error;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::diff::DIFFERENCE_BYTES_MAX;
use super::{Message, PageIndex, Payload, SegmentId, Term};
use crate::ids::{NodeId, NodeSet, NODES_MAX, PAGE_BYTES};
pub use crate::wire::{ACK_OFFSET, FRAME_BYTES, SEQ_OFFSET};

/// Most bytes behind a header.
pub const BODY_BYTES_MAX: usize = DIFFERENCE_BYTES_MAX;

/// The first byte of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// [`Message::Fetch`]
    Fetch = 65,
    /// [`Message::Page`]
    Page = 66,
    /// [`Message::Diff`]
    Diff = 67,
    /// [`Message::Applied`]
    Applied = 68,
    /// [`Message::Invalidate`]
    Invalidate = 69,
    /// [`Message::Invalidated`]
    Invalidated = 70,
    /// [`Message::Freeze`]
    Freeze = 71,
    /// [`Message::Frozen`]
    Frozen = 72,
    /// [`Message::Hand`]
    Hand = 73,
    /// [`Message::Taken`]
    Taken = 74,
    /// [`Message::HandedOver`]
    HandedOver = 75,
    /// [`Message::Thaw`]
    Thaw = 76,
    /// [`Message::Broken`]
    Broken = 77,
}

impl Kind {
    /// All kinds, by number.
    pub const ALL: [Kind; 13] = [
        Kind::Fetch,
        Kind::Page,
        Kind::Diff,
        Kind::Applied,
        Kind::Invalidate,
        Kind::Invalidated,
        Kind::Freeze,
        Kind::Frozen,
        Kind::Hand,
        Kind::Taken,
        Kind::HandedOver,
        Kind::Thaw,
        Kind::Broken,
    ];
}

/// A header as it lies in the buffer.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    kind: u8,
    body: u8,
    to: u8,
    reserved: u8,
    segment: U32,
    page: U32,
    term: U32,
    copies: U32,
    length: U32,
    seq: U32,
    ack: U32,
}

const _: () = assert!(size_of::<Header>() == FRAME_BYTES);
const _: () = assert!(std::mem::offset_of!(Header, seq) == SEQ_OFFSET);
const _: () = assert!(std::mem::offset_of!(Header, ack) == ACK_OFFSET);

const BODY_PAGE: u8 = 1;
const BODY_ZERO_PAGE: u8 = 2;
const BODY_DIFFERENCE: u8 = 3;

/// What follows a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Nothing; the message carries nothing.
    None,
    /// [`PAGE_BYTES`] bytes, the page.
    Page,
    /// Nothing; the page that the message carries is all zeros.
    ZeroPage,
    /// A difference of so many bytes, 1 to [`DIFFERENCE_BYTES_MAX`].
    Difference(u16),
}

impl Body {
    /// How many bytes follow the header.
    pub fn bytes(self) -> usize {
        match self {
            Body::None | Body::ZeroPage => 0,
            Body::Page => PAGE_BYTES,
            Body::Difference(length) => usize::from(length),
        }
    }

    fn fits(self, message: &Message) -> bool {
        match (message.payload(), self) {
            (Payload::None, Body::None) | (Payload::Page, Body::Page | Body::ZeroPage) => true,
            (Payload::Difference, Body::Difference(length)) => {
                (1..=DIFFERENCE_BYTES_MAX).contains(&usize::from(length))
            }
            _ => false,
        }
    }
}

/// A header and what comes behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    message: Message,
    body: Body,
}

impl Frame {
    /// A frame; `None` if the message does not carry such a body.
    pub fn new(message: Message, body: Body) -> Option<Self> {
        body.fits(&message).then_some(Frame { message, body })
    }

    /// What is said.
    pub fn message(&self) -> Message {
        self.message
    }

    /// What comes behind the header.
    pub fn body(&self) -> Body {
        self.body
    }
}

/// Why 32 bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// The first byte names no message about segments.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// A field holds a value that it cannot have in this kind of message.
    #[error("frame of kind {kind} with {value:#x} in field {field}")]
    Field {
        /// The frame's first byte.
        kind: u8,
        /// The field's name.
        field: &'static str,
        /// What it holds; of a field of several bytes, the first one that is wrong.
        value: u64,
    },
}

/// The header for a frame. The caller sends [`Body::bytes`] bytes behind it.
pub fn encode(frame: &Frame) -> [u8; FRAME_BYTES] {
    let message = frame.message;
    let mut header = Header {
        kind: kind(&message) as u8,
        segment: U32::new(message.segment().0),
        page: U32::new(message.page().unwrap_or_default().0),
        length: U32::new(frame.body.bytes() as u32),
        body: match frame.body {
            Body::None => 0,
            Body::Page => BODY_PAGE,
            Body::ZeroPage => BODY_ZERO_PAGE,
            Body::Difference(_) => BODY_DIFFERENCE,
        },
        ..Header::default()
    };
    match message {
        Message::Freeze { term, to, .. } => {
            header.term = U32::new(term.0);
            header.to = to.0;
        }
        Message::Frozen { term, .. } | Message::HandedOver { term, .. } | Message::Thaw { term, .. } => {
            header.term = U32::new(term.0);
        }
        Message::Hand { copies, .. } => header.copies = U32::new(bits(copies)),
        _ => {}
    }
    zerocopy::transmute!(header)
}

/// The frame that a header announces.
///
/// # Errors
/// If the bytes are not what [`encode`] makes of any frame. Whether the segment exists, the nodes are of this guest and
/// the message makes sense now is the protocol's to say.
pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Result<Frame, WireError> {
    let header: Header = zerocopy::transmute!(*bytes);
    let known = Kind::ALL.into_iter().find(|&kind| kind as u8 == header.kind);
    let kind = known.ok_or(WireError::Kind(header.kind))?;
    let field = |field, value| WireError::Field { kind: header.kind, field, value };
    if usize::from(header.to) >= NODES_MAX {
        return Err(field("to", header.to.into()));
    }
    let length = header.length.get();
    let body = match header.body {
        0 => Body::None,
        BODY_PAGE => Body::Page,
        BODY_ZERO_PAGE => Body::ZeroPage,
        BODY_DIFFERENCE => {
            Body::Difference(u16::try_from(length).map_err(|_| field("length", length.into()))?)
        }
        other => return Err(field("body", other.into())),
    };
    let message = message(kind, &header, body);
    let Some(frame) = Frame::new(message, body) else {
        // Only a difference has a length of its own.
        let wrong = match (message.payload(), body) {
            (Payload::Difference, Body::Difference(_)) => field("length", length.into()),
            _ => field("body", header.body.into()),
        };
        return Err(wrong);
    };
    // A field that this kind does not use must be zero: then, and only then, encoding gives the same bytes.
    let mut canonical = encode(&frame);
    canonical[SEQ_OFFSET..].copy_from_slice(&bytes[SEQ_OFFSET..]);
    match canonical.iter().zip(bytes).position(|(ours, theirs)| ours != theirs) {
        None => Ok(frame),
        Some(at) => Err(field(name_of(at), bytes[at].into())),
    }
}

/// The field that the byte at `at` is part of.
fn name_of(at: usize) -> &'static str {
    match at {
        0 => "kind",
        1 => "body",
        2 => "to",
        3 => "reserved",
        4..8 => "segment",
        8..12 => "page",
        12..16 => "term",
        16..20 => "copies",
        _ => "length",
    }
}

fn kind(message: &Message) -> Kind {
    match message {
        Message::Fetch { .. } => Kind::Fetch,
        Message::Page { .. } => Kind::Page,
        Message::Diff { .. } => Kind::Diff,
        Message::Applied { .. } => Kind::Applied,
        Message::Invalidate { .. } => Kind::Invalidate,
        Message::Invalidated { .. } => Kind::Invalidated,
        Message::Freeze { .. } => Kind::Freeze,
        Message::Frozen { .. } => Kind::Frozen,
        Message::Hand { .. } => Kind::Hand,
        Message::Taken { .. } => Kind::Taken,
        Message::HandedOver { .. } => Kind::HandedOver,
        Message::Thaw { .. } => Kind::Thaw,
        Message::Broken { .. } => Kind::Broken,
    }
}

fn message(kind: Kind, header: &Header, body: Body) -> Message {
    let segment = SegmentId(header.segment.get());
    let page = PageIndex(header.page.get());
    let term = Term(header.term.get());
    match kind {
        Kind::Fetch => Message::Fetch { segment, page },
        Kind::Page => Message::Page { segment, page },
        Kind::Diff => Message::Diff { segment, page, changed: body != Body::None },
        Kind::Applied => Message::Applied { segment, page },
        Kind::Invalidate => Message::Invalidate { segment, page },
        Kind::Invalidated => Message::Invalidated { segment, page },
        Kind::Freeze => Message::Freeze { segment, term, to: NodeId(header.to) },
        Kind::Frozen => Message::Frozen { segment, term },
        Kind::Hand => {
            let copies = nodes(header.copies.get());
            Message::Hand { segment, page, copies, bytes: body != Body::None }
        }
        Kind::Taken => Message::Taken { segment, page },
        Kind::HandedOver => Message::HandedOver { segment, term },
        Kind::Thaw => Message::Thaw { segment, term },
        Kind::Broken => Message::Broken { segment },
    }
}

fn bits(set: NodeSet) -> u32 {
    set.iter().fold(0, |bits, node| bits | 1 << node.0)
}

fn nodes(bits: u32) -> NodeSet {
    let mut set = NodeSet::EMPTY;
    (0..NODES_MAX as u8).filter(|node| bits >> node & 1 == 1).for_each(|node| set.insert(NodeId(node)));
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn frame()(
            kind in 0..Kind::ALL.len(),
            segment: u32,
            page: u32,
            term: u32,
            to in 0..NODES_MAX as u8,
            copies: u32,
            length in 1..=DIFFERENCE_BYTES_MAX as u16,
            zeros: bool,
            flag: bool,
        ) -> Frame {
            let header = Header {
                segment: segment.into(),
                page: page.into(),
                term: term.into(),
                to,
                copies: copies.into(),
                ..Header::default()
            };
            let any = if flag { Body::Page } else { Body::None };
            let message = message(Kind::ALL[kind], &header, any);
            let body = match message.payload() {
                Payload::None => Body::None,
                Payload::Page if zeros => Body::ZeroPage,
                Payload::Page => Body::Page,
                Payload::Difference => Body::Difference(length),
            };
            Frame::new(message, body).expect("the body fits")
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_is_decoded(frame in frame(), link: [u8; 8]) {
            let mut bytes = encode(&frame);
            prop_assert_eq!(&bytes[SEQ_OFFSET..], &[0u8; 8][..], "the link's fields are its own");
            bytes[SEQ_OFFSET..].copy_from_slice(&link);
            prop_assert_eq!(decode(&bytes), Ok(frame));
            prop_assert!(frame.body().bytes() <= BODY_BYTES_MAX);
        }

        #[test]
        fn garbage_is_refused_or_means_exactly_what_it_says(bytes: [u8; FRAME_BYTES], kind in 60..80u8, body in 0..5u8) {
            let mut bytes = bytes;
            (bytes[0], bytes[1]) = (kind, body);
            if let Ok(frame) = decode(&bytes) {
                prop_assert_eq!(&encode(&frame)[..SEQ_OFFSET], &bytes[..SEQ_OFFSET]);
            }
        }

        #[test]
        fn one_changed_byte_never_yields_the_same_frame(frame in frame(), at in 0..SEQ_OFFSET, to: u8) {
            let before = encode(&frame);
            let mut bytes = before;
            bytes[at] = to;
            prop_assume!(bytes != before);
            prop_assert_ne!(decode(&bytes), Ok(frame));
        }
    }

    #[test]
    fn no_kind_is_one_of_the_strict_protocol() {
        for kind in Kind::ALL {
            let mut bytes = [0; FRAME_BYTES];
            bytes[0] = kind as u8;
            assert_eq!(crate::wire::decode(&bytes), Err(crate::wire::WireError::Kind(kind as u8)));
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let (segment, page) = (SegmentId(7), PageIndex(9));
        let diff = Message::Diff { segment, page, changed: true };
        let good = encode(&Frame::new(diff, Body::Difference(5)).expect("fits"));
        let field = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            decode(&bytes)
        };
        let wrong = |field, value| Err(WireError::Field { kind: 67, field, value });
        assert_eq!(field(0, 64), Err(WireError::Kind(64)));
        assert_eq!(field(0, 78), Err(WireError::Kind(78)));
        assert_eq!(field(1, 1), wrong("body", 1));
        assert_eq!(field(1, 4), wrong("body", 4));
        assert_eq!(field(1, 0), wrong("length", 5), "unchanged, but bytes follow");
        assert_eq!(field(2, 1), wrong("to", 1));
        assert_eq!(field(2, 32), wrong("to", 32));
        assert_eq!(field(3, 1), wrong("reserved", 1));
        assert_eq!(field(12, 1), wrong("term", 1));
        assert_eq!(field(16, 1), wrong("copies", 1));
        assert_eq!(field(20, 0), wrong("length", 0));
        assert_eq!(field(21, 0xff), wrong("length", 0xff05));
        assert_eq!(field(22, 1), wrong("length", 0x1_0005));
    }

    #[test]
    fn the_layout_of_a_header_is_fixed() {
        let mut copies = NodeSet::only(NodeId(0));
        copies.insert(NodeId(9));
        let hand = Message::Hand { segment: SegmentId(0x0102), page: PageIndex(0x0304), copies, bytes: true };
        let mut expected = [0u8; FRAME_BYTES];
        expected[..2].copy_from_slice(&[73, 1]);
        expected[4..6].copy_from_slice(&[0x02, 0x01]);
        expected[8..10].copy_from_slice(&[0x04, 0x03]);
        expected[16..18].copy_from_slice(&[0x01, 0x02]);
        expected[20..22].copy_from_slice(&[0x00, 0x10]);
        assert_eq!(encode(&Frame::new(hand, Body::Page).expect("fits")), expected);
        (expected[1], expected[21]) = (2, 0);
        assert_eq!(encode(&Frame::new(hand, Body::ZeroPage).expect("fits")), expected);
        assert_eq!(Frame::new(hand, Body::None), None);
    }
}
