//! One node of one guest: the process between a launcher, the other nodes and a machine.
//!
//! The main thread brings the guest up, order by order, and then waits for orders and for the guest's end.
//! See [`crate::control::orders`] for the sequence. A guest's end is a [cause](EndCause) that the first node
//! to see it tells all others; each then halts its vCPUs, says so, waits for the others, and only then closes
//! its data connections, so that none of them takes an orderly end for the loss of a node.

pub mod asks;
pub mod bring_up;
pub mod clock;
pub mod image;
pub mod kvm_guest;
pub mod life;
pub mod machine;
pub mod mesh;
pub mod node;
pub mod peers;
mod rejoin;
#[cfg(test)]
mod tests;
mod transport;

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing::{info, warn};

use crate::control::ask::Outcome;
use crate::control::ending::{EndCause, StopReason};
use crate::control::frame::{self, FrameError, FrameReader};
use crate::control::hello::{self, Reply};
use crate::control::lifeline::{FromWorker, Lifeline, ToWorker};
use crate::control::orders::{Order, Report, Stage};
use crate::control::peer::PeerFrame;
use crate::control::socket::{self, FrameWriter};
use life::Life;
use machine::GuestBuilder;
use mesh::Arrival;
use node::{Node, ALIVE_EVERY};

/// Most connections of other nodes that wait to be taken.
const ARRIVALS_MAX: usize = (1 + tessera_dsm::SHARDS_MAX) * tessera_dsm::NODES_MAX;
/// Most users' connections at a time.
const USERS_MAX: usize = 16;
/// How long vCPUs may take to halt. One that waits for a page of a lost node never does; the process then
/// ends without it.
const HALT_LIMIT: Duration = Duration::from_millis(500);
/// How long the other nodes may take to say that they know of the end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// How long the launcher may take to read the last of the console.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Pause when the guest's console takes no input.
const INPUT_PAUSE: Duration = Duration::from_millis(5);

/// What the threads of a worker share before and after there is a node.
struct Worker {
    life: Arc<Life>,
    launcher: FrameWriter,
    lifeline: Lifeline,
    node: OnceLock<Arc<Node>>,
    users: AtomicUsize,
}

/// Runs a worker on the connections that its daemon gave it, until the guest has ended. `life` lets the
/// caller end it.
///
/// # Errors
/// When the connections are of no use. An end of the guest, whatever its cause, is none: the launcher is
/// told.
pub fn run(
    launcher: TcpStream,
    lifeline: Lifeline,
    life: Arc<Life>,
    builder: &dyn GuestBuilder,
) -> std::io::Result<()> {
    socket::tune(&launcher)?;
    launcher.set_write_timeout(None)?;
    let reading = launcher.try_clone()?;
    life.wake_reader_of(launcher.try_clone()?);
    let worker = Arc::new(Worker {
        life,
        launcher: FrameWriter::new(launcher),
        lifeline,
        node: OnceLock::new(),
        users: AtomicUsize::new(0),
    });
    let (arrival, arrivals) = sync_channel(ARRIVALS_MAX);
    let listening = worker.clone();
    thread("lifeline", move || listening.serve_lifeline(&arrival))?;
    if let Err(error) = hello::reply(&mut worker.launcher.socket(), &Reply::Welcome) {
        info!("the launcher is gone before it began: {error}");
        return Ok(());
    }
    let telling = worker.clone();
    thread("alive", move || telling.tell_alive())?;
    let mut reader = FrameReader::new(reading);
    let mut bring_up = bring_up::BringUp::new(&worker, &mut reader, arrivals);
    match bring_up.run(builder) {
        Ok(node) => {
            worker.attend(&node, &mut reader);
            worker.finish(&node);
        }
        Err(failed) => {
            let why = match worker.life.cause() {
                Some(cause) => cause.to_string(),
                None => failed.why,
            };
            warn!("the guest does not come up: {why}");
            let _gone = worker.launcher.socket().set_write_timeout(Some(FAREWELL_LIMIT));
            let _gone = worker.launcher.send(&Report::Failed { stage: failed.stage, why });
        }
    }
    worker.lifeline.hang_up();
    Ok(())
}

/// Starts a thread that is not waited for.
fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

impl Worker {
    /// Tells the daemon. A daemon that is gone takes this process with it.
    fn tell_daemon(&self, news: &FromWorker) {
        let _gone = self.lifeline.send(news);
    }

    /// Takes what the daemon hands over, until it is gone.
    fn serve_lifeline(self: &Arc<Self>, arrivals: &SyncSender<Arrival>) {
        loop {
            match self.lifeline.receive::<ToWorker>() {
                Ok(Some((ToWorker::Peer { from, channel }, Some(fd)))) => {
                    let arrival = Arrival { from, channel, greeting: None, stream: TcpStream::from(fd) };
                    hand_on(arrivals, arrival);
                }
                Ok(Some((ToWorker::Resume { from, channel, greeting }, Some(fd)))) => {
                    let greeting = Some(greeting);
                    hand_on(arrivals, Arrival { from, channel, greeting, stream: TcpStream::from(fd) });
                }
                Ok(Some((ToWorker::Cli, Some(fd)))) => self.admit_user(fd),
                Ok(Some((ToWorker::Shutdown, _))) => {
                    self.life.end(EndCause::Stopped(StopReason::DaemonShutdown));
                }
                Ok(Some((_, None))) => warn!("the daemon handed over a connection that is not there"),
                Ok(None) => break,
                Err(error) => {
                    warn!("the lifeline to the daemon failed: {error}");
                    break;
                }
            }
        }
        // A worker that nobody can reach or watch must not live on.
        self.life.end(EndCause::Stopped(StopReason::DaemonShutdown));
    }

