//! Connecting to the other nodes of a guest.
//!
//! Of each two nodes the one with the higher number connects, through the daemon of the other, once for
//! control and once for the data of each shard. Then each node compares its clock with node 0's, while nothing else goes over the
//! connections.

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tessera_dsm::link::session::Greeting;
use tessera_dsm::pager::Lane;
use tessera_dsm::NodeId;
use thiserror::Error;
use tracing::{debug, warn};

use super::clock::{self, Clock};
use super::life::Life;
use crate::control::frame::FrameError;
use crate::control::guest::GuestSpec;
use crate::control::hello::{Channel, HelloError, Role};
use crate::control::socket;
use crate::time::estimate::TscOffset;

/// How often a wait looks whether it still makes sense.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A connection that the daemon handed over.
#[derive(Debug)]
pub struct Arrival {
    /// The node that connected.
    pub from: NodeId,
    /// For what.
    pub channel: Channel,
    /// If it is in place of one that broke: from where on it goes.
    pub greeting: Option<Greeting>,
    /// The connection.
    pub stream: TcpStream,
}

/// The connections to all other nodes, and this node's clock.
#[derive(Debug)]
pub struct Mesh {
    /// For [`crate::control::peer::PeerFrame`]s, by node.
    pub control: Vec<(NodeId, TcpStream)>,
    /// For the pagers, by node and shard.
    pub data: Vec<(Lane, TcpStream)>,
    /// The clock.
    pub clock: Clock,
}

/// The connections so far.
#[derive(Default)]
struct Found {
    control: Vec<(NodeId, TcpStream)>,
    data: Vec<(Lane, TcpStream)>,
}

impl Found {
    fn has_control(&self, peer: NodeId) -> bool {
        self.control.iter().any(|(have, _)| *have == peer)
    }

    fn has_data(&self, lane: Lane) -> bool {
        self.data.iter().any(|(have, _)| *have == lane)
    }
}

