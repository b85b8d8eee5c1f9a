//! A pager thread: events into the protocol core, its actions out.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::io::Errno;

use super::ahead::{self, Ahead};
use super::arrivals::Arrivals;
use super::batch::{self, Batch, Came, Install, Source};
use super::borrow::{BorrowRequest, FetchRequest, Lent, PageSet, Tickets};
use super::hot::HotPages;
use super::links::{Lane, Links, Resume};
use super::pages::{Bytes, GuestPages, PagesError, ZERO_PAGE};
use super::siblings::Siblings;
use super::tables::TableCache;
use super::waiting::{access_of, Served, WaitingFaults};
use super::{AskAhead, Bell, Command, PagerConfig, PagerError, PagerFailure, PagerStats, COMMANDS_MAX};
use crate::ids::{Gfn, NodeId, Shard, EXTENT_PAGES, PAGE_BYTES};
use crate::layout::Layout;
use crate::link::Link;
use crate::memory::NodeMemory;
use crate::protocol::{Access, Action, Contents, Event, Membership, Message, Micros, Node, NodeConfig};
use crate::uffd::{FaultBatch, Waiters};
use crate::wire::Body;

/// `epoll` data of the userfaultfd; peers have their node numbers.
const FAULTS: u64 = u64::MAX;
/// `epoll` data of the eventfd that announces commands.
const BELL: u64 = u64::MAX - 1;
/// Most descriptors told of in one wait.
const READY_MAX: usize = 64;
/// A page that is held because the node waits for another shard's may be given up earlier once that has come, of which nobody
/// tells: how often to look.
const LOOK_AGAIN_US: Micros = 100;

/// Whether the thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    End(Ending),
}

/// Why a thread serves no more without having failed itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It was told to stop.
    Stop,
    /// Another of the node's pagers has failed.
    Sibling,
}

/// What a pager thread is given besides its configuration.
pub(super) struct Neighbourhood {
    /// Its part of memory.
    pub shard: Shard,
    /// Its link to each peer.
    pub links: Vec<(Lane, Box<dyn Link>)>,
    pub tables: Option<Box<dyn TableCache>>,
    pub resume: Option<Arc<Resume>>,
    pub bell: Arc<Bell>,
    pub commands: Receiver<Command>,
    pub siblings: Arc<Siblings>,
    /// When the clock of all the node's pagers began.
    pub epoch: Instant,
}

/// All that a pager thread owns.
pub(super) struct Driver {
    shard: Shard,
    /// Its part of memory.
    layout: Arc<Layout>,
    siblings: Arc<Siblings>,
    clock: Instant,
    node: Node,
    pages: GuestPages,
    links: Links,
    epoll: Arc<OwnedFd>,
    bell: Arc<Bell>,
    commands: Receiver<Command>,
    tickets: Tickets,
    /// Pages lent that are not yet handed on. Empty between events, as `actions`; both are kept for their memory.
    lent: Vec<(Gfn, Access)>,
    actions: Vec<Action>,
    /// What is to be done with memory and links. Empty between steps.
    batch: Batch,
    waiting: WaitingFaults,
    hot: HotPages,
    arrivals: Arrivals,
    /// None: nothing is asked for ahead.
    ahead: Option<Ahead>,
    asked_ahead: u64,
    /// For how long after an event the thread looks for the next one without sleeping; 0: not at all.
    busy_us: Micros,
    /// Until when it does.
    busy_until: Micros,
    /// Counts events, so that a fault served by its own event is known.
    step: u64,
}

