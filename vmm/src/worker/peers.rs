//! The control connections to the other nodes: writing, asking, and what was last heard.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{sync_channel, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tessera_dsm::link::session::Side;
use tessera_dsm::NodeId;

use crate::control::ask::{Ask, Outcome};
use crate::control::ending::{tidy, EndCause};
use crate::control::frame::FrameError;
use crate::control::line::Line;
use crate::control::peer::{PeerFrame, ASKS_OPEN_MAX};

/// Marks that a peer has not said how many pages it holds alone.
const PAGES_UNKNOWN: u64 = u64::MAX;

/// One control connection.
#[derive(Debug)]
pub struct PeerLink {
    node: NodeId,
    /// The address of the peer's daemon, for messages.
    host: String,
    line: Line,
    pages_alone: AtomicU64,
    ending: AtomicBool,
    asks: Mutex<HashMap<u64, SyncSender<Outcome>>>,
    next_ask: AtomicU64,
    /// Questions of the peer that are being answered here.
    answering: Arc<AtomicUsize>,
}

/// Leave to answer one question; given back when dropped.
#[derive(Debug)]
pub struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PeerLink {
    /// The link of `me` to `node` over a connection that is already set up.
    pub fn new(me: NodeId, node: NodeId, host: String, socket: TcpStream) -> Self {
        PeerLink {
            node,
            host,
            line: Line::new(Side::of(me, node), socket),
            pages_alone: AtomicU64::new(PAGES_UNKNOWN),
            ending: AtomicBool::new(false),
            asks: Mutex::default(),
            next_ask: AtomicU64::new(0),
            answering: Arc::default(),
        }
    }

    /// The peer.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The connection, for its one reader, and for new connections in place of broken ones.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Sends a frame, or keeps it for the next connection if there is none now; see [`Line::send`].
    ///
    /// # Errors
    /// When the frame is too large, or the peer is lost; its reader will see that too.
    pub fn send(&self, message: &PeerFrame) -> Result<(), FrameError> {
        self.line.send(message)
    }

    /// Whether a connection that ends need not be replaced: the peer has said that the guest ends, or this side has
    /// closed.
    pub fn is_over(&self) -> bool {
        self.ending.load(Ordering::SeqCst) || self.line.is_closed()
    }

    /// Asks the peer, and waits for its answer until the deadline.
    pub fn ask(&self, ask: Ask, by: Instant) -> Outcome {
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = sync_channel(1);
        {
            let mut asks = self.open_asks();
            if asks.len() >= ASKS_OPEN_MAX {
                return Err(format!("node {} has {ASKS_OPEN_MAX} questions open: try again", self.host));
            }
            asks.insert(id, answer);
        }
        let outcome = match self.send(&PeerFrame::Ask { id, ask }) {
            Ok(()) => {
                answered.recv_timeout(by.saturating_duration_since(Instant::now())).unwrap_or_else(|error| {
                    Err(match error {
                        RecvTimeoutError::Timeout => format!("node {} did not answer in time", self.host),
                        RecvTimeoutError::Disconnected => format!("node {} was lost", self.host),
                    })
                })
            }
            Err(error) => Err(format!("node {} cannot be asked: {error}", self.host)),
        };
        self.open_asks().remove(&id);
        outcome
    }

    /// Leave to answer a question of the peer, unless [`ASKS_OPEN_MAX`] are being answered.
    pub fn begin_answer(&self) -> Option<Turn> {
        let turn = Turn(self.answering.clone());
        // A turn that is not given is dropped here, and not counted any more.
        (turn.0.fetch_add(1, Ordering::SeqCst) < ASKS_OPEN_MAX).then_some(turn)
    }

    /// Takes the peer's answer; one that nobody waits for any more is dropped.
    pub fn answered(&self, id: u64, outcome: Outcome) {
        if let Some(answer) = self.open_asks().remove(&id) {
            let _gave_up = answer.try_send(outcome.map_err(|why| tidy(&why)));
        }
    }

    fn open_asks(&self) -> MutexGuard<'_, HashMap<u64, SyncSender<Outcome>>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer said how many pages it holds alone.
    pub fn heard_pages_alone(&self, pages: u64) {
        self.pages_alone.store(pages, Ordering::Relaxed);
    }

    /// The cause of the guest's end when this peer is lost, `how` being what was seen of it. If the peer has never said
    /// how many pages it holds alone, it is what this node's directory says, `by_directory`.
    pub fn loss(&self, how: String, by_directory: Option<u64>) -> EndCause {
        let pages = self.pages_alone.load(Ordering::Relaxed);
        EndCause::NodeLost {
            node: self.node,
            host: self.host.clone(),
            how,
            pages_alone: (pages != PAGES_UNKNOWN).then_some(pages).or(by_directory),
        }
    }
}

