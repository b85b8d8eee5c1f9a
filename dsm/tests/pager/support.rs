//! A cluster of nodes in one process.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tessera_dsm::link::{Link, SharedLink, TcpLink, UnixLink};
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{
    AskAhead, Lane, Pager, PagerConfig, PagerError, PagerFailure, PagerHooks, PagerStats, Resume, Tracking,
};
use tessera_dsm::protocol::{HabitPolicy, LeasePolicy};
use tessera_dsm::{Gfn, Layout, NodeId, Region, Stripes, EXTENT_BYTES, EXTENT_PAGES, PAGE_BYTES};

use crate::network::Network;

/// A test that takes longer hangs.
pub const HANG: Duration = Duration::from_secs(60);

/// How the nodes are connected.
#[derive(Clone, Copy, Debug)]
pub enum Wires {
    Tcp,
    Unix,
    Shared,
}

/// Each node has `extents` extents, node 0 first.
pub fn layout(nodes: u8, extents: u64) -> Layout {
    let pages = extents * EXTENT_PAGES;
    let region = |node: u8| Region { start: Gfn(u64::from(node) * pages), pages, home: NodeId(node) };
    Layout::new((0..nodes).map(region).collect()).expect("valid layout")
}

pub fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    (near, listener.accept().expect("accept").0)
}

type BoxedLink = Box<dyn Link>;

fn link_pair(wires: Wires) -> (BoxedLink, BoxedLink) {
    match wires {
        Wires::Tcp => {
            let (near, far) = tcp_pair();
            (Box::new(TcpLink::new(near).expect("link")), Box::new(TcpLink::new(far).expect("link")))
        }
        Wires::Unix => {
            let (near, far) = UnixStream::pair().expect("pair");
            (Box::new(UnixLink::new(near).expect("link")), Box::new(UnixLink::new(far).expect("link")))
        }
        Wires::Shared => {
            let (near, far) = UnixStream::pair().expect("pair");
            let near = SharedLink::offer(near).expect("link");
            (Box::new(near), Box::new(SharedLink::join(far, Instant::now() + HANG).expect("link")))
        }
    }
}

/// How memory is shared out: one extent after the other.
fn stripes(layout: &Layout, pagers: u8) -> Stripes {
    Stripes::of_at_least(EXTENT_BYTES, layout, pagers)
}

/// The links of each node of such a guest, each made by `connect` between two nodes.
fn lanes(
    nodes: u8,
    stripes: Stripes,
    mut connect: impl FnMut(NodeId, NodeId) -> (BoxedLink, BoxedLink),
) -> Vec<Vec<(Lane, BoxedLink)>> {
    let mut links: Vec<Vec<(Lane, BoxedLink)>> = (0..nodes).map(|_| Vec::new()).collect();
    for low in 0..nodes {
        for high in low + 1..nodes {
            for shard in stripes.shards() {
                let (near, far) = connect(NodeId(low), NodeId(high));
                links[usize::from(low)].push((Lane { peer: NodeId(high), shard }, near));
                links[usize::from(high)].push((Lane { peer: NodeId(low), shard }, far));
            }
        }
    }
    links
}

/// Computes for some microseconds, so that what a thread does takes longer than a lease and pages must move.
pub fn compute() {
    (0..300).for_each(|_| std::hint::spin_loop());
}

/// One node: its memory, and its pager.
pub struct Node {
    pub pager: Arc<Pager>,
    pub memory: Arc<NodeMemory>,
    pub failures: Receiver<PagerFailure>,
}

pub fn config(me: u8, nodes: u8) -> PagerConfig {
    let mut lease = LeasePolicy::default();
    // An emulated machine takes longer to wake a thread than the usual lease lasts.
    if let Some(base_us) = std::env::var("TESSERA_TEST_LEASE_US").ok().and_then(|text| text.parse().ok()) {
        lease.base_us = base_us;
    }
    PagerConfig {
        me: NodeId(me),
        nodes,
        preloaded: Vec::new(),
        lease,
        habits: HabitPolicy::default(),
        stripes: Stripes::NONE,
        tracking: Tracking::On,
        ahead: AskAhead::Off,
    }
}