impl Driver {
    /// Tracks the shard's memory from here on.
    pub(super) fn new(
        config: PagerConfig,
        memory: &Arc<NodeMemory>,
        neighbourhood: Neighbourhood,
    ) -> Result<Self, PagerError> {
        let PagerConfig { me, nodes, preloaded, lease, habits, stripes, ahead, .. } = config;
        let Neighbourhood { shard, links, tables, resume, bell, commands, siblings, epoch } = neighbourhood;
        let layout = Arc::new(stripes.part_of(memory.layout(), shard));
        let hot = HotPages::new(&layout);
        let ahead = (ahead == AskAhead::On).then(|| Ahead::new(&layout));
        let node = Node::new(NodeConfig {
            me,
            nodes,
            membership: Membership::all(nodes),
            layout: layout.clone(),
            lease,
            habits,
            preloaded,
        });
        drop_strays(&node, memory, &layout)?;
        let mut pages = GuestPages::new(memory.clone(), layout.clone(), tables)?;
        for extent in node.whole_extents() {
            pages.own_extent(extent)?;
        }
        let system = |errno: Errno| PagerError::System { what: "epoll", source: errno.into() };
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC).map_err(system)?);
        watch(&epoll, pages.uffd().as_fd(), FAULTS).map_err(system)?;
        watch(&epoll, bell.as_fd(), BELL).map_err(system)?;
        let links = Links::new((me, shard), nodes, links, epoll.clone(), resume).map_err(system)?;
        Ok(Driver {
            shard,
            layout,
            siblings,
            clock: epoch,
            node,
            pages,
            links,
            epoll,
            bell,
            commands,
            tickets: Tickets::default(),
            lent: Vec::new(),
            actions: Vec::new(),
            batch: Batch::new(),
            waiting: WaitingFaults::default(),
            hot,
            arrivals: Arrivals::default(),
            ahead,
            asked_ahead: 0,
            busy_us: 0,
            busy_until: 0,
            step: 0,
        })
    }

    /// The thread: until it is told to stop. Gives back what it has counted.
    pub(super) fn run(mut self, on_failure: &(dyn Fn(PagerFailure) + Send + Sync)) -> PagerStats {
        // Leases are tens of microseconds long; the kernel may otherwise let a timeout wait 50 us more. Best effort.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        // A bug that panics must not close the userfaultfd: waiting vCPUs would go on with zeros.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()))
            .unwrap_or_else(|_| Err(here("the pager thread panicked (a bug)".into())));
        let stopped = matches!(outcome, Ok(Ending::Stop));
        if let Err(failure) = outcome {
            self.siblings.fail(failure);
        }
        if !stopped {
            self.tickets.clear();
            self.links.close();
        }
        if let Some(failure) = self.siblings.leave(|peer| self.node.pages_only_at(peer)) {
            on_failure(failure);
        }
        if !stopped {
            self.wait_for_stop();
        }
        self.stats()
    }

    fn serve(&mut self) -> Result<Ending, PagerFailure> {
        let mut ready = Vec::with_capacity(READY_MAX);
        loop {
            ready.clear();
            let timeout = self.patience();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(here(format!("waiting for events failed: {errno}"))),
            }
            if self.busy_us > 0 && !ready.is_empty() {
                self.busy_until = self.now() + self.busy_us;
            }
            self.hear_siblings();
            if self.node.next_deadline().is_some_and(|at| at <= self.now()) {
                self.handle(Event::Tick)?;
                self.flush()?;
            }
            for event in &ready {
                match event.data.u64() {
                    FAULTS => self.serve_faults()?,
                    BELL => match self.serve_commands()? {
                        Flow::End(ending) => return Ok(ending),
                        Flow::Continue => {}
                    },
                    peer => self.serve_peer(NodeId(peer as u8), event.flags)?,
                }
            }
            for peer in self.links.take_unread().iter() {
                self.serve_peer(peer, EventFlags::IN)?;
            }
            // Last: what has come may be the new link.
            self.links.check_deadline(self.now())?;
        }
    }

    /// For how long to wait for events; `None`: until one comes.
    fn patience(&self) -> Option<Timespec> {
        if self.links.has_unread() || (self.busy_us > 0 && self.now() < self.busy_until) {
            return Some(timespec(0));
        }
        let look = self.node.holds_for_elsewhere().then(|| self.now() + LOOK_AGAIN_US);
        let deadlines = [self.node.next_deadline(), self.links.next_deadline(), look];
        let deadline = deadlines.into_iter().flatten().min();
        deadline.map(|at| timespec(at.saturating_sub(self.now())))
    }

    /// Lets the core know what the node's other pagers are about.
    fn hear_siblings(&mut self) {
        if let Some(pace) = self.siblings.hear(self.shard) {
            self.node.hear_elsewhere(pace);
        }
    }

    /// After a failure: borrowers are refused, everything else waits for the end.
    fn wait_for_stop(&mut self) {
        while let Ok(command) = self.commands.recv() {
            match command {
                Command::Stop => return,
                Command::Stats(reply) => self.tell_stats(&reply),
                Command::RealTime(reply) => tell_real_time(&reply),
                Command::PagesOnlyAt(peer, reply) => self.tell_pages_only_at(peer, &reply),
                Command::Fetch(_)
                | Command::Borrow(_)
                | Command::Return(_)
                | Command::Relink(_)
                | Command::BusyPoll(_) => {}
            }
        }
    }

    fn serve_faults(&mut self) -> Result<(), PagerFailure> {
        let mut batch = FaultBatch::default();
        let faults = self.pages.read_faults(&mut batch).map_err(failed_here)?;
        for fault in faults {
            let Some(gfn) = self.pages.memory().gfn_of_hva(fault.hva) else {
                return Err(here(format!("a fault at {:#x} is outside guest memory", fault.hva)));
            };
            if let Some(index) = self.layout.index(gfn) {
                self.hot.record(index, access_of(fault.kind));
            }
            self.waiting.begin(gfn, fault, self.now(), self.step + 1);
            self.handle(Event::Fault { gfn, access: access_of(fault.kind) })?;
        }
        // What vCPUs wait for goes first.
        self.flush()?;
        for fault in faults {
            if let Some(gfn) = self.pages.memory().gfn_of_hva(fault.hva) {
                self.ask_ahead(gfn, access_of(fault.kind))?;
            }
        }
        self.flush()
    }

    /// Asks for more than the page that a vCPU waits for.
    fn ask_ahead(&mut self, gfn: Gfn, access: Access) -> Result<(), PagerFailure> {
        let (at, usual_us) = (self.now(), self.waiting.usual_us());
        let Some(index) = self.layout.index(gfn) else { return Ok(()) };
        let Some(ahead) = &mut self.ahead else { return Ok(()) };
        if self.node.rights(gfn).allow(access) {
            return Ok(());
        }
        for page in ahead.fault(ahead::Fault { page: (gfn, index), access, at, usual_us }) {
            let known = self.layout.index(page).is_some();
            if known && !self.node.rights(page).allow(access) {
                self.asked_ahead += 1;
                self.handle(Event::Fault { gfn: page, access })?;
            }
        }
        Ok(())
    }

    fn serve_peer(&mut self, from: NodeId, flags: EventFlags) -> Result<(), PagerFailure> {
        if flags.contains(EventFlags::OUT) {
            self.links.flush_peer(from, self.now())?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        self.links.fill(from, self.now())?;
        // Who waits for the first page of many waits now; the others are asked for ahead.
        let mut most = 1;
        while self.take_messages(from, most)? == most {
            self.flush()?;
            most = batch::MESSAGES_MAX;
        }
        self.links.confirm(from)?;
        self.flush()
    }

    /// Handles up to `most` of the messages that have come from a peer, all but the sending of frames; gives how many there were.
    fn take_messages(&mut self, from: NodeId, most: usize) -> Result<usize, PagerFailure> {
        self.batch.begin();
        let mut taken = 0;
        while taken < most {
            let Some((message, came)) = self.next_message(from)? else { break };
            self.take_in(Event::Message { from, message }, came)?;
            taken += 1;
        }
        self.finish()?;
        Ok(taken)
    }

    /// The next frame of those that have come from a peer.
    fn next_message(&mut self, from: NodeId) -> Result<Option<(Message, Came)>, PagerFailure> {
        let Some(frame) = self.links.next_frame(from)? else { return Ok(None) };
        let came = match (frame.body, frame.page) {
            (Body::ZeroPage, _) => Came::Zeros,
            (_, Some(page)) => {
                self.batch.stage(page).ok_or_else(|| here("more pages than messages (a bug)".into()))?
            }
            (_, None) => Came::Nothing,
        };
        Ok(Some((frame.message, came)))
    }

    fn serve_commands(&mut self) -> Result<Flow, PagerFailure> {
        // The bell first: what is sent after this rings again.
        self.bell.silence();
        if self.siblings.have_failed() {
            return Ok(Flow::End(Ending::Sibling));
        }
        for _ in 0..COMMANDS_MAX {
            match self.commands.try_recv() {
                Ok(Command::Fetch(request)) => self.fetch(&request)?,
                Ok(Command::Borrow(request)) => self.begin_borrow(request)?,
                Ok(Command::Return(pages)) => self.give_back(&pages)?,
                Ok(Command::Stats(reply)) => self.tell_stats(&reply),
                Ok(Command::RealTime(reply)) => tell_real_time(&reply),
                Ok(Command::PagesOnlyAt(peer, reply)) => self.tell_pages_only_at(peer, &reply),
                Ok(Command::Relink(link)) => self.links.relink(link, self.now())?,
                Ok(Command::BusyPoll(span_us)) => self.busy_us = span_us,
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Ok(Flow::End(Ending::Stop)),
                Err(TryRecvError::Empty) => return Ok(Flow::Continue),
            }
        }
        // Others have their turn before the rest of the commands.
        self.bell.ring();
        Ok(Flow::Continue)
    }

    /// Asks for what is not here; who does so borrows it later.
    fn fetch(&mut self, request: &FetchRequest) -> Result<(), PagerFailure> {
        for &(gfn, access) in request.pages.pages() {
            if !self.node.rights(gfn).allow(access) {
                request.missing.fetch_add(1, Ordering::SeqCst);
                self.handle(Event::Fault { gfn, access })?;
            }
        }
        self.flush()
    }

    fn begin_borrow(&mut self, request: BorrowRequest) -> Result<(), PagerFailure> {
        let pages = request.pages.clone();
        let Some(&(first, access)) = pages.pages().first() else { return Ok(()) };
        let is_missing = |&&(gfn, access): &&(Gfn, Access)| !self.node.rights(gfn).allow(access);
        let missing = pages.pages().iter().filter(is_missing).count() as u64;
        self.tickets.add(request, missing);
        // The pages are held one after the other, in order; but all of them are asked for at once.
        for &(gfn, access) in &pages.pages()[1..] {
            if !self.node.rights(gfn).allow(access) {
                self.handle(Event::Fault { gfn, access })?;
            }
        }
        self.handle(Event::Borrow { gfn: first, access })?;
        self.flush()
    }

    fn give_back(&mut self, pages: &PageSet) -> Result<(), PagerFailure> {
        for &(gfn, _) in pages.pages() {
            self.handle(Event::Return { gfn })?;
        }
        self.flush()
    }

    /// One event, and all that follows from it but the sending of frames.
    fn handle(&mut self, event: Event) -> Result<(), PagerFailure> {
        self.take_in(event, Came::Nothing)?;
        self.finish()
    }

    /// Does what the events taken in gave rise to.
    fn finish(&mut self) -> Result<(), PagerFailure> {
        self.carry_out_batch()?;
        // A page lent makes a borrower want the next one, which may be lent at once.
        while let Some((gfn, access)) = self.lent.pop() {
            match self.tickets.lent(gfn, access) {
                Lent::Next(gfn, access) => self.take_in(Event::Borrow { gfn, access }, Came::Nothing)?,
                Lent::Complete => {}
                Lent::Abandoned(pages) => {
                    for &(gfn, _) in pages.pages() {
                        self.take_in(Event::Return { gfn }, Came::Nothing)?;
                    }
                }
                Lent::Unasked => return Err(here(format!("{gfn} was lent to nobody"))),
            }
            self.carry_out_batch()?;
        }
        Ok(())
    }

    /// An event for the core; what it gives rise to is gathered.
    fn take_in(&mut self, event: Event, came: Came) -> Result<(), PagerFailure> {
        self.step += 1;
        let mut actions = mem::take(&mut self.actions);
        self.hear_siblings();
        self.node.handle(self.now(), event, &mut actions).map_err(|violation| match event {
            Event::Message { from, .. } => PagerFailure::of(from, violation.to_string()),
            _ => here(violation.to_string()),
        })?;
        self.siblings.tell(self.shard, self.node.pace());
        for action in actions.drain(..) {
            if !self.batch.takes(&action) {
                self.carry_out_batch()?;
            }
            self.gather(action, came)?;
        }
        self.actions = actions;
        Ok(())
    }

    /// Adds an action to the batch, which takes it, or carries it out at once if it is none that a batch can hold.
    fn gather(&mut self, action: Action, came: Came) -> Result<(), PagerFailure> {
        match action {
            Action::Send { to, message } => self.batch.send(to, message),
            Action::Lend { gfn, access } => self.lent.push((gfn, access)),
            Action::Protect { gfn } => self.batch.protect(gfn),
            Action::Discard { gfn } => self.batch.discard(gfn),
            Action::Install { gfn, rights, contents, wake } => {
                let source = match (contents, came) {
                    (Contents::Received, Came::Staged(slot)) => Source::Staged(slot),
                    (Contents::Received, Came::Zeros) | (Contents::Zero, _) => Source::Zeros,
                    (Contents::Received, Came::Nothing) => {
                        return Err(here(format!("no page came for {gfn}")))
                    }
                };
                self.arrivals.record(self.waiting.kind_of(gfn), contents, came);
                let waiters = if wake { Waiters::Wake } else { Waiters::Leave };
                self.batch.install(Install { run: gfn.into(), source, rights, waiters });
            }
            Action::SplitExtent { extent } => self.pages.split_extent(extent).map_err(failed_here)?,
            Action::Unprotect { gfn } => {
                self.pages.unprotect(gfn).map_err(failed_here)?;
                self.served(Served::Page(gfn));
            }
            Action::Wake { gfn, rights } => {
                self.pages.wake(gfn, rights).map_err(failed_here)?;
                self.served(served(gfn, rights));
            }
            Action::OwnExtent { extent } => {
                self.pages.own_extent(extent).map_err(failed_here)?;
                self.served(Served::Extent(extent));
            }
        }
        Ok(())
    }

    /// Does all that is gathered, in the order that [`batch`] gives reasons for.
    fn carry_out_batch(&mut self) -> Result<(), PagerFailure> {
        let Driver { clock, layout, batch, pages, links, waiting, ahead, .. } = self;
        for &Install { run, source, rights, waiters } in &batch.installs {
            let bytes = match source {
                Source::Zeros => Bytes::Zero,
                Source::Staged(slot) => match batch.staged(slot, run) {
                    Some(staged) => Bytes::Pages(staged),
                    None => return Err(here(format!("no page came for {} (a bug)", run.first()))),
                },
            };
            pages.install(run, bytes, rights, waiters).map_err(failed_here)?;
            for gfn in run.iter().filter(|_| waiters == Waiters::Wake) {
                waiting.served(served(gfn, rights), micros_since(*clock), self.step);
            }
        }
        for &run in &batch.protects {
            pages.protect(run).map_err(failed_here)?;
        }
        for &(to, ref message) in &batch.sends {
            // A page's bytes are read now.
            let read = |page: &mut [u8; PAGE_BYTES]| {
                pages.memory().read_page(message.gfn(), page).map_err(failed_here)
            };
            links.queue(to, message, read)?;
        }
        for &run in &batch.discards {
            if let Some(ahead) = ahead {
                run.iter().filter_map(|gfn| layout.index(gfn)).for_each(|index| ahead.lost(index));
            }
            pages.discard(run).map_err(failed_here)?;
        }
        batch.clear();
        Ok(())
    }

    fn served(&mut self, served: Served) {
        self.waiting.served(served, self.now(), self.step);
    }

    /// Sends what was queued, as far as the links take it.
    fn flush(&mut self) -> Result<(), PagerFailure> {
        self.links.flush(self.now())
    }

    /// Microseconds of the thread's own monotonic clock.
    fn now(&self) -> Micros {
        micros_since(self.clock)
    }

    fn tell_stats(&self, reply: &SyncSender<PagerStats>) {
        // It fails only if nobody waits for the answer any more.
        let _ = reply.send(self.stats());
    }

    fn tell_pages_only_at(&self, peer: NodeId, reply: &SyncSender<u64>) {
        // As above.
        let _ = reply.send(self.node.pages_only_at(peer));
    }

    fn stats(&self) -> PagerStats {
        let mut stats = PagerStats {
            nodes: 1,
            uffd: self.pages.counts(),
            discards: self.pages.discards(),
            forgotten_tables: self.pages.forgotten(),
            asked_ahead: self.asked_ahead,
            arrivals: self.arrivals,
            hottest: self.hot.hottest(&self.layout),
            resident_bytes: self.pages.memory().resident_bytes(),
            protocol: self.node.counters(),
            holdings: self.node.holdings(),
            links: self.links.counts(),
            ..PagerStats::default()
        };
        self.waiting.fill(&mut stats);
        stats
    }
}