    fn admit_user(self: &Arc<Self>, fd: OwnedFd) {
        let connection = TcpStream::from(fd);
        let Some(node) = self.node.get().cloned() else {
            return refuse_user(&connection, "the guest is still being started");
        };
        if self.users.fetch_add(1, Ordering::SeqCst) >= USERS_MAX {
            self.users.fetch_sub(1, Ordering::SeqCst);
            return refuse_user(&connection, "too many users ask at the same time: try again");
        }
        let worker = self.clone();
        let serve = move || {
            asks::serve_user(&node, &connection);
            worker.users.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = thread("user", serve) {
            self.users.fetch_sub(1, Ordering::SeqCst);
            warn!("cannot serve a user: {error}");
        }
    }

    /// Takes the launcher's orders while the guest runs, until it has ended.
    fn attend(&self, node: &Node, reader: &mut FrameReader<TcpStream>) {
        while self.life.cause().is_none() {
            match reader.read::<Order>(None) {
                Ok(Order::Input(bytes)) => node.input.put(&bytes),
                Ok(Order::Stop) => self.life.end(EndCause::Stopped(StopReason::Interrupt)),
                Ok(_) => warn!("an order that comes too late is ignored"),
                Err(FrameError::Malformed { .. } | FrameError::TooLarge { .. }) => {
                    warn!("the launcher sent what is no order");
                    self.life.end(EndCause::Stopped(StopReason::LauncherGone));
                }
                // The end of the guest cuts this read short too: then its cause is there already.
                Err(_) => self.life.end(EndCause::Stopped(StopReason::LauncherGone)),
            }
        }
    }

    /// Starts the threads that tell the launcher what happens, and feed the guest's console.
    fn start_launcher_threads(self: &Arc<Self>, node: &Arc<Node>) -> std::io::Result<()> {
        let (worker, source) = (self.clone(), node.clone());
        thread("console-out", move || worker.send_output(&source))?;
        let (worker, sink) = (self.clone(), node.clone());
        thread("console-in", move || worker.feed_input(&sink))
    }

    fn tell_alive(&self) {
        while self.launcher.send(&Report::Alive).is_ok() {
            std::thread::sleep(ALIVE_EVERY);
        }
    }

    fn send_output(&self, node: &Node) {
        while let Some(taken) = node.output.take() {
            let mut sent = Ok(());
            if !taken.bytes.is_empty() {
                sent = self.launcher.send(&Report::Console(taken.bytes));
            }
            if taken.lost > 0 && sent.is_ok() {
                sent = self.launcher.send(&Report::ConsoleLost { bytes: taken.lost });
            }
            if sent.is_err() {
                node.output.abandon();
                return;
            }
        }
    }

    fn feed_input(&self, node: &Node) {
        let Some(machine) = node.machine() else { return };
        while let Some(taken) = node.input.take() {
            let mut left = taken.bytes.as_slice();
            while !left.is_empty() && self.life.cause().is_none() {
                match machine.console_input(left) {
                    0 => std::thread::sleep(INPUT_PAUSE),
                    count => left = left.get(count..).unwrap_or_default(),
                }
            }
            let bytes = taken.bytes.len() as u32;
            if self.launcher.send(&Report::InputTaken { bytes }).is_err() {
                return;
            }
        }
    }

    /// Ends this node's part of a guest that has ended: tells the others, halts, says what it did, closes.
    fn finish(self: &Arc<Self>, node: &Arc<Node>) {
        let Some(cause) = self.life.cause() else { return };
        for link in node.peers.links() {
            let _lost = link.send(&PeerFrame::Ending(cause.clone()));
        }
        if let Some(machine) = node.machine().cloned() {
            within(HALT_LIMIT, move || machine.halt());
        }
        node.peers.await_all_ended(FAREWELL_LIMIT);
        node.input.close();
        node.output.close();
        node.output.await_empty(FLUSH_LIMIT);
        // The daemon first: the launcher may come back for a new life at once.
        self.tell_daemon(&FromWorker::Reached(Stage::Ended));
        let ended = Report::Ended { cause, stats: Box::new(node.stats()) };
        // A launcher that is suspended with its buffers full is not waited for.
        let worker = self.clone();
        within(FLUSH_LIMIT, move || {
            if let Err(error) = worker.launcher.send(&ended) {
                info!("the launcher did not hear of the end: {error}");
            }
        });
        if let Some(machine) = node.machine().cloned() {
            within(HALT_LIMIT, move || machine.close());
        }
        node.peers.links().iter().for_each(|link| link.line().close());
        socket::hang_up(self.launcher.socket());
    }
}

fn hand_on(arrivals: &SyncSender<Arrival>, arrival: Arrival) {
    let from = arrival.from;
    if arrivals.try_send(arrival).is_err() {
        warn!("a connection from {from} that nobody waits for is closed");
    }
}

fn refuse_user(connection: &TcpStream, why: &str) {
    let mut writer = connection;
    let refused: Outcome = Err(why.into());
    let _gone = connection.set_write_timeout(Some(FAREWELL_LIMIT));
    let _gone = frame::write(&mut writer, &refused);
}

/// Does `work` on a thread of its own and waits for it, but no longer than `limit`.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, finished) = sync_channel(1);
    let run = move || {
        work();
        let _late = done.send(());
    };
    if thread("ending", run).is_ok() && finished.recv_timeout(limit).is_err() {
        warn!("something does not end within {} ms: the process ends without it", limit.as_millis());
    }
}