/// Starts one node.
pub fn start(
    config: PagerConfig,
    memory: Arc<NodeMemory>,
    links: Vec<(Lane, BoxedLink)>,
) -> Result<Node, PagerError> {
    start_with(config, memory, links, None)
}

/// Starts one node whose links are replaced.
pub fn start_with(
    config: PagerConfig,
    memory: Arc<NodeMemory>,
    links: Vec<(Lane, BoxedLink)>,
    resume: Option<Resume>,
) -> Result<Node, PagerError> {
    let (tell, failures) = channel();
    let on_failure = Box::new(move |failure| {
        let _ = tell.send(failure);
    });
    let hooks = PagerHooks { on_failure, tables: None, resume };
    let pager = Pager::start_with_links(config, memory.clone(), links, hooks)?;
    Ok(Node { pager: Arc::new(pager), memory, failures })
}

/// The words of one node's guest memory. Clones are cheap and go to the threads.
#[derive(Clone)]
pub struct Guest(Arc<NodeMemory>);

impl Guest {
    /// The guest memory of a node.
    pub fn of(node: &Node) -> Self {
        Guest(node.memory.clone())
    }

    /// The address of a byte.
    pub fn address(&self, gfn: u64, offset: usize) -> *mut u8 {
        assert!(offset < PAGE_BYTES);
        (self.0.guest_hva(Gfn(gfn)).expect("RAM") as usize + offset) as *mut u8
    }

    /// The `index`th 64-bit word of a page.
    pub fn word(&self, gfn: u64, index: usize) -> &AtomicU64 {
        let address = self.address(gfn, index * 8);
        // SAFETY: aligned and inside the guest mapping, which this object keeps mapped; it is only used atomically.
        unsafe { &*address.cast::<AtomicU64>() }
    }

    pub fn load(&self, gfn: u64) -> u64 {
        self.word(gfn, 0).load(Ordering::SeqCst)
    }

    pub fn store(&self, gfn: u64, value: u64) {
        self.word(gfn, 0).store(value, Ordering::SeqCst);
    }
}

/// All nodes of a guest.
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Where threads say that they are done.
    done: (Sender<()>, Receiver<()>),
    threads: usize,
}

impl Cluster {
    pub fn new(nodes: u8, extents: u64, wires: Wires) -> Self {
        Cluster::with(nodes, extents, wires, |_, config| config)
    }

    /// As `new`, with another number of pagers than these tests are run with.
    #[allow(dead_code, reason = "these tests are compiled once for each number of pagers")]
    pub fn of_pagers(pagers: u8, nodes: u8, extents: u64, wires: Wires) -> Self {
        Cluster::start(pagers, (nodes, extents), wires, |_, config| config)
    }

    /// As `new`, after `adjust` has had each node's memory and configuration.
    pub fn with(
        nodes: u8,
        extents: u64,
        wires: Wires,
        adjust: impl Fn(&NodeMemory, PagerConfig) -> PagerConfig,
    ) -> Self {
        Cluster::start(crate::PAGERS, (nodes, extents), wires, adjust)
    }

    fn start(
        pagers: u8,
        (nodes, extents): (u8, u64),
        wires: Wires,
        adjust: impl Fn(&NodeMemory, PagerConfig) -> PagerConfig,
    ) -> Self {
        let stripes = stripes(&layout(nodes, extents), pagers);
        let links = lanes(nodes, stripes, |_, _| link_pair(wires));
        let start_one = |(me, links)| {
            let memory = NodeMemory::new(layout(nodes, extents)).expect("memory");
            let config = adjust(&memory, PagerConfig { stripes, ..config(me, nodes) });
            start(config, memory, links).expect("the pager starts")
        };
        Cluster { nodes: (0..nodes).zip(links).map(start_one).collect(), done: channel(), threads: 0 }
    }

