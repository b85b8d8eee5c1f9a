//! A node that is connected: its peers, its machine, and what it does with what the peers send.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tessera_dsm::pager::LinkBroke;
use tessera_dsm::NodeId;
use tracing::info;

use super::asks;
use super::clock::{self, Clock};
use super::life::Life;
use super::machine::{GuestEvents, GuestMachine};
use super::mesh::Arrival;
use super::peers::{PeerLink, Peers};
use super::rejoin::{self, NotRejoined};
use crate::control::ask::{Ask, Outcome};
use crate::control::byte_queue::ByteQueue;
use crate::control::ending::EndCause;
use crate::control::frame::FrameError;
use crate::control::guest::GuestSpec;
use crate::control::orders::INPUT_BYTES_MAX;
use crate::control::peer::{PeerFrame, ASKS_OPEN_MAX};
use crate::control::stats::NodeStats;
use crate::host::priority::{self, Priority};
use crate::time::estimate::Round;

/// Most bytes of console output that wait for the launcher.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// How often a node says that it is alive.
pub const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// After a silence of [`LinkSpec::lost_after`](crate::control::guest::LinkSpec::lost_after), how long to look for bytes that arrived while this process was not
/// running.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// A node of a guest.
pub struct Node {
    /// The guest.
    pub spec: Arc<GuestSpec>,
    /// Its end.
    pub life: Arc<Life>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// This host's clock.
    pub clock: Clock,
    /// Console output on its way to the launcher.
    pub output: Arc<ByteQueue>,
    /// Console input on its way to the guest.
    pub input: ByteQueue,
    machine: OnceLock<Arc<dyn GuestMachine>>,
    started: OnceLock<Instant>,
}

impl Node {
    /// A node without a machine.
    pub fn new(spec: Arc<GuestSpec>, life: Arc<Life>, peers: Arc<Peers>, clock: Clock) -> Self {
        Node {
            spec,
            life,
            peers,
            clock,
            output: Arc::new(ByteQueue::new(OUTPUT_BYTES_MAX)),
            input: ByteQueue::new(INPUT_BYTES_MAX),
            machine: OnceLock::new(),
            started: OnceLock::new(),
        }
    }

    /// Gives the node its machine. Only the first one counts.
    pub fn set_machine(&self, machine: Arc<dyn GuestMachine>) {
        let _only_once = self.machine.set(machine);
    }

    /// The machine, once there is one.
    pub fn machine(&self) -> Option<&Arc<dyn GuestMachine>> {
        self.machine.get()
    }

    /// The vCPUs run from now on.
    pub fn set_started(&self) {
        let _only_once = self.started.set(Instant::now());
    }

    /// For how long the vCPUs have been running.
    pub fn running(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// The address of this node's daemon.
    pub fn host(&self) -> String {
        self.spec.host_name(self.spec.me)
    }

    /// What the machine tells of itself goes here.
    pub fn events(self: &Arc<Self>) -> Arc<dyn GuestEvents> {
        Arc::new(Events {
            spec: self.spec.clone(),
            life: self.life.clone(),
            peers: self.peers.clone(),
            output: self.output.clone(),
            node: Arc::downgrade(self),
        })
    }

    /// This node's figures.
    pub fn stats(&self) -> NodeStats {
        let mut stats = NodeStats::empty(self.spec.me, self.host());
        stats.clock = self.clock.stats();
        let resumed: u64 = self.peers.links().iter().map(|link| link.line().resumed()).sum();
        if let Some(machine) = self.machine() {
            machine.fill_stats(&mut stats);
            stats.vcpus = machine.vcpus();
            stats.vcpus.retain(|vcpu| vcpu.node == self.spec.me);
        }
        stats.traffic.links_resumed += resumed;
        stats
    }

    /// Starts the two threads of each peer: one reads what it sends, one tells it that this node is alive. And one for
    /// connections that peers make in place of broken ones.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start_peer_threads(self: &Arc<Self>, arrivals: Receiver<Arrival>) -> std::io::Result<()> {
        let node = self.clone();
        let serve = move || rejoin::serve_arrivals(&node, &arrivals);
        std::thread::Builder::new().name("arrivals".into()).spawn(serve)?;
        for link in self.peers.links() {
            let number = link.node().0;
            let thread = |name: String| std::thread::Builder::new().name(name);
            let (node, reading) = (self.clone(), link.clone());
            thread(format!("peer{number}")).spawn(move || {
                node.hurry();
                node.read_peer(&reading);
            })?;
            let (node, telling) = (self.clone(), link.clone());
            thread(format!("alive{number}")).spawn(move || node.tell_alive(&telling))?;
        }
        Ok(())
    }

