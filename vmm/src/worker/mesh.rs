//! Connecting to the other nodes of a guest.
//!
//! Of each two nodes the one with the higher number connects, through the daemon of the other, twice: for
//! control and for data. Then each node compares its clock with node 0's, while nothing else goes over the
//! connections.

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tessera_dsm::link::session::Greeting;
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
    /// For the pager, by node.
    pub data: Vec<(NodeId, TcpStream)>,
    /// The clock.
    pub clock: Clock,
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
        let (mut control, mut data) = (Vec::new(), Vec::new());
        for node in self.spec.peers().filter(|&node| node < self.spec.me) {
            control.push((node, self.dial(node, Channel::Control, by)?));
            data.push((node, self.dial(node, Channel::Data, by)?));
        }
        let wanted = self.spec.nodes() - 1;
        while control.len() < wanted || data.len() < wanted {
            let arrival = self.next_arrival(&control, &data, by)?;
            let side = if arrival.channel == Channel::Control { &mut control } else { &mut data };
            let expected = arrival.from > self.spec.me && arrival.from.index() < self.spec.nodes();
            if expected && arrival.greeting.is_none() && side.iter().all(|(node, _)| *node != arrival.from) {
                socket::tune_peer(&arrival.stream, self.spec.links.lost_after())?;
                side.push((arrival.from, arrival.stream));
            } else {
                warn!("a connection from {} that was not expected is closed", arrival.from);
            }
        }
        control.sort_by_key(|(node, _)| *node);
        data.sort_by_key(|(node, _)| *node);
        let clock = self.compare_clocks(&control, by)?;
        Ok(Mesh { control, data, clock })
    }

    fn dial(&self, node: NodeId, channel: Channel, by: Instant) -> Result<TcpStream, MeshError> {
        let host = &self.spec.hosts[node.index()];
        let role = Role::Peer { guest: self.spec.guest, from: self.spec.me, channel };
        let stream = socket::dial(&host.address, &role, by)
            .map_err(|source| MeshError::Dial { host: host.address.to_string(), source })?;
        socket::tune_peer(&stream, self.spec.links.lost_after())?;
        Ok(stream)
    }

    /// The next connection of a node with a higher number.
    fn next_arrival(
        &self,
        control: &[(NodeId, TcpStream)],
        data: &[(NodeId, TcpStream)],
        by: Instant,
    ) -> Result<Arrival, MeshError> {
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
                let there = |side: &[(NodeId, TcpStream)], node| side.iter().any(|(have, _)| *have == node);
                let missing = self.spec.peers().find(|&node| !there(control, node) || !there(data, node));
                return Err(MeshError::Missing {
                    host: self.spec.host_name(missing.unwrap_or(self.spec.me)),
                    address: self.spec.host_name(self.spec.me),
                    limit: self.limit,
                });
            }
        }
    }

    fn compare_clocks(&self, control: &[(NodeId, TcpStream)], by: Instant) -> Result<Clock, MeshError> {
        let spec = self.spec;
        let boot_id = |node: NodeId| &spec.hosts[node.index()].boot_id;
        let fail = |node, source| MeshError::Clock { host: spec.host_name(node), source };
        let mut found = (TscOffset::SAME_MACHINE, 0);
        for (node, stream) in control {
            // An empty boot id could not be read: then they are no evidence.
            if boot_id(*node) == boot_id(spec.me) && !boot_id(spec.me).is_empty() {
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
