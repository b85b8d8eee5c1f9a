//! The connections to the peers, and what becomes of them when a link breaks.
//!
//! A link that breaks is not yet a lost peer: somebody else is told ([`Resume::on_break`]), sets up a new one on a
//! thread of its own, and hands it in. What is to be sent waits meanwhile. If none works within [`Resume::limit`], the
//! peer is lost.

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use tracing::{debug, info, warn};

use super::PagerFailure;
use crate::ids::{NodeId, NodeSet, Shard, PAGE_BYTES};
use crate::link::session::{Epoch, Greeting, Refused, Side};
use crate::link::{Connection, Filled, Flushed, Link, LinkCounts, LinkError, Received, RoomSign};
use crate::protocol::{Message, Micros};

/// A deadline that is noticed so much too late was slept through: the whole process, or the host, was not running.
const OVERSLEPT_US: Micros = 1_000_000;

/// One of the links between two nodes: each shard has its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane {
    /// To whom.
    pub peer: NodeId,
    /// Whose pages go over it.
    pub shard: Shard,
}

impl From<NodeId> for Lane {
    /// The only one to this peer, where nodes have one pager.
    fn from(peer: NodeId) -> Self {
        Lane { peer, shard: Shard::FIRST }
    }
}

/// How links that break are replaced.
pub struct Resume {
    /// For how long a peer may be without a link that works before it is lost.
    pub limit: Duration,
    /// Called on a pager thread when one of its links has broken; must not wait for anything.
    pub on_break: Box<dyn Fn(LinkBroke) + Send + Sync>,
}

/// A link has broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkBroke {
    /// Which.
    pub lane: Lane,
    /// What was seen of it, in one sentence.
    pub how: String,
    /// If it is this node that dials: what to say. The answer goes to [`Pager::relink`](super::Pager::relink) with
    /// [`Rejoin::Dialled`]. Each further attempt takes the next epoch.
    pub redial: Option<Greeting>,
}

/// How a new link came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejoin {
    /// This node dialled, in this epoch.
    Dialled(Epoch),
    /// The peer dialled, with this greeting.
    Accepted(Greeting),
}

/// A new link to a peer.
pub(super) struct NewLink {
    pub peer: NodeId,
    pub link: Box<dyn Link>,
    pub rejoin: Rejoin,
}

struct Peer {
    connection: Connection,
    /// The link took less than there was: we wait until it is writable.
    blocked: bool,
    /// How the last link broke.
    how: String,
}

/// All connections of a pager thread.
pub(super) struct Links {
    shard: Shard,
    epoll: Arc<OwnedFd>,
    /// By node number; none for this node itself.
    peers: Vec<Option<Peer>>,
    /// Counts of closed connections.
    closed: LinkCounts,
    /// Peers for which frames were queued in this step.
    queued_for: NodeSet,
    /// Peers whose links may have more than was taken, of which `epoll` need not tell.
    unread: NodeSet,
    /// `None`: a link that breaks is a lost peer.
    resume: Option<Arc<Resume>>,
    /// No peer is lost before: this thread has not been running for a while, and looks around first.
    not_before: Micros,
}

impl Links {
    /// Connections of a shard of node `me` over `links`, which are this shard's. Their readiness is told by `epoll` with the
    /// peer's number.
    ///
    /// # Errors
    /// If they cannot be watched.
    pub fn new(
        (me, shard): (NodeId, Shard),
        nodes: u8,
        links: Vec<(Lane, Box<dyn Link>)>,
        epoll: Arc<OwnedFd>,
        resume: Option<Arc<Resume>>,
    ) -> Result<Self, Errno> {
        let mut peers: Vec<Option<Peer>> = (0..nodes).map(|_| None).collect();
        for (Lane { peer, .. }, link) in links {
            let connection = Connection::new(link, Side::of(me, peer));
            watch(&epoll, &connection, peer)?;
            peers[peer.index()] = Some(Peer { connection, blocked: false, how: String::new() });
        }
        Ok(Links {
            shard,
            epoll,
            peers,
            closed: LinkCounts::default(),
            queued_for: NodeSet::EMPTY,
            unread: NodeSet::EMPTY,
            resume,
            not_before: 0,
        })
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.get_mut(node.index())?.as_mut()
    }