    /// Has the calling thread run before the guest's vCPUs, where these may fill the host.
    fn hurry(&self) {
        if priority::crowded(self.spec.vcpus.len()) {
            if let Err(error) = priority::set_own(Priority::RealTime) {
                tracing::debug!("no real-time priority: {error}");
            }
        }
    }

    fn tell_alive(&self, link: &PeerLink) {
        let compare = link.node() == NodeId::HOME && !self.clock.is_same_machine();
        while self.life.cause().is_none() {
            let pages_alone = self.machine().map_or(0, |machine| machine.pages_alone());
            let mut sent = link.send(&PeerFrame::Alive { pages_alone });
            if compare && sent.is_ok() {
                sent = link.send(&PeerFrame::ClockPing { sent: clock::tsc() });
            }
            if sent.is_err() {
                // The reader finds the connection ended and says why.
                return;
            }
            std::thread::sleep(ALIVE_EVERY);
        }
    }

    /// Reads what a peer sends, over one connection after the other, until the peer or the guest is lost or over.
    fn read_peer(self: &Arc<Self>, link: &Arc<PeerLink>) {
        let mut heard = Instant::now();
        let how = loop {
            let how = match self.read_connection(link, &mut heard) {
                Ok(how) => how,
                Err(over) => break over,
            };
            let how = link.line().broke().unwrap_or(how);
            if link.is_over() {
                break Some(how);
            }
            info!("control connection to {}: {how}; waiting for a new one", link.node());
            match rejoin::rejoin_control(&self.spec, link, heard + self.spec.links.lost_after()) {
                Ok(()) => info!("control connection to {}: a new one", link.node()),
                Err(NotRejoined::Gone | NotRejoined::Over) => break Some(how),
                Err(NotRejoined::Late) => break Some(format!("{how}, and no new connection could be made")),
                Err(NotRejoined::Fault(error)) => {
                    self.life.end(self.fault_of(link, &error.to_string()));
                    break None;
                }
            }
        };
        if let Some(how) = how {
            // After an end this is how every connection goes; then the first cause stays.
            let by_directory = self.machine().and_then(|machine| machine.pages_only_at(link.node()));
            self.life.end(link.loss(how, by_directory));
        }
        self.peers.has_ended(link);
        link.line().close();
    }

    /// Reads one connection to a peer. Its end, and how it came, or `Err` when there is no sense in another one: with how
    /// the peer was lost, if it was.
    fn read_connection(
        self: &Arc<Self>,
        link: &Arc<PeerLink>,
        heard: &mut Instant,
    ) -> Result<String, Option<String>> {
        let lost_after = self.spec.links.lost_after();
        let mut reader = match link.line().reader() {
            Ok(Some(reader)) => reader,
            Ok(None) => return Ok("connection closed".into()),
            Err(error) => return Ok(error.to_string()),
        };
        loop {
            let frame = match reader.read::<PeerFrame>(Some(*heard + lost_after)) {
                Err(FrameError::TimedOut) => reader.read(Some(Instant::now() + LAST_LOOK)),
                other => other,
            };
            let fault = match frame {
                Ok(frame) => {
                    *heard = Instant::now();
                    self.act(link, frame).err()
                }
                Err(FrameError::TimedOut) => {
                    return Err(Some(format!("nothing heard for {} s", lost_after.as_secs_f64())))
                }
                Err(error) if error.is_fault() => Some(error.to_string()),
                Err(error) => return Ok(error.to_string()),
            };
            if let Some(what) = fault {
                self.life.end(self.fault_of(link, &what));
                return Err(None);
            }
        }
    }

