//! New connections to other nodes in place of ones that broke.
//!
//! Of each two nodes the one with the higher number dials, as it did for the first connections. The other waits, and
//! asks the dialler's daemon now and then whether its worker still lives: a worker that has died is lost at once, a network
//! that is cut is waited for until the limit.

use std::io;
use std::net::TcpStream;
use std::sync::mpsc::Receiver;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_dsm::link::session::{Epoch, Greeting, SessionError};
use tessera_dsm::link::Link;
use tessera_dsm::pager::{Lane, LinkBroke, Rejoin};
use tessera_dsm::NodeId;
use tracing::{debug, info, warn};

use super::mesh::Arrival;
use super::node::Node;
use super::peers::PeerLink;
use super::transport;
use crate::control::frame::FrameError;
use crate::control::guest::GuestSpec;
use crate::control::hello::{Channel, HelloError, Role};
use crate::control::line::Offered;
use crate::control::socket;

/// How long one attempt may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// The least time for a new connection, where a process that was not running for a while finds one broken.
const LEAST_LIMIT: Duration = Duration::from_secs(1);
/// Pause before an attempt: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// How often who waits asks after the other's worker.
const VOUCH_EVERY: Duration = Duration::from_millis(250);

/// Why there is no new connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotRejoined {
    /// The other node's worker is there no more.
    Gone,
    /// It took too long.
    Late,
    /// The guest has ended, or the other node has said so.
    Over,
    /// The other node contradicts what it said before.
    Fault(SessionError),
}