    /// Takes in what has come from a peer; [`Links::next_frame`] gives it out.
    ///
    /// # Errors
    /// If the peer is lost.
    pub fn fill(&mut self, from: NodeId, now: Micros) -> Result<(), PagerFailure> {
        let Some(peer) = self.peer(from) else { return Ok(()) };
        match peer.connection.fill() {
            Ok(filled) => {
                // What has woken us may have been news of room.
                let room = peer.blocked && peer.connection.room_sign() == Some(RoomSign::Readable);
                if filled == Filled::More {
                    self.unread.insert(from);
                }
                if room {
                    self.flush_peer(from, now)
                } else {
                    Ok(())
                }
            }
            Err(error) => self.settle(from, &error, now),
        }
    }

    /// Whether there are peers of which `epoll` need not tell that more has come.
    pub fn has_unread(&self) -> bool {
        self.unread != NodeSet::EMPTY
    }

    /// Those peers; they are to be served now.
    pub fn take_unread(&mut self) -> NodeSet {
        mem::take(&mut self.unread)
    }

    /// The next frame of those that have come from a peer.
    ///
    /// # Errors
    /// If it is none that could come.
    pub fn next_frame(&mut self, from: NodeId) -> Result<Option<Received<'_>>, PagerFailure> {
        match self.peer(from) {
            Some(peer) => peer.connection.next_frame().map_err(|error| lost(from, &error)),
            None => Ok(None),
        }
    }

    /// Queues a confirmation for a peer if it needs one.
    ///
    /// # Errors
    /// If the peer is lost.
    pub fn confirm(&mut self, to: NodeId) -> Result<(), PagerFailure> {
        let Some(peer) = self.peer(to) else { return Ok(()) };
        // The greeting of a new link is the last thing before which nothing could be sent.
        let due = peer.connection.confirm().map_err(|error| lost(to, &error))?;
        if due || peer.connection.session().has_pending() {
            self.queued_for.insert(to);
        }
        Ok(())
    }

    /// Queues a frame. The bytes of a page that it carries are `read` now.
    ///
    /// # Errors
    /// If the peer is lost, or the page cannot be read.
    pub fn queue(
        &mut self,
        to: NodeId,
        message: &Message,
        read: impl FnOnce(&mut [u8; PAGE_BYTES]) -> Result<(), PagerFailure>,
    ) -> Result<(), PagerFailure> {
        let Some(peer) = self.peer(to) else {
            let what = format!("a message was to go to {to}, which is none of the guest's nodes");
            return Err(PagerFailure::here(what));
        };
        let result = match message.carries_page() {
            true => peer.connection.queue_page(message, read),
            false => peer.connection.queue(message).map(Ok),
        };
        self.queued_for.insert(to);
        result.map_err(|error| lost(to, &error))?
    }

    /// Sends what was queued, as far as the links take it.
    ///
    /// # Errors
    /// If a peer is lost.
    pub fn flush(&mut self, now: Micros) -> Result<(), PagerFailure> {
        for to in mem::take(&mut self.queued_for).iter() {
            if self.peer(to).is_some_and(|peer| !peer.blocked) {
                self.flush_peer(to, now)?;
            }
        }
        Ok(())
    }

    /// Sends what waits for a peer, as far as the link takes it.
    ///
    /// # Errors
    /// If the peer is lost.
    pub fn flush_peer(&mut self, to: NodeId, now: Micros) -> Result<(), PagerFailure> {
        let epoll = self.epoll.clone();
        let Some(peer) = self.peer(to) else { return Ok(()) };
        match peer.connection.flush() {
            Ok(flushed) => {
                let blocked = flushed == Flushed::Blocked;
                if blocked != peer.blocked {
                    peer.blocked = blocked;
                    listen(&epoll, peer, to).map_err(|errno| unwatched(to, errno))?;
                }
                Ok(())
            }
            Err(error) => self.settle(to, &error, now),
        }
    }

    /// What an error of a connection means: the end of its link, or of the peer.
    fn settle(&mut self, peer: NodeId, error: &LinkError, now: Micros) -> Result<(), PagerFailure> {
        let epoll = self.epoll.clone();
        match (&self.resume, self.peers.get_mut(peer.index())) {
            (Some(resume), Some(Some(state))) if error.is_end_of_link() => {
                if let Some(link) = state.connection.broke(now) {
                    unwatch(&epoll, &*link);
                }
                state.blocked = false;
                state.how = error.to_string();
                warn!("link to {peer}: {error}; waiting for a new one");
                let redial = state.connection.session().redial();
                let lane = Lane { peer, shard: self.shard };
                (resume.on_break)(LinkBroke { lane, how: error.to_string(), redial });
                Ok(())
            }
            _ => Err(lost(peer, error)),
        }
    }

    /// Goes on over a new link. One that comes too late is dropped.
    ///
    /// # Errors
    /// If the peer contradicts itself.
    pub fn relink(&mut self, new: NewLink, now: Micros) -> Result<(), PagerFailure> {
        let NewLink { peer: node, link, rejoin } = new;
        let epoll = self.epoll.clone();
        let Some(peer) = self.peer(node) else { return Ok(()) };
        let taken = match rejoin {
            Rejoin::Dialled(epoch) => {
                peer.connection.dialled(link, epoch).map(|()| None).map_err(Refused::from)
            }
            Rejoin::Accepted(greeting) => peer.connection.accept(link, greeting, now),
        };
        match taken {
            Ok(old) => {
                if let Some(old) = old {
                    unwatch(&epoll, &*old);
                }
                peer.blocked = false;
                info!("link to {node}: a new one, {}", peer.connection.session().epoch());
                watch(&epoll, &peer.connection, node).map_err(|errno| unwatched(node, errno))?;
                self.flush_peer(node, now)
            }
            Err(Refused::Stale(stale)) => {
                debug!("link to {node}: {stale}");
                Ok(())
            }
            Err(Refused::Session(error)) => Err(lost(node, &error.into())),
        }
    }

    /// When a peer that has no link that works is lost, if there is one.
    pub fn next_deadline(&self) -> Option<Micros> {
        let limit = self.resume.as_ref()?.limit.as_micros() as Micros;
        let since =
            self.peers.iter().flatten().filter_map(|peer| peer.connection.session().in_trouble_since());
        since.map(|since| since + limit).min().map(|at| at.max(self.not_before))
    }

    /// Whether a peer has been without a link that works for too long.
    ///
    /// # Errors
    /// That it has.
    pub fn check_deadline(&mut self, now: Micros) -> Result<(), PagerFailure> {
        let (Some(resume), Some(deadline)) = (&self.resume, self.next_deadline()) else { return Ok(()) };
        if now < deadline {
            return Ok(());
        }
        if now > deadline + OVERSLEPT_US {
            self.not_before = now + OVERSLEPT_US;
            return Ok(());
        }
        let limit = resume.limit.as_micros() as Micros;
        for (node, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            if peer.connection.session().in_trouble_since().is_some_and(|since| since + limit <= now) {
                let how = if peer.how.is_empty() { "a new link did not work" } else { &peer.how };
                let what = format!("{how}, and no link worked for {} ms", resume.limit.as_millis());
                return Err(PagerFailure::of(NodeId(node as u8), what));
            }
        }
        Ok(())
    }

    /// What has gone through all of them.
    pub fn counts(&self) -> LinkCounts {
        let mut counts = self.closed;
        self.peers.iter().flatten().for_each(|peer| counts.merge(&peer.connection.counts()));
        counts
    }

    /// Closes all links, so that the peers hear of it; what they counted is kept.
    pub fn close(&mut self) {
        self.closed = self.counts();
        self.peers.clear();
    }
}