/// Why the nodes did not find each other.
#[derive(Debug, Error)]
pub enum MeshError {
    /// A node with a lower number cannot be reached.
    #[error("cannot connect to node {host}: {source}")]
    Dial {
        /// Its daemon.
        host: String,
        /// Why.
        source: HelloError,
    },
    /// A node with a higher number did not come.
    #[error("node {host} did not connect within {} s: can it reach {address}?", .limit.as_secs())]
    Missing {
        /// Its daemon.
        host: String,
        /// Where it should have connected to.
        address: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The clocks could not be compared.
    #[error("cannot compare clocks with node {host}: {source}")]
    Clock {
        /// The other node's daemon.
        host: String,
        /// Why.
        source: FrameError,
    },
    /// A connection cannot be set up.
    #[error("cannot set up a connection: {0}")]
    Socket(#[from] std::io::Error),
    /// The guest ended meanwhile.
    #[error("the launcher gave up")]
    Ended,
}

/// What a node needs to find the others.
pub struct Meeting<'a> {
    /// The guest.
    pub spec: &'a GuestSpec,
    /// Connections that the daemon hands over.
    pub arrivals: &'a Receiver<Arrival>,
    /// The launcher's connection: when it ends, there is nothing more to wait for.
    pub launcher: &'a TcpStream,
    /// Whether the guest has ended.
    pub life: &'a Life,
    /// How long all of it may take.
    pub limit: Duration,
}

impl Meeting<'_> {
    /// Connects to all other nodes and compares clocks.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub fn meet(&self) -> Result<Mesh, MeshError> {
        let by = Instant::now() + self.limit;
        let (mut found, shards) = (Found::default(), self.spec.stripes());
        for node in self.spec.peers().filter(|&node| node < self.spec.me) {
            found.control.push((node, self.dial(node, Channel::Control, by)?));
            for shard in shards.shards() {
                let lane = Lane { peer: node, shard };
                found.data.push((lane, self.dial(node, Channel::Data(shard), by)?));
            }
        }
        while let Some(missing) = self.missing(&found) {
            let arrival = self.next_arrival(missing, by)?;
            if !self.expects(&found, &arrival) {
                warn!("a connection from {} that was not expected is closed", arrival.from);
                continue;
            }
            socket::tune_peer(&arrival.stream, self.spec.links.lost_after())?;
            match arrival.channel {
                Channel::Control => found.control.push((arrival.from, arrival.stream)),
                Channel::Data(shard) => {
                    found.data.push((Lane { peer: arrival.from, shard }, arrival.stream));
                }
            }
        }
        let Found { mut control, mut data } = found;
        control.sort_by_key(|(node, _)| *node);
        data.sort_by_key(|(lane, _)| *lane);
        let clock = self.compare_clocks(&control, by)?;
        Ok(Mesh { control, data, clock })
    }

    /// A node of which not all connections are there.
    fn missing(&self, found: &Found) -> Option<NodeId> {
        let lacks = |&peer: &NodeId| {
            let mut lanes = self.spec.stripes().shards().map(|shard| Lane { peer, shard });
            !found.has_control(peer) || lanes.any(|lane| !found.has_data(lane))
        };
        self.spec.peers().find(lacks)
    }

    /// Whether this is a first connection of a node with a higher number, and not there yet.
    fn expects(&self, found: &Found, arrival: &Arrival) -> bool {
        let peer = arrival.from;
        let is_new = match arrival.channel {
            Channel::Control => !found.has_control(peer),
            Channel::Data(shard) => {
                shard.0 < self.spec.stripes().count() && !found.has_data(Lane { peer, shard })
            }
        };
        peer > self.spec.me && peer.index() < self.spec.nodes() && arrival.greeting.is_none() && is_new
    }

    fn dial(&self, node: NodeId, channel: Channel, by: Instant) -> Result<TcpStream, MeshError> {
        let host = &self.spec.hosts[node.index()];
        let role = Role::Peer { guest: self.spec.guest, from: self.spec.me, channel };
        let stream = socket::dial(&host.address, &role, by)
            .map_err(|source| MeshError::Dial { host: host.address.to_string(), source })?;
        socket::tune_peer(&stream, self.spec.links.lost_after())?;
        Ok(stream)
    }

    /// The next connection that comes; `missing` has not all of its own yet.
    fn next_arrival(&self, missing: NodeId, by: Instant) -> Result<Arrival, MeshError> {
        loop {
            match self.arrivals.recv_timeout(LOOK_AGAIN) {
                Ok(arrival) => return Ok(arrival),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(MeshError::Ended),
            }
            if self.life.cause().is_some() || socket::hung_up(self.launcher) {
                return Err(MeshError::Ended);
            }
            if Instant::now() >= by {
                return Err(MeshError::Missing {
                    host: self.spec.host_name(missing),
                    address: self.spec.host_name(self.spec.me),
                    limit: self.limit,
                });
            }
        }
    }

    fn compare_clocks(&self, control: &[(NodeId, TcpStream)], by: Instant) -> Result<Clock, MeshError> {
        let spec = self.spec;
        let fail = |node, source| MeshError::Clock { host: spec.host_name(node), source };
        let mut found = (TscOffset::SAME_MACHINE, 0);
        for (node, stream) in control {
            if spec.is_on_own_machine(*node) {
                continue;
            }
            if spec.me == NodeId::HOME {
                clock::answer_comparison(stream, by).map_err(|error| fail(*node, error))?;
            } else if *node == NodeId::HOME {
                found = clock::compare_with_node0(stream, by).map_err(|error| fail(*node, error))?;
                debug!(
                    "node 0's TSC is {} cycles ahead, give or take {}",
                    found.0.ahead, found.0.error_bound
                );
            }
        }
        Ok(Clock::new(found.0, found.1, spec.tsc_khz))
    }
}
