//! The pager: the threads that drive the protocol from userfaultfd and from their links.
//!
//! One thread owns all of a part of memory, a [shard](crate::stripes): a userfaultfd, a protocol core, a connection to each
//! peer. It waits in one `epoll` for the guest's faults, the peers' frames, commands of other threads, and the core's next
//! deadline; it never waits for guest memory, a device or another pager. It carries out the core's actions in order. A
//! [`Pager`] is all of them: mostly one, more where one thread cannot serve as many faults as there are.
//!
//! **Nothing leaves before it is true.** Frames that an event gives rise to are queued (a page's bytes are read at that
//! moment) and go out when all actions of the event are done. A page that was granted to another node is thus out of
//! this guest's reach before that node can write it, even if this thread is held up in between.
//!
//! **Links.** One that breaks is replaced ([`Resume`]): nothing that was sent over it is lost. If that does not succeed
//! in time, or nobody is there to do it, the peer is lost.
//!
//! **Failure.** When a peer is lost, breaks the protocol, or the kernel refuses an operation, the pager reports one
//! [`PagerFailure`], closes its connections, lets borrowers go and serves no more faults: vCPUs that wait go on
//! waiting, because there is no right page to give them. [`Pager::stop`] releases them.
//!
//! **Stopping.** Tell the vCPUs to quit first, then call [`Pager::stop`] (or drop the pager), then join the vCPU threads:
//! closing the userfaultfd releases those that wait, and they would find zeros in place of pages that this node does
//! not hold. To the peers a node that stops looks like one that is lost, so an orderly end is agreed on beforehand
//! and failures are ignored from then on. [`NodeMemory`] outlives the pager, and KVM's memory slots.

mod ahead;
mod arrivals;
mod batch;
mod borrow;
mod driver;
mod hot;
mod links;
mod pages;
mod shard;
mod siblings;
mod stalls;
mod stats;
mod tables;
mod waiting;

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{sync_channel, SyncSender};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::EventfdFlags;
use thiserror::Error;
use vm_memory::GuestMemoryMmap;

use self::borrow::{BorrowRequest, FetchRequest};
use self::driver::{Driver, Neighbourhood};
use self::links::NewLink;
use self::shard::ShardThread;
use self::siblings::Siblings;
use crate::ids::{Gfn, NodeId, Shard, NODES_MAX};
use crate::link::{Link, TcpLink};
use crate::memory::{MemoryError, NodeMemory};
use crate::protocol::{Access, HabitPolicy, LeasePolicy, Micros};
use crate::stripes::Stripes;

pub use arrivals::{Arrivals, Arrived};
pub use borrow::{BorrowError, Borrowed, BorrowedPages, PageSet, Wanted, BORROW_PAGES_MAX};
pub use hot::{HotPage, HOTTEST_MAX};
pub use links::{Lane, LinkBroke, Rejoin, Resume};
pub use pages::PagesError;
pub use stalls::Stall;
pub use stats::{LatencyStats, PagerStats};
pub use tables::TableCache;

/// Commands that may wait for the pager; whoever sends one more waits until it has taken one.
const COMMANDS_MAX: usize = 256;

/// Whether guest memory is tracked page by page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    /// No: the guest has one node, all memory is always its own, and no userfaultfd is opened.
    Off,
    /// Yes.
    On,
}

/// Whether pages behind those that a vCPU went through in order are asked for before it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskAhead {
    /// No: each page costs a fault.
    Off,
    /// Yes, in a window that grows with the stream.
    On,
}

/// What a pager must know to start.
#[derive(Clone, Debug)]
pub struct PagerConfig {
    /// This node.
    pub me: NodeId,
    /// How many nodes the guest has.
    pub nodes: u8,
    /// Runs of pages `(first, pages)` that were filled before the start; the same list on every node.
    pub preloaded: Vec<(Gfn, u64)>,
    /// How long granted pages are kept.
    pub lease: LeasePolicy,
    /// What this node makes of the way in which the pages are used whose home it is.
    pub habits: HabitPolicy,
    /// How guest memory is shared out among the node's pager threads; the same on every node.
    pub stripes: Stripes,
    /// Whether guest memory is tracked.
    pub tracking: Tracking,
    /// Whether pages are asked for before the guest does.
    pub ahead: AskAhead,
}

