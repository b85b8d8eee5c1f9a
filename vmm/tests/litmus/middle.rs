//! All data connections of a guest through one place, where grants come early and orders to give a copy up come late.
//!
//! **Late** is allowed: nothing else is said about a page while a transaction about it is under way, so an `Invalidate`
//! may be held while everything else goes past it.
//!
//! **Early** is a mistake, built in where nobody's own checks see it: a grant for writing that has to wait for
//! acknowledgements arrives without that condition; the acknowledgements are swallowed when they come; and the home is
//! told that all is done only after them. So every node finds every message as it must be, but a guest has written
//! while a guest elsewhere still read the old page. The product contains no trace of it.
//!
//! To each node the middle is the other one, with a session of its own, so that frames can be left out and held.

use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use tessera_dsm::layout::Layout;
use tessera_dsm::link::session::Side;
use tessera_dsm::link::{Connection, LinkError, TcpLink};
use tessera_dsm::protocol::{Access, Message, Txn};
use tessera_dsm::{Gfn, NodeId, PAGE_BYTES};

use crate::cluster::network::loopback;
use crate::cluster::{Connector, Random};

/// When grants for writing reach a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grants {
    /// As they should.
    InTime,
    /// Before the other copies are gone. (A node's grants for pages of its own directory come over no connection: those
    /// are in time.)
    Early,
}

/// Makes connections through a middle for guests with this layout on `nodes` nodes, and counts the grants that came
/// early. Every `Invalidate` is late by up to `late`.
pub fn connector(
    layout: Layout,
    nodes: u8,
    (grants, late, seed): (Grants, Duration, u64),
) -> (Connector, Arc<AtomicU64>) {
    let early = Arc::new(AtomicU64::new(0));
    let (mut ends, mut links) = (HashMap::new(), Vec::new());
    for low in (0..nodes).map(NodeId) {
        for high in (low.0 + 1..nodes).map(NodeId) {
            let ((low_end, low_middle), (high_end, high_middle)) = (loopback(), loopback());
            ends.insert((low, high), (low_end, high_end));
            links
                .push(Some([(low, session(low_middle, high, low)), (high, session(high_middle, low, high))]));
        }
    }
    let mut middle = Middle {
        layout,
        grants,
        late,
        random: Random(seed.max(1)),
        links,
        held: Vec::new(),
        waits: HashMap::new(),
        early: Arc::clone(&early),
    };
    std::thread::spawn(move || middle.run());
    let ends = Mutex::new(ends);
    let take = move |low, high| {
        let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.remove(&(low, high)).expect("each connection is made once")
    };
    (Arc::new(take), early)
}

/// The middle's session with a node, to which it is `as_node`.
fn session(stream: TcpStream, as_node: NodeId, with: NodeId) -> Connection {
    Connection::new(Box::new(TcpLink::new(stream).expect("a socket")), Side::of(as_node, with))
}

/// A frame on its way.
struct Letter {
    from: NodeId,
    to: NodeId,
    message: Message,
    page: Option<Box<[u8; PAGE_BYTES]>>,
}

/// A transaction whose grant came early.
#[derive(Default)]
struct Wait {
    /// Acknowledgements that the grant should have waited for, once it has come.
    needed: Option<u8>,
    swallowed: u8,
    /// What the home is to be told after that.
    done: Option<Letter>,
}

/// Both ends of a connection: the node, and the session with it.
type Ends = [(NodeId, Connection); 2];

struct Middle {
    layout: Layout,
    grants: Grants,
    late: Duration,
    random: Random,
    /// `None`: closed.
    links: Vec<Option<Ends>>,
    held: Vec<(Instant, Letter)>,
    waits: HashMap<(Gfn, Txn), Wait>,
    early: Arc<AtomicU64>,
}

impl Middle {
    /// Carries frames until all nodes have closed their ends.
    fn run(&mut self) {
        while self.links.iter().any(Option::is_some) {
            self.wait();
            for link in 0..self.links.len() {
                for end in 0..2 {
                    if self.take_in(link, end).is_err() {
                        // To the node at the other end it looks as if this one had closed it.
                        self.links[link] = None;
                    }
                }
            }
            let now = Instant::now();
            for (_, letter) in self.held.extract_if(.., |(due, _)| *due <= now).collect::<Vec<_>>() {
                self.deliver(letter);
            }
            self.flush();
        }
    }