    /// Nodes whose connections break when the network is told to.
    pub fn over(nodes: u8, extents: u64, network: &Arc<Network>) -> Self {
        let stripes = stripes(&layout(nodes, extents), crate::PAGERS);
        let links = lanes(nodes, stripes, |low, high| {
            let (near, far) = network.connect(low, high);
            (Box::new(TcpLink::new(near).expect("link")), Box::new(TcpLink::new(far).expect("link")))
        });
        let start_one = |(me, links)| {
            let memory = NodeMemory::new(layout(nodes, extents)).expect("memory");
            let resume = Some(network.resume(NodeId(me)));
            let config = PagerConfig { stripes, ..config(me, nodes) };
            let node = start_with(config, memory, links, resume).expect("the pager starts");
            network.serve(NodeId(me), &node.pager);
            node
        };
        Cluster { nodes: (0..nodes).zip(links).map(start_one).collect(), done: channel(), threads: 0 }
    }

    pub fn guest(&self, node: usize) -> Guest {
        Guest::of(&self.nodes[node])
    }

    /// Starts a thread of `node`.
    pub fn spawn(&mut self, node: usize, work: impl FnOnce(Guest) + Send + 'static) {
        let (guest, done) = (self.guest(node), self.done.0.clone());
        self.threads += 1;
        std::thread::spawn(move || {
            work(guest);
            let _ = done.send(());
        });
    }

    /// Starts a thread for each of `nodes` (a node may be named twice). They may meet at the barrier, so that none is
    /// done before another has begun, however busy the machine is.
    pub fn spawn_together<W: FnOnce(Guest, &Barrier) + Send + 'static>(
        &mut self,
        nodes: impl IntoIterator<Item = usize>,
        work: impl Fn(usize) -> W,
    ) {
        let nodes: Vec<usize> = nodes.into_iter().collect();
        let meeting = Arc::new(Barrier::new(nodes.len()));
        for node in nodes {
            let (meeting, work) = (meeting.clone(), work(node));
            self.spawn(node, move |guest| work(guest, &meeting));
        }
    }

    /// How often pages came to a node to be written.
    pub fn moves(&self) -> u64 {
        (0..self.nodes.len()).map(|node| self.stats(node).protocol.remote_writes).sum()
    }

    /// Waits for all threads. A thread that hangs or panics is a failure.
    pub fn join(&mut self) {
        // Only running threads keep the channel open, so that a panic is seen at once.
        self.done.0 = channel().0;
        for _ in 0..std::mem::take(&mut self.threads) {
            match self.done.1.recv_timeout(HANG) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => panic!("threads hang: {:#?}", self.failures()),
                Err(RecvTimeoutError::Disconnected) => panic!("a thread panicked: {:#?}", self.failures()),
            }
        }
        self.done = channel();
        assert_eq!(self.failures(), []);
    }

    pub fn failures(&self) -> Vec<PagerFailure> {
        self.nodes.iter().flat_map(|node| node.failures.try_iter()).collect()
    }

    pub fn stats(&self, node: usize) -> PagerStats {
        self.nodes[node].pager.stats()
    }

    /// Prints the latencies of all nodes together.
    pub fn report(&self, what: &str) {
        let mut all = PagerStats::default();
        (0..self.nodes.len()).for_each(|node| all.merge(&self.stats(node)));
        println!("{what}: {} nodes", all.nodes);
        for (kind, latency) in [
            ("local", &all.faults_local),
            ("read", &all.faults_read),
            ("write", &all.faults_write),
            ("upgrade", &all.faults_upgrade),
        ] {
            println!(
                "  {kind:8} {:7} faults  mean {:8.1} us  p50 {:5}  p99 {:6}  max {:7}",
                latency.count, latency.mean_us, latency.p50_us, latency.p99_us, latency.max_us
            );
        }
        println!("  {:?}\n  {:?}", all.links, all.protocol);
    }
}