/// Why a pager could not start.
#[derive(Debug, Error)]
pub enum PagerError {
    /// The node numbers contradict each other.
    #[error("cannot be {me} of a guest of {nodes} nodes with the peers {peers:?}: {why}")]
    Config {
        /// This node.
        me: NodeId,
        /// Nodes in the guest.
        nodes: u8,
        /// The peers given.
        peers: Vec<NodeId>,
        /// What is wrong.
        why: &'static str,
    },
    /// Memory was filled that is not in the list of preloaded pages, or whose home is another node.
    #[error("{0} was filled before the start, but it is not a preloaded page of this node")]
    Stray(Gfn),
    /// Guest memory could not be searched.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Guest memory could not be tracked.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// A connection could not be set up.
    #[error("connection to {peer}: {source}")]
    Link {
        /// Whose.
        peer: NodeId,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread or what it waits with could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The end of the node's part in the guest: no page moves any more.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{}{what}", .peer.map(|peer| format!("{peer}: ")).unwrap_or_default())]
pub struct PagerFailure {
    /// The peer that was lost or misbehaved; `None` if the trouble is here.
    pub peer: Option<NodeId>,
    /// What happened, in one sentence.
    pub what: String,
    /// How many pages only that peer has, as far as this node is their home: of all of the node's pagers; see
    /// [`Node::pages_only_at`](crate::protocol::Node::pages_only_at).
    pub pages_only_there: Option<u64>,
}

impl PagerFailure {
    /// Trouble of this node's own.
    fn here(what: String) -> Self {
        PagerFailure { peer: None, what, pages_only_there: None }
    }

    /// A peer is lost, or to blame.
    fn of(peer: NodeId, what: String) -> Self {
        PagerFailure { peer: Some(peer), what, pages_only_there: None }
    }
}

/// What the pager calls.
pub struct PagerHooks {
    /// Called at most once, on a pager thread; must not wait for anything that needs the pager.
    pub on_failure: Box<dyn Fn(PagerFailure) + Send + Sync>,
    /// What this host makes of guest page tables, where it does; see [`TableCache`].
    pub tables: Option<Box<dyn TableCache>>,
    /// Who replaces links that break. `None`: a link that breaks is a lost peer.
    pub resume: Option<Resume>,
}

impl<F: Fn(PagerFailure) + Send + Sync + 'static> From<Box<F>> for PagerHooks {
    fn from(on_failure: Box<F>) -> Self {
        PagerHooks { on_failure, tables: None, resume: None }
    }
}

impl From<Box<dyn Fn(PagerFailure) + Send + Sync>> for PagerHooks {
    fn from(on_failure: Box<dyn Fn(PagerFailure) + Send + Sync>) -> Self {
        PagerHooks { on_failure, tables: None, resume: None }
    }
}

/// [`PagerHooks::on_failure`], for all threads.
type OnFailure = Arc<dyn Fn(PagerFailure) + Send + Sync>;

/// What other threads ask of a pager thread.
enum Command {
    Fetch(FetchRequest),
    Borrow(BorrowRequest),
    Return(PageSet),
    Stats(SyncSender<PagerStats>),
    RealTime(SyncSender<io::Result<()>>),
    PagesOnlyAt(NodeId, SyncSender<u64>),
    Relink(NewLink),
    BusyPoll(Micros),
    Stop,
}

/// Announces commands to the pager's `epoll`.
struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Bell(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn ring(&self) {
        // It fails only when the counter is full: then the bell has rung and is still heard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // It fails only when the bell has not rung.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A node's running pager: all of its pager threads.
pub struct Pager {
    memory: Arc<NodeMemory>,
    alias: GuestMemoryMmap,
    stripes: Stripes,
    /// By shard; none with [`Tracking::Off`].
    shards: Vec<ShardThread>,
}

impl Pager {
    /// Starts the pager with a TCP connection to each peer, or one for each shard. `on_failure` is called at most once, on a
    /// pager thread; it must not wait for anything that needs the pager.
    ///
    /// # Errors
    /// If the configuration contradicts itself, memory was filled that is not preloaded, or the kernel refuses.
    pub fn start(
        config: PagerConfig,
        memory: Arc<NodeMemory>,
        peers: Vec<(Lane, TcpStream)>,
        hooks: impl Into<PagerHooks>,
    ) -> Result<Pager, PagerError> {
        let mut links: Vec<(Lane, Box<dyn Link>)> = Vec::with_capacity(peers.len());
        for (lane, stream) in peers {
            let link = TcpLink::new(stream).map_err(|source| PagerError::Link { peer: lane.peer, source })?;
            links.push((lane, Box::new(link)));
        }
        Pager::start_with_links(config, memory, links, hooks)
    }

    /// As [`Pager::start`], with any kind of link.
    ///
    /// # Errors
    /// As [`Pager::start`].
    pub fn start_with_links(
        config: PagerConfig,
        memory: Arc<NodeMemory>,
        links: Vec<(Lane, Box<dyn Link>)>,
        hooks: impl Into<PagerHooks>,
    ) -> Result<Pager, PagerError> {
        check(&config, &memory, &links)?;
        let (alias, stripes) = (memory.alias_view(), config.stripes);
        let shards = match config.tracking {
            Tracking::Off => Vec::new(),
            Tracking::On => start_threads(config, &memory, links, hooks.into())?,
        };
        Ok(Pager { memory, alias, stripes, shards })
    }

    /// What the pager has counted and measured so far; after [`Pager::stop`], until then.
    pub fn stats(&self) -> PagerStats {
        let untracked = PagerStats { nodes: 1, ..PagerStats::default() };
        let answers = self.ask(Command::Stats).into_iter().zip(&self.shards);
        let each = answers.map(|(stats, shard)| stats.unwrap_or_else(|| shard.last_stats()));
        let mut stats = each.reduce(PagerStats::joined).unwrap_or(untracked);
        stats.resident_bytes = self.memory.resident_bytes();
        stats
    }

    /// Gives the pager a new link in place of one that broke, or is about to. One that comes too late is dropped. Does nothing
    /// when the pager has stopped, or has no such shard.
    pub fn relink(&self, Lane { peer, shard }: Lane, link: Box<dyn Link>, rejoin: Rejoin) {
        if let Some(shard) = self.shards.get(shard.index()) {
            let _stopped = shard.send(Command::Relink(NewLink { peer, link, rejoin }));
        }
    }

    /// How many pages only `peer` has, as far as this node is their home; see
    /// [`Node::pages_only_at`](crate::protocol::Node::pages_only_at). `None` when the pager has stopped.
    pub fn pages_only_at(&self, peer: NodeId) -> Option<u64> {
        let answers = self.ask(|reply| Command::PagesOnlyAt(peer, reply));
        answers.into_iter().reduce(|one, other| Some(one? + other?)).flatten()
    }

    /// Lets the pager threads run before every ordinary thread of this host (`SCHED_FIFO`, priority 1).
    ///
    /// A vCPU that computes leaves its processor to an ordinary thread only after some milliseconds; with this, faults
    /// on a host whose processors are all busy are served as fast as on an idle one. Where processors are idle it
    /// gains nothing and can cost: the kernel no longer moves the thread to a processor that is awake already. Both
    /// are measured in `docs/memory.md`.
    ///
    /// # Errors
    /// Without permission (`CAP_SYS_NICE`, `RLIMIT_RTPRIO`), or if the pager has stopped. The pager works as before.
    pub fn set_real_time(&self) -> io::Result<()> {
        let stopped = || Err(io::Error::other(BorrowError::Stopped));
        self.ask(Command::RealTime).into_iter().try_for_each(|answer| answer.unwrap_or_else(stopped))
    }

    /// Has the pager threads look for the next event without sleeping for `span` after each one; zero, as at the start: not
    /// at all. They then need not be woken, which costs a page some microseconds; and each takes a whole processor for as
    /// long as pages come more often than that. Only for hosts that have as many to spare. Does nothing when the pager has
    /// stopped.
    pub fn set_busy_poll(&self, span: Duration) {
        for shard in &self.shards {
            let _stopped = shard.send(Command::BusyPoll(span.as_micros() as Micros));
        }
    }

    /// Brings `len` bytes at guest-physical address `gpa` here and keeps them until the guard is dropped. Waits until
    /// they have come. **A thread that holds a borrow must not borrow more**: two nodes could wait for each other for
    /// ever. Borrow the whole range at once, for writing if any of it is to be written.
    ///
    /// # Errors
    /// If the range is not RAM or too long, or the pager has stopped.
    pub fn borrow(&self, gpa: u64, len: u64, access: Access) -> Result<Borrowed<'_>, BorrowError> {
        Borrowed::new(self, gpa, len, access)
    }

    /// As [`Pager::borrow`], for pages that need not lie together. All of them are asked for at once.
    ///
    /// # Errors
    /// If one of them is not RAM, or the pager has stopped.
    pub fn borrow_pages(&self, pages: PageSet) -> Result<BorrowedPages<'_>, BorrowError> {
        BorrowedPages::new(self, pages)
    }

    /// Stops the threads, closes the connections and the userfaultfds. Threads that wait for a page are released, to
    /// memory that is right no more: see the module documentation for the order. Does nothing the second time.
    pub fn stop(&self) {
        self.shards.iter().for_each(ShardThread::tell_stop);
        self.shards.iter().for_each(ShardThread::join);
    }

    /// Asks all threads the same, and waits for their answers, by shard; `None` of one that has stopped.
    fn ask<T>(&self, question: impl Fn(SyncSender<T>) -> Command) -> Vec<Option<T>> {
        let answers: Vec<_> = self.shards.iter().map(|shard| shard.ask(&question)).collect();
        answers.into_iter().map(|answer| answer.recv().ok()).collect()
    }

    /// The pages of a set by shard, ascending; a shard may come more than once.
    fn parts(&self, pages: &PageSet) -> Vec<(Shard, PageSet)> {
        match self.shards.len() {
            0 => Vec::new(),
            1 => vec![(Shard::FIRST, pages.clone())],
            _ => pages.parts(|gfn| self.stripes.shard_of(self.memory.layout(), gfn)),
        }
    }

    /// Waits until one shard's pages are here. How many were not.
    fn collect(&self, shard: Shard, pages: &PageSet) -> Result<u64, BorrowError> {
        let Some(thread) = self.shards.get(shard.index()).filter(|_| !pages.pages().is_empty()) else {
            return Ok(0);
        };
        let (ready, told) = sync_channel(1);
        thread.send(Command::Borrow(BorrowRequest { pages: pages.clone(), ready }))?;
        told.recv().map_err(|_| BorrowError::Stopped)
    }

    /// Has one shard's pages brought here, without waiting for them. Those that are not here are counted before any command
    /// that the shard is given later.
    fn fetch(&self, shard: Shard, pages: &PageSet, missing: &Arc<AtomicU64>) -> Result<(), BorrowError> {
        let Some(thread) = self.shards.get(shard.index()) else { return Ok(()) };
        thread.send(Command::Fetch(FetchRequest { pages: pages.clone(), missing: missing.clone() }))
    }

    /// Gives one shard's pages back.
    fn give_back(&self, shard: Shard, pages: PageSet) {
        if let Some(thread) = self.shards.get(shard.index()) {
            // A pager that has stopped has nothing to give back to.
            let _ = thread.send(Command::Return(pages));
        }
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a thread for each shard; all of memory is tracked before the first one runs.
fn start_threads(
    config: PagerConfig,
    memory: &Arc<NodeMemory>,
    mut links: Vec<(Lane, Box<dyn Link>)>,
    hooks: PagerHooks,
) -> Result<Vec<ShardThread>, PagerError> {
    let system = |what| move |source| PagerError::System { what, source };
    let PagerHooks { on_failure, tables, resume } = hooks;
    let bells = config.stripes.shards().map(|_| Bell::new().map(Arc::new)).collect::<io::Result<Vec<_>>>();
    let bells = bells.map_err(system("eventfd"))?;
    let (siblings, epoch) = (Siblings::new(bells.clone()), std::time::Instant::now());
    let shared = tables.map(tables::shared);
    let resume = resume.map(Arc::new);
    let count = bells.len();
    let mut ready = Vec::with_capacity(count);
    let shards = config.stripes.shards().zip(bells);
    for ((shard, bell), config) in shards.zip(std::iter::repeat_n(config, count)) {
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let (own, others) = links.into_iter().partition(|(lane, _)| lane.shard == shard);
        links = others;
        let neighbourhood = Neighbourhood {
            shard,
            links: own,
            tables: shared.as_ref().map(|make| make()),
            resume: resume.clone(),
            bell: bell.clone(),
            commands: inbox,
            siblings: siblings.clone(),
            epoch,
        };
        ready.push((shard, Driver::new(config, memory, neighbourhood)?, (bell, commands)));
    }
    let on_failure: OnFailure = Arc::from(on_failure);
    let mut threads: Vec<ShardThread> = Vec::with_capacity(ready.len());
    for (shard, driver, ends) in ready {
        match ShardThread::start(shard, driver, on_failure.clone(), ends) {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                threads.iter().for_each(ShardThread::tell_stop);
                threads.iter().for_each(ShardThread::join);
                return Err(PagerError::System { what: "starting a pager thread", source });
            }
        }
    }
    Ok(threads)
}

/// Whether the configuration is one that can be.
fn check(
    config: &PagerConfig,
    memory: &NodeMemory,
    links: &[(Lane, Box<dyn Link>)],
) -> Result<(), PagerError> {
    let PagerConfig { me, nodes, .. } = *config;
    let mut lanes: Vec<Lane> = links.iter().map(|(lane, _)| *lane).collect();
    lanes.sort_unstable();
    let others = (0..nodes).map(NodeId).filter(|&node| node != me);
    let wanted = others.flat_map(|peer| config.stripes.shards().map(move |shard| Lane { peer, shard }));
    let why = if usize::from(nodes) > NODES_MAX || me.0 >= nodes {
        "node numbers go from 0 up to the number of nodes, at most 32"
    } else if !wanted.eq(lanes.iter().copied()) {
        "there must be one connection to each other node for each shard"
    } else if memory.layout().regions().iter().any(|region| region.home.0 >= nodes) {
        "the layout names a node that is not there"
    } else if config.tracking == Tracking::Off && nodes != 1 {
        "tracking can be off only with one node"
    } else {
        return Ok(());
    };
    Err(PagerError::Config { me, nodes, peers: lanes.iter().map(|lane| lane.peer).collect(), why })
}