    /// A peer did what no node does.
    fn fault_of(&self, link: &PeerLink, what: &str) -> EndCause {
        let (node, host) = (link.node(), self.spec.host_name(link.node()));
        EndCause::Failed { node, host, what: format!("it sent what cannot be used: {what}") }.tidied()
    }

    /// Does what a peer's frame asks. An error says what is wrong with the frame.
    fn act(self: &Arc<Self>, link: &Arc<PeerLink>, frame: PeerFrame) -> Result<(), String> {
        match frame {
            PeerFrame::Machine(message) => match self.machine() {
                Some(machine) => machine.deliver(link.node(), &message)?,
                None => return Err("a message for a machine that is not there yet".into()),
            },
            PeerFrame::Alive { pages_alone } => link.heard_pages_alone(pages_alone),
            PeerFrame::ClockPing { sent } => {
                // If it cannot be sent, the next read finds the connection ended.
                let _lost = link.send(&PeerFrame::ClockPong { sent, there: clock::tsc() });
            }
            PeerFrame::ClockPong { sent, there } if link.node() == NodeId::HOME => {
                self.clock.add(Round { sent, there, back: clock::tsc() });
            }
            PeerFrame::ClockPong { .. } | PeerFrame::ClocksCompared => {
                return Err("a clock comparison that nobody asked for".into());
            }
            PeerFrame::Ask { id, ask } => self.answer_on_a_thread(link, id, ask),
            PeerFrame::Answer { id, outcome } => link.answered(id, *outcome),
            PeerFrame::Ending(cause) => {
                self.life.end(cause.tidied());
                self.peers.has_ended(link);
            }
        }
        Ok(())
    }

    /// Answers a peer's question without keeping its reader: a move waits for what the reader delivers. One question
    /// too many is refused on the spot: who floods and does not read the answers is soon lost.
    fn answer_on_a_thread(self: &Arc<Self>, link: &Arc<PeerLink>, id: u64, ask: Ask) {
        let answer = move |link: &PeerLink, outcome: Outcome| {
            // If it cannot be sent, the next read finds the connection ended.
            let _lost = link.send(&PeerFrame::Answer { id, outcome: Box::new(outcome) });
        };
        let Some(turn) = link.begin_answer() else {
            return answer(link, Err(format!("{ASKS_OPEN_MAX} questions are open already: try again")));
        };
        let (node, back) = (self.clone(), link.clone());
        let work = move || {
            answer(&back, asks::answer_peer(&node, &ask));
            drop(turn);
        };
        if let Err(error) = std::thread::Builder::new().name("ask".into()).spawn(work) {
            answer(link, Err(format!("cannot start a thread: {error}")));
        }
    }
}

/// Where the machine tells what happens.
struct Events {
    spec: Arc<GuestSpec>,
    life: Arc<Life>,
    peers: Arc<Peers>,
    output: Arc<ByteQueue>,
    /// (The node has the machine, and the machine has this.)
    node: Weak<Node>,
}

impl GuestEvents for Events {
    fn console(&self, bytes: &[u8]) {
        self.output.put(bytes);
    }

    fn ended(&self, cause: EndCause) {
        self.life.end(cause);
    }

    fn failed(&self, what: String) {
        let (node, host) = (self.spec.me, self.spec.host_name(self.spec.me));
        self.life.end(EndCause::Failed { node, host, what }.tidied());
    }

    fn link_broke(&self, broke: LinkBroke) {
        if let Some(node) = self.node.upgrade().filter(|node| node.life.cause().is_none()) {
            rejoin::rejoin_data(&node, &broke);
        }
    }

    fn peer_lost(&self, node: NodeId, how: String, pages_only_there: Option<u64>) {
        // The data connections of a guest that ends close too. Then the control connection has said so, or is
        // about to.
        if let Some(link) = self.peers.link(node) {
            self.life.end_unless_explained(link.loss(how, pages_only_there));
        }
    }
}
