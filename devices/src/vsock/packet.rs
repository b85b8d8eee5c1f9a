//! A packet's head (virtio 1.2, 5.10.6: struct virtio_vsock_hdr).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = size_of::<Head>();

/// A stream (5.10.6: type).
pub(super) const STREAM: u16 = 1;

/// In a shutdown: the sender takes nothing more.
pub(super) const NO_RECEIVE: u32 = 1;
/// In a shutdown: the sender sends nothing more.
pub(super) const NO_SEND: u32 = 2;

/// The head as it is in memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Head {
    pub(super) from_cid: U64,
    pub(super) to_cid: U64,
    pub(super) from_port: U32,
    pub(super) to_port: U32,
    pub(super) len: U32,
    pub(super) kind: U16,
    pub(super) op: U16,
    pub(super) flags: U32,
    /// Bytes that the sender has room for, in all.
    pub(super) room: U32,
    /// Bytes that the sender has taken out of that room since the connection began.
    pub(super) taken: U32,
}

/// What a packet does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Asks for a connection.
    Request,
    /// Accepts one.
    Response,
    /// There is no such connection, or not any more.
    Reset,
    /// One or both ways are over.
    Shutdown,
    /// Data.
    Data,
    /// What there is room for.
    Credit,
    /// Asks what there is room for.
    CreditRequest,
}

impl Op {
    /// The operation of this number (5.10.6: op).
    pub(super) fn of(number: u16) -> Option<Op> {
        Some(match number {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Reset,
            4 => Op::Shutdown,
            5 => Op::Data,
            6 => Op::Credit,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }

    /// Its number.
    pub(super) fn number(self) -> u16 {
        match self {
            Op::Request => 1,
            Op::Response => 2,
            Op::Reset => 3,
            Op::Shutdown => 4,
            Op::Data => 5,
            Op::Credit => 6,
            Op::CreditRequest => 7,
        }
    }
}

/// The two ports of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// A packet for the guest, without its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outgoing {
    pub(super) ports: Ports,
    pub(super) op: Op,
    pub(super) flags: u32,
}