/// Has `epoll` tell when something comes.
fn watch(epoll: &OwnedFd, connection: &Connection, peer: NodeId) -> Result<(), Errno> {
    let Some(descriptor) = connection.descriptor() else { return Ok(()) };
    epoll::add(epoll, descriptor, EventData::new_u64(u64::from(peer.0)), EventFlags::IN)
}

/// Has `epoll` tell of room too, if the peer's link is blocked.
fn listen(epoll: &OwnedFd, peer: &Peer, node: NodeId) -> Result<(), Errno> {
    let Some(descriptor) = peer.connection.descriptor() else { return Ok(()) };
    let told = peer.connection.room_sign() == Some(RoomSign::Writable);
    let room = if peer.blocked && told { EventFlags::OUT } else { EventFlags::empty() };
    epoll::modify(epoll, descriptor, EventData::new_u64(u64::from(node.0)), EventFlags::IN | room)
}

/// The link is about to be closed. Somebody may hold another descriptor of it, so `epoll` must be told.
fn unwatch(epoll: &OwnedFd, link: &dyn Link) {
    let _gone = epoll::delete(epoll, link.descriptor());
}

fn unwatched(peer: NodeId, errno: Errno) -> PagerFailure {
    PagerFailure::here(format!("watching the connection to {peer} failed: {errno}"))
}

fn lost(peer: NodeId, error: &LinkError) -> PagerFailure {
    PagerFailure::of(peer, error.to_string())
}