/// All control connections of a node.
#[derive(Debug, Default)]
pub struct Peers {
    links: Vec<Arc<PeerLink>>,
    /// Notified when a peer has said that the guest ends, or is gone.
    ended: (Mutex<()>, Condvar),
}

impl Peers {
    /// The links of a node.
    pub fn new(links: Vec<Arc<PeerLink>>) -> Self {
        Peers { links, ended: Default::default() }
    }

    /// All of them.
    pub fn links(&self) -> &[Arc<PeerLink>] {
        &self.links
    }

    /// The link to `node`, if that is a peer.
    pub fn link(&self, node: NodeId) -> Option<&Arc<PeerLink>> {
        self.links.iter().find(|link| link.node == node)
    }

    /// Sends a message of the machine.
    ///
    /// # Errors
    /// When the node is no peer, or is lost.
    pub fn send_machine(&self, to: NodeId, message: Vec<u8>) -> Result<(), FrameError> {
        match self.link(to) {
            Some(link) => link.send(&PeerFrame::Machine(message)),
            None => Err(FrameError::Closed),
        }
    }

    /// Notes that nothing more is to be waited for from this peer: it said that the guest ends, or it is
    /// gone.
    pub fn has_ended(&self, link: &PeerLink) {
        link.ending.store(true, Ordering::SeqCst);
        // Whoever hangs on an answer learns that there is none.
        link.open_asks().clear();
        let _order = self.ended.0.lock();
        self.ended.1.notify_all();
    }

    /// Waits until every peer has said that the guest ends, or is gone, or the time is over.
    pub fn await_all_ended(&self, limit: Duration) {
        let guard = self.ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        let some_left = |_: &mut ()| self.links.iter().any(|link| !link.ending.load(Ordering::SeqCst));
        // Whether it was all of them changes nothing: the guest is over.
        let _either = self.ended.1.wait_timeout_while(guard, limit, some_left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ask::Answer;
    use std::net::TcpListener;

    fn link() -> (Arc<PeerLink>, Line) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let there = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let here = listener.accept().expect("accept").0;
        (Arc::new(PeerLink::new(NodeId(0), NodeId(1), "b:1".into(), here)), Line::new(Side::Dials, there))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn an_answer_finds_its_question() {
        let (link, line) = link();
        let mut there = line.reader().expect("clone").expect("a connection");
        let asking = link.clone();
        let thread = std::thread::spawn(move || asking.ask(Ask::Vcpus, soon()));
        let PeerFrame::Ask { id, ask: Ask::Vcpus } = there.read(Some(soon())).expect("frame") else {
            panic!("not the question")
        };
        link.answered(id + 1, Ok(Answer::Stopping));
        link.answered(id, Ok(Answer::Vcpus(vec![])));
        link.answered(id, Ok(Answer::Stopping));
        assert_eq!(thread.join().expect("no panic"), Ok(Answer::Vcpus(vec![])));
    }

    #[test]
    fn a_question_ends_with_its_deadline_or_with_the_peer() {
        let (link, there) = link();
        let why = link.ask(Ask::Vcpus, Instant::now()).expect_err("no answer");
        assert_eq!(why, "node b:1 did not answer in time");
        let peers = Arc::new(Peers::new(vec![link.clone()]));
        let asking = link.clone();
        let thread = std::thread::spawn(move || asking.ask(Ask::Vcpus, soon()));
        while link.open_asks().is_empty() {
            std::thread::yield_now();
        }
        peers.has_ended(&link);
        assert_eq!(thread.join().expect("no panic"), Err("node b:1 was lost".into()));
        peers.await_all_ended(Duration::from_secs(60));
        drop(there);
    }

    #[test]
    fn a_loss_tells_what_was_last_heard() {
        let (link, _there) = link();
        let lost = |by_directory| match link.loss("x".into(), by_directory) {
            EndCause::NodeLost { pages_alone, .. } => pages_alone,
            other => panic!("{other:?}"),
        };
        assert_eq!((lost(None), lost(Some(3))), (None, Some(3)));
        link.heard_pages_alone(7);
        assert_eq!((lost(None), lost(Some(3))), (Some(7), Some(7)));
    }
}
