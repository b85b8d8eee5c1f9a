//! A mistake on the wire: a node that may write before the other copies of a page are gone.
//!
//! It sits between a node's pager and its peers, where nobody's own checks see it. A grant for writing that has to wait
//! for acknowledgements arrives without that condition; the acknowledgements are swallowed when they come; and the
//! home is told that all is done only after them. So every node finds every message as it must be, but the guest
//! here has written while a guest elsewhere still read the old page. The product contains no trace of it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tessera_dsm::layout::Layout;
use tessera_dsm::link::Link;
use tessera_dsm::protocol::{Access, Message, Txn};
use tessera_dsm::wire::{self, Body, SEQ_OFFSET};
use tessera_dsm::{Gfn, NodeId};

use crate::cluster::{LinkMaker, Links};
use crate::frames::first_frame;
use crate::late;

/// When grants for writing reach a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grants {
    /// As they should.
    InTime,
    /// Before the other copies are gone. (A node's grants for pages of its own directory come over no link: those are in
    /// time.)
    Early,
}

/// Links on which every invalidation is late by up to `late`; and a count of the grants that came early.
pub fn links(grants: Grants, late: Duration, seed: u64) -> (LinkMaker, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let maker = move |me: NodeId, layout: &Layout, streams: Vec<(NodeId, TcpStream)>| -> Links {
        let (layout, count) = (layout.clone(), Arc::clone(&counter));
        let node = Arc::new(Node { me, layout, grants, waits: Mutex::default(), count });
        let seed = |peer: NodeId| seed << 16 | u64::from(me.0) << 8 | u64::from(peer.0);
        let link = |(peer, stream)| (peer, node.link(stream, late, seed(peer)));
        streams.into_iter().map(link).collect()
    };
    (Arc::new(maker), count)
}

/// What all links of a node know.
struct Node {
    me: NodeId,
    layout: Layout,
    grants: Grants,
    waits: Mutex<HashMap<(Gfn, Txn), Wait>>,
    count: Arc<AtomicU64>,
}

/// A transaction whose grant comes early.
#[derive(Default)]
struct Wait {
    /// Acknowledgements that the grant should have waited for, once it has come.
    needed: Option<u8>,
    swallowed: u8,
    /// What the home is to be told after that, and over which connection.
    done: Option<(Vec<u8>, TcpStream)>,
}

/// What becomes of a frame.
enum Fate {
    Pass,
    Changed(Message),
    Swallowed,
}

impl Node {
    fn link(self: &Arc<Self>, stream: TcpStream, late: Duration, seed: u64) -> Box<dyn Link> {
        stream.set_nodelay(true).expect("a socket");
        let input = late::invalidations(&stream, late, seed);
        input.set_nonblocking(true).expect("a socket");
        let node = Arc::clone(self);
        Box::new(Meddled { node, input, output: stream, incoming: Vec::new(), outgoing: Vec::new() })
    }

    fn arrives(&self, message: Message) -> Fate {
        if self.grants == Grants::InTime || self.layout.home(message.gfn()) == Some(self.me) {
            return Fate::Pass;
        }
        match message {
            Message::Grant { gfn, txn, rights: Access::Write, page, acks } if acks > 0 => {
                self.count.fetch_add(1, Ordering::Relaxed);
                self.change(gfn, txn, |wait| wait.needed = Some(acks));
                Fate::Changed(Message::Grant { gfn, txn, rights: Access::Write, page, acks: 0 })
            }
            Message::Invalidated { gfn, txn } => {
                self.change(gfn, txn, |wait| wait.swallowed += 1);
                Fate::Swallowed
            }
            _ => Fate::Pass,
        }
    }

    /// Changes what is known of a transaction, and tells the home that it is done if it is.
    fn change(&self, gfn: Gfn, txn: Txn, change: impl FnOnce(&mut Wait)) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = waits.entry((gfn, txn)).or_default();
        change(wait);
        if wait.needed == Some(wait.swallowed) {
            if let Some((bytes, mut home)) = wait.done.take() {
                waits.remove(&(gfn, txn));
                // It fails only if the guest has ended.
                let _ = home.write_all(&bytes);
            }
        }
    }

    /// Keeps a `Done` back if its transaction waits for acknowledgements; gives whether it did.
    fn keeps(&self, message: Message, bytes: &[u8], home: &TcpStream) -> bool {
        let Message::Done { gfn, txn } = message else { return false };
        if !self.waits.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(gfn, txn)) {
            return false;
        }
        let home = home.try_clone().expect("a socket");
        self.change(gfn, txn, |wait| wait.done = Some((bytes.to_vec(), home)));
        true
    }
}

/// One connection.
struct Meddled {
    node: Arc<Node>,
    input: TcpStream,
    /// It waits until it can write; what nodes send each other is little.
    output: TcpStream,
    /// The beginning of a frame whose end has not come yet; likewise for what is sent.
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Link for Meddled {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<usize> {
        // No more than there is room for when all of it is whole frames: nothing is kept back.
        let mut fresh = vec![0; into.len().saturating_sub(self.incoming.len())];
        let bytes = self.input.read(&mut fresh)?;
        if bytes == 0 {
            return Ok(0);
        }
        self.incoming.extend_from_slice(&fresh[..bytes]);
        let mut given = 0;
        while let Some((frame, length)) = first_frame(&self.incoming) {
            let mut bytes: Vec<u8> = self.incoming.drain(..length).collect();
            match self.node.arrives(frame.message) {
                Fate::Swallowed => continue,
                Fate::Pass => {}
                Fate::Changed(message) => {
                    let header = wire::encode(&message, frame.body == Body::ZeroPage);
                    bytes[..SEQ_OFFSET].copy_from_slice(&header[..SEQ_OFFSET]);
                }
            }
            into[given..given + bytes.len()].copy_from_slice(&bytes);
            given += bytes.len();
        }
        match given {
            0 => Err(ErrorKind::WouldBlock.into()),
            given => Ok(given),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        while let Some((frame, length)) = first_frame(&self.outgoing) {
            let frame_bytes: Vec<u8> = self.outgoing.drain(..length).collect();
            if !self.node.keeps(frame.message, &frame_bytes, &self.output) {
                self.output.write_all(&frame_bytes)?;
            }
        }
        Ok(bytes.len())
    }
}