/// What is said of a host that was asked for a guest's worker.
fn is_gone(error: &HelloError) -> bool {
    match error {
        // Its daemon says that there is none.
        HelloError::Refused(_) => true,
        // Nobody listens: a worker does not outlive its daemon.
        HelloError::Frame(FrameError::Io(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

/// Dials `to` until it answers, the time is over, or `is_over` says that there is no sense in it. The first attempt says
/// `greeting`, each further one the same in its own epoch.
///
/// # Errors
/// Why not.
fn dial(
    spec: &GuestSpec,
    to: NodeId,
    channel: Channel,
    mut greeting: Greeting,
    by: Instant,
    is_over: impl Fn() -> bool,
) -> Result<(TcpStream, Epoch), NotRejoined> {
    let Some(host) = spec.hosts.get(to.index()) else { return Err(NotRejoined::Gone) };
    let mut pause = PAUSES.0;
    loop {
        std::thread::sleep(pause);
        pause = PAUSES.1.min(pause * 2);
        if is_over() {
            return Err(NotRejoined::Over);
        }
        let begin = Instant::now();
        let role = Role::Resume { guest: spec.guest, from: spec.me, channel, greeting };
        match socket::dial(&host.address, &role, begin + ATTEMPT_LIMIT) {
            Ok(stream) => match socket::tune_peer(&stream, spec.links.lost_after()) {
                Ok(()) => return Ok((stream, greeting.epoch)),
                Err(error) => debug!("connection to {to}: {error}"),
            },
            Err(error) if is_gone(&error) => {
                debug!("connection to {to}: {error}");
                return Err(NotRejoined::Gone);
            }
            Err(error) => debug!("connection to {to}, {}: {error}", greeting.epoch),
        }
        // The last attempt may begin after the time is over, where this process was not running for a while.
        if begin >= by {
            return Err(NotRejoined::Late);
        }
        // It may have come to the other side all the same.
        greeting.epoch = greeting.epoch.next();
    }
}

/// Sees to a new control connection in place of one that broke.
///
/// # Errors
/// Why there is none.
pub(super) fn rejoin_control(spec: &GuestSpec, link: &PeerLink, by: Instant) -> Result<(), NotRejoined> {
    let by = by.max(Instant::now() + LEAST_LIMIT);
    let Some(greeting) = link.line().redial() else { return await_control(spec, link, by) };
    let is_over = || link.is_over();
    let (stream, epoch) = dial(spec, link.node(), Channel::Control, greeting, by, is_over)?;
    // Nobody else dials, so it is waited for.
    link.line().dialled(stream, epoch).map_err(|_| NotRejoined::Over)
}

/// The same for the side that does not dial.
fn await_control(spec: &GuestSpec, link: &PeerLink, by: Instant) -> Result<(), NotRejoined> {
    let Some(host) = spec.hosts.get(link.node().index()) else { return Err(NotRejoined::Gone) };
    loop {
        let left = by.saturating_duration_since(Instant::now());
        match link.line().await_offer(left.min(VOUCH_EVERY)) {
            Ok(Offered::Taken) => return Ok(()),
            Ok(Offered::Closed) => return Err(NotRejoined::Over),
            Ok(Offered::Nothing) if link.is_over() => return Err(NotRejoined::Over),
            Ok(Offered::Nothing) => {}
            Err(error) => return Err(NotRejoined::Fault(error)),
        }
        let now = Instant::now();
        if now >= by {
            return Err(NotRejoined::Late);
        }
        let vouch = Role::Vouch { guest: spec.guest };
        if socket::dial(&host.address, &vouch, by.min(now + VOUCH_EVERY)).is_err_and(|error| is_gone(&error))
        {
            return Err(NotRejoined::Gone);
        }
    }
}

/// Sees to a new data link in place of one that broke, on a thread of its own, if it is this node that dials. What comes of
/// it is the pager's to see; a node that is lost shows on the control connection first.
pub(super) fn rejoin_data(node: &Arc<Node>, broke: &LinkBroke) {
    let LinkBroke { lane, how: _, redial: Some(mut greeting) } = *broke else { return };
    let Lane { peer, shard } = lane;
    let (node, spec) = (node.clone(), node.spec.clone());
    let work = move || {
        let by = Instant::now() + spec.links.lost_after();
        loop {
            let is_over = || node.life.cause().is_some();
            let (stream, epoch) = match dial(&spec, peer, Channel::Data(shard), greeting, by, is_over) {
                Ok(dialled) => dialled,
                Err(why) => return debug!("no new data connection to {peer}: {why:?}"),
            };
            match transport::data_link(&spec, peer, stream, Instant::now() + ATTEMPT_LIMIT) {
                Ok(link) => return relink(&node, lane, link, Rejoin::Dialled(epoch)),
                Err(error) if Instant::now() >= by => {
                    return debug!("no new data connection to {peer}: {error}")
                }
                Err(error) => debug!("data connection to {peer}, {epoch}: {error}"),
            }
            greeting.epoch = epoch.next();
        }
    };
    if let Err(error) = std::thread::Builder::new().name(format!("redial{}", peer.0)).spawn(work) {
        warn!("no new data connection to {peer}: cannot start a thread: {error}");
    }
}

/// Gives the pager a new link.
fn relink(node: &Node, lane: Lane, link: Box<dyn Link>, rejoin: Rejoin) {
    match node.machine() {
        Some(machine) => machine.relink(lane, link, rejoin),
        // The dialler finds it closed, and comes again.
        None => debug!("a data connection of {} comes before the pager", lane.peer),
    }
}

/// Takes connections that other nodes make in place of ones that broke, for as long as the daemon hands any over.
pub(super) fn serve_arrivals(node: &Node, arrivals: &Receiver<Arrival>) {
    for Arrival { from, channel, greeting, stream } in arrivals {
        let is_one = match channel {
            Channel::Control => true,
            Channel::Data(shard) => shard.0 < node.spec.stripes().count(),
        };
        let link = node.peers.link(from).filter(|_| from > node.spec.me && is_one);
        let (Some(link), Some(greeting)) = (link, greeting) else {
            warn!("a connection from {from} that was not expected is closed");
            continue;
        };
        if let Err(error) = socket::tune_peer(&stream, node.spec.links.lost_after()) {
            warn!("a connection from {from} cannot be used: {error}");
            continue;
        }
        info!("node {from} connects anew ({channel:?}, {})", greeting.epoch);
        match channel {
            Channel::Control => {
                if let Err(stale) = link.line().offer(stream, greeting) {
                    debug!("control connection of {from}: {stale}");
                }
            }
            Channel::Data(shard) => {
                let lane = Lane { peer: from, shard };
                match transport::data_link(&node.spec, from, stream, Instant::now() + ATTEMPT_LIMIT) {
                    Ok(link) => relink(node, lane, link, Rejoin::Accepted(greeting)),
                    Err(error) => warn!("a data connection of {from} cannot be used: {error}"),
                }
            }
        }
    }
}
