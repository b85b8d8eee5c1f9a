//! The daemon of a host: one port, over which launchers, other nodes and users come.
//!
//! It runs no guest itself. Each guest has a [worker](crate::worker) process, so that a guest that goes wrong
//! takes nothing with it; the daemon only hands connections on, keeps the list of guests and notices when a
//! worker dies.
//!
//! ```text
//! accept -> thread: Hello (bounded, 5 s) -> Offer, List: answered here
//!                                        -> Create: the spawner thread starts a worker with the connection
//!                                        -> Peer, Cli: handed to the worker over its lifeline
//! worker exits -> its waiter thread: log, list of lost guests
//! ```
//! Workers are started by one thread that lives as long as the daemon, because the kernel ties the death
//! signal of a child to the *thread* that made it.

mod connection;
mod guests;
pub mod spawn;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{info, warn};

use crate::control::address::{AddressError, HostAddress};
use guests::{Guests, Reservation};
use spawn::WorkerSpawner;

/// Guests that a daemon takes unless told otherwise.
pub const GUESTS_MAX_DEFAULT: usize = 16;
/// Most connections that have not got through their Hello.
const HANDSHAKES_MAX: usize = 256;
/// How long workers may take to end their guests when the daemon ends.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(4);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may reach the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposure {
    /// Only this machine.
    Loopback,
    /// The network that the address belongs to.
    Public,
}

/// How to run a daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Where to listen; port 0 takes any free one.
    pub listen: HostAddress,
    /// Who may reach it.
    pub exposure: Exposure,
    /// Most guests at a time.
    pub guests_max: usize,
}

/// Why a daemon cannot start.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The address cannot be used.
    #[error("cannot listen on {address}: {}{}", crate::control::frame::plain(.source), remedy(.source))]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The address has no meaning.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address is public and nobody said that this is meant.
    #[error(
        "{0} can be reached from other machines, and nodes do not authenticate each other yet: \
         whoever reaches the port can run guests here and read their memory. \
         If the network is trusted, add --public"
    )]
    Public(String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// What to do about a port that cannot be had.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has this port, perhaps another `tessera node`: choose one with --listen"
        }
        io::ErrorKind::AddrNotAvailable => "; --listen takes an address that this host has",
        io::ErrorKind::PermissionDenied => "; without root, choose a port above 1023 with --listen",
        _ => "",
    }
}

/// A daemon that listens.
pub struct Daemon {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    shared: Arc<Shared>,
    spawning: Receiver<SpawnerOrder>,
    spawner: Box<dyn WorkerSpawner>,
}

/// What the daemon's threads share.
struct Shared {
    guests: Arc<Guests>,
    spawner: Sender<SpawnerOrder>,
    handshakes: AtomicUsize,
    stopping: AtomicBool,
}

/// What the spawner thread is told.
enum SpawnerOrder {
    /// A launcher's connection needs a worker.
    Start(SpawnRequest),
    /// The daemon ends.
    End,
}

/// A launcher's connection that needs a worker.
struct SpawnRequest {
    reservation: Reservation,
    launcher: TcpStream,
}

/// Ends a daemon from another thread.
#[derive(Clone)]
pub struct Stopper {
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
}

impl Stopper {
    /// Makes [`Daemon::run`] stop all guests and return.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accept; it fails only when nobody listens any more.
        let _already = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

impl Daemon {
    /// Listens. Connections wait until [`Daemon::run`].
    ///
    /// # Errors
    /// When the address is public without leave, or cannot be had.
    pub fn bind(options: &DaemonOptions, spawner: Box<dyn WorkerSpawner>) -> Result<Daemon, DaemonError> {
        let fail = |source| DaemonError::Listen { address: options.listen.to_string(), source };
        let sockets = options.listen.resolve().map_err(fail)?;
        if options.exposure == Exposure::Loopback && sockets.iter().any(|socket| !socket.ip().is_loopback()) {
            return Err(DaemonError::Public(options.listen.to_string()));
        }
        let listener = TcpListener::bind(sockets.as_slice()).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let (spawn_tx, spawning) = mpsc::channel();
        let shared = Arc::new(Shared {
            guests: Arc::new(Guests::new(options.guests_max)),
            spawner: spawn_tx,
            handshakes: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        Ok(Daemon { listener: Arc::new(listener), address, shared, spawning, spawner })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Something to end it with.
    pub fn stopper(&self) -> Stopper {
        Stopper { listener: self.listener.clone(), shared: self.shared.clone() }
    }

    /// Serves until it is stopped, then stops all guests. No worker is left when it returns.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn run(self) -> Result<(), DaemonError> {
        let Daemon { listener, shared, spawning, spawner, .. } = self;
        let guests = shared.guests.clone();
        let spawn_loop = move || {
            while let Ok(SpawnerOrder::Start(request)) = spawning.recv() {
                start_worker(&guests, &*spawner, request);
            }
        };
        let thread = std::thread::Builder::new().name("spawner".into());
        let spawner_thread = thread.spawn(spawn_loop).map_err(DaemonError::Thread)?;
        accept_loop(&listener, &shared);
        stop_guests(&shared.guests);
        // It fails only when the thread has ended; and a panic in it was printed there.
        let _ended = shared.spawner.send(SpawnerOrder::End);
        let _panicked = spawner_thread.join();
        Ok(())
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopping.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, from)) => admit(shared, stream, from),
            Err(_) if shared.stopping.load(Ordering::SeqCst) => {}
            Err(error) => {
                warn!("cannot accept a connection: {error}");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Gives the connection a thread, unless there are too many already.
fn admit(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    if shared.handshakes.fetch_add(1, Ordering::SeqCst) >= HANDSHAKES_MAX {
        shared.handshakes.fetch_sub(1, Ordering::SeqCst);
        warn!("connection from {from} closed: {HANDSHAKES_MAX} others have not said what they want");
        return;
    }
    let thread_shared = shared.clone();
    let serve = move || {
        connection::serve(&thread_shared, stream, from);
        thread_shared.handshakes.fetch_sub(1, Ordering::SeqCst);
    };
    if let Err(error) = std::thread::Builder::new().name("connection".into()).spawn(serve) {
        shared.handshakes.fetch_sub(1, Ordering::SeqCst);
        warn!("connection from {from} closed: cannot start a thread: {error}");
    }
}

/// Starts a worker for a launcher, with threads that listen to it and wait for its end.
fn start_worker(guests: &Arc<Guests>, spawner: &dyn WorkerSpawner, request: SpawnRequest) {
    let SpawnRequest { reservation, launcher } = request;
    let (id, name) = (reservation.id(), reservation.name().clone());
    let refusal = launcher.try_clone();
    match guests.start(reservation, spawner, launcher) {
        Ok(pid) => info!("guest {name} ({id}): worker {pid} started"),
        Err(error) => {
            warn!("guest {name} ({id}): cannot start a worker: {error}");
            if let Ok(launcher) = refusal {
                connection::refuse(&launcher, format!("cannot start a worker: {error}"));
            }
        }
    }
}

/// Asks all workers to end their guests, and kills those that do not.
fn stop_guests(guests: &Guests) {
    guests.ask_all_to_end();
    if guests.wait_until_none(Instant::now() + SHUTDOWN_LIMIT) {
        return;
    }
    guests.kill_all();
    if !guests.wait_until_none(Instant::now() + SHUTDOWN_LIMIT) {
        warn!("a worker cannot be killed; it ends with this process");
    }
}