/// What is possible with a page that has come with these rights.
fn served(gfn: Gfn, rights: Access) -> Served {
    match rights {
        Access::Read => Served::Reads(gfn),
        Access::Write => Served::Page(gfn),
    }
}

/// Makes sure that the memfd holds nothing of this part of memory that this node does not hold: pages of zeros that a load
/// through the alias has created are given back, anything else is refused.
fn drop_strays(node: &Node, memory: &NodeMemory, part: &Layout) -> Result<(), PagerError> {
    let mut whole = vec![false; (part.pages() / EXTENT_PAGES) as usize];
    for index in node.whole_extents().filter_map(|extent| part.extent_index(extent)) {
        whole[index] = true;
    }
    let mut page = [0; PAGE_BYTES];
    for (first, pages) in memory.present_runs()? {
        for gfn in (first..first + pages).filter_map(|index| memory.layout().gfn_at(index)) {
            // What is not of this part, another pager looks at.
            if part.index(gfn).is_none_or(|index| whole[index / EXTENT_PAGES as usize]) {
                continue;
            }
            memory.read_page(gfn, &mut page)?;
            if page != ZERO_PAGE {
                return Err(PagerError::Stray(gfn));
            }
            memory.discard(gfn)?;
        }
    }
    Ok(())
}

/// Gives the calling thread the lowest real-time priority.
fn tell_real_time(reply: &SyncSender<io::Result<()>>) {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the parameters live through the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) };
    let result = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // It fails only if nobody waits for the answer any more.
    let _ = reply.send(result);
}

/// Has `epoll` tell when the descriptor is readable.
fn watch(epoll: &OwnedFd, descriptor: BorrowedFd<'_>, data: u64) -> Result<(), Errno> {
    epoll::add(epoll, descriptor, EventData::new_u64(data), EventFlags::IN)
}

fn micros_since(start: Instant) -> Micros {
    start.elapsed().as_micros() as Micros
}

fn timespec(span_us: Micros) -> Timespec {
    // (A span too long for the field is as good as the longest.)
    let tv_sec = i64::try_from(span_us / 1_000_000).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: (span_us % 1_000_000 * 1000) as i64 }
}

fn here(what: String) -> PagerFailure {
    PagerFailure::here(what)
}

fn failed_here(error: impl Into<PagesError>) -> PagerFailure {
    here(error.into().to_string())
}