    /// Waits until something has come, or is due.
    fn wait(&mut self) {
        let next = self.held.iter().map(|(due, _)| due.saturating_duration_since(Instant::now())).min();
        let next = next.unwrap_or(Duration::from_secs(1));
        let connections = self.links.iter().flatten().flatten().filter_map(|(_, end)| end.descriptor());
        let mut watched: Vec<PollFd<'_>> =
            connections.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: next.as_secs() as i64, tv_nsec: next.subsec_nanos().into() };
        // An interruption is as good as an event.
        let _ = poll(&mut watched, Some(&timeout));
    }

    /// Takes frames from one end of a link and decides about each.
    fn take_in(&mut self, link: usize, end: usize) -> Result<(), LinkError> {
        let Some(ends) = &mut self.links[link] else { return Ok(()) };
        let (from, to) = (ends[end].0, ends[1 - end].0);
        let _more = ends[end].1.fill()?; // (TCP: poll(2) tells again.)
        let mut letters = Vec::new();
        while let Some(frame) = ends[end].1.next_frame()? {
            // A page of zeros is a page again, and travels without bytes once more.
            let zeros = frame.message.carries_page().then(|| Box::new([0; PAGE_BYTES]));
            let page = frame.page.map(|page| Box::new(*page)).or(zeros);
            letters.push(Letter { from, to, message: frame.message, page });
        }
        ends[end].1.confirm()?;
        letters.into_iter().for_each(|letter| self.decide(letter));
        Ok(())
    }

    fn decide(&mut self, mut letter: Letter) {
        let early = self.grants == Grants::Early && self.layout.home(letter.message.gfn()) != Some(letter.to);
        match letter.message {
            Message::Invalidate { .. } => {
                let late = self.late.mul_f64(self.random.below(1000) as f64 / 1000.0);
                self.held.push((Instant::now() + late, letter));
            }
            Message::Grant { gfn, txn, rights: Access::Write, page, acks: needed @ 1.. } if early => {
                self.early.fetch_add(1, Ordering::Relaxed);
                letter.message = Message::Grant { gfn, txn, rights: Access::Write, page, acks: 0 };
                self.deliver(letter);
                self.change((gfn, txn), |wait| wait.needed = Some(needed));
            }
            Message::Invalidated { gfn, txn } if early => {
                self.change((gfn, txn), |wait| wait.swallowed += 1);
            }
            Message::Done { gfn, txn } if self.waits.contains_key(&(gfn, txn)) => {
                self.change((gfn, txn), |wait| wait.done = Some(letter));
            }
            _ => self.deliver(letter),
        }
    }

    /// Changes what is known of a transaction, and tells the home that it is done if it is.
    fn change(&mut self, of: (Gfn, Txn), change: impl FnOnce(&mut Wait)) {
        let wait = self.waits.entry(of).or_default();
        change(wait);
        if wait.needed == Some(wait.swallowed) {
            if let Some(done) = wait.done.take() {
                self.waits.remove(&of);
                self.deliver(done);
            }
        }
    }

    /// Queues a frame for its node. Whatever cannot be delivered belongs to a guest that ends.
    fn deliver(&mut self, letter: Letter) {
        let Letter { from, to, message, page } = letter;
        for ends in self.links.iter_mut().flatten() {
            if !ends.iter().any(|(node, _)| *node == from) {
                continue;
            }
            if let Some((_, end)) = ends.iter_mut().find(|(node, _)| *node == to) {
                let _ = match &page {
                    Some(page) => {
                        let read = |bytes: &mut [u8; PAGE_BYTES]| {
                            *bytes = **page;
                            Ok::<(), ()>(())
                        };
                        end.queue_page(&message, read).map(|_| ())
                    }
                    None => end.queue(&message),
                };
            }
        }
    }

    fn flush(&mut self) {
        for (_, end) in self.links.iter_mut().flatten().flatten() {
            // A node that does not read makes this try again at the next event; one that has ended shows when it is read.
            let _ = end.flush();
        }
    }
}
