//! The first frame in each direction: who speaks which version, and what the connection is for.
//!
//! The magic and the version are fixed bytes in front of the postcard, so that every version understands them
//! of every other: a difference is then told as such and not as garbage.

use std::io::Write;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tessera_dsm::link::session::Greeting;
use tessera_dsm::{NodeId, Shard, NODES_MAX, SHARDS_MAX};
use thiserror::Error;

use super::frame::{self, FrameError, FrameReader, Stream};
use super::guest::{GuestId, GuestName};

/// What a Hello and its reply begin with.
const MAGIC: [u8; 8] = *b"tessera\n";
/// Version of everything in [`crate::control`] and of the pager's wire. Hosts of one guest must agree.
pub const PROTOCOL_VERSION: u32 = 3;
/// Most bytes in a Hello and in its reply.
const HELLO_BYTES_MAX: usize = 4096;
const PREFIX_BYTES: usize = MAGIC.len() + 4;

/// Which of the connections between two workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Channel {
    /// [`super::peer::PeerFrame`]s.
    Control,
    /// Pages: those of one of the pagers.
    Data(Shard),
}

/// What a connection is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Tell what this host has to offer.
    Offer,
    /// Start a worker; the connection becomes its launcher's.
    Create {
        /// The new guest.
        guest: GuestId,
        /// Its name.
        name: GuestName,
    },
    /// Hand the connection to a guest's worker, as one of those between nodes.
    Peer {
        /// The guest.
        guest: GuestId,
        /// The node that connects.
        from: NodeId,
        /// Which connection.
        channel: Channel,
    },
    /// Hand the connection to a guest's worker, in place of one between nodes that broke.
    Resume {
        /// The guest.
        guest: GuestId,
        /// The node that connects.
        from: NodeId,
        /// Which connection.
        channel: Channel,
        /// From where on it goes.
        greeting: Greeting,
    },
    /// Tell, by a Welcome or a refusal, whether this host runs a part of the guest.
    Vouch {
        /// The guest.
        guest: GuestId,
    },
    /// Hand the connection to a guest's worker, for questions.
    Cli {
        /// The guest; `None`: the only one.
        guest: Option<GuestName>,
    },
    /// Tell which guests this host runs a part of.
    List,
}

/// The first frame of who was connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Go on.
    Welcome,
    /// No; the text says why and is one line.
    Refused(String),
}

/// Why a Hello or its reply was not understood.
#[derive(Debug, Error)]
pub enum HelloError {
    /// These are not the bytes of a Tessera node.
    #[error("not the protocol of Tessera")]
    Garbage,
    /// The other side is of another version.
    #[error(
        "it speaks protocol version {theirs}, this is version {PROTOCOL_VERSION}: \
         install the same tessera everywhere"
    )]
    Version {
        /// Its version.
        theirs: u32,
    },
    /// A value is out of range.
    #[error("{0} is out of range")]
    Node(NodeId),
    /// A value is out of range.
    #[error("{0} is out of range")]
    Shard(Shard),
    /// The other side refused.
    #[error("{0}")]
    Refused(String),
    /// The connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    bytes.extend(MAGIC);
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    frame::seal(postcard::to_extend(value, bytes).map_err(FrameError::Encode)?)
}

/// Takes the body of a Hello or reply apart.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, HelloError> {
    let Some((prefix, rest)) = body.split_at_checked(PREFIX_BYTES) else { return Err(HelloError::Garbage) };
    let (magic, version) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(HelloError::Garbage);
    }
    let theirs = version.try_into().map_or(0, u32::from_le_bytes);
    if theirs != PROTOCOL_VERSION {
        return Err(HelloError::Version { theirs });
    }
    frame::decode(rest).map_err(|_| HelloError::Garbage)
}

fn read<T: DeserializeOwned>(reader: &mut FrameReader<impl Stream>, by: Instant) -> Result<T, HelloError> {
    match reader.read_body(Some(by)) {
        Ok(body) => decode(&body),
        // A length that no Hello has is what other protocols' first bytes look like.
        Err(FrameError::TooLarge { .. }) => Err(HelloError::Garbage),
        Err(error) => Err(error.into()),
    }
}

/// Sends a Hello: the first frame of who connects.
///
/// # Errors
/// When the stream fails.
pub fn send(stream: &mut impl Write, role: &Role) -> Result<(), FrameError> {
    let hello = encode(role)?;
    Ok(stream.write_all(&hello)?)
}

/// Reads a Hello from a stream that was just accepted, until the deadline.
///
/// # Errors
/// When it does not come, or is none.
pub fn receive(stream: impl Stream, by: Instant) -> Result<Role, HelloError> {
    let role = read(&mut FrameReader::with_limit(stream, HELLO_BYTES_MAX), by)?;
    match role {
        Role::Peer { from, .. } | Role::Resume { from, .. } if from.index() >= NODES_MAX => {
            Err(HelloError::Node(from))
        }
        Role::Peer { channel: Channel::Data(shard), .. }
        | Role::Resume { channel: Channel::Data(shard), .. }
            if shard.index() >= SHARDS_MAX =>
        {
            Err(HelloError::Shard(shard))
        }
        role => Ok(role),
    }
}

/// Answers a Hello.
///
/// # Errors
/// When the stream fails.
pub fn reply(stream: &mut impl Write, reply: &Reply) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(reply)?)?)
}

/// Reads the answer to a Hello, until the deadline.
///
/// # Errors
/// When it does not come, is none, or is a refusal.
pub fn receive_reply(stream: impl Stream, by: Instant) -> Result<(), HelloError> {
    match read(&mut FrameReader::with_limit(stream, HELLO_BYTES_MAX), by)? {
        Reply::Welcome => Ok(()),
        Reply::Refused(why) => Err(HelloError::Refused(super::ending::tidy(&why))),
    }
}
