//! Loopback connections that break when they are told to, at any byte, and are made anew as the pagers ask for it.
//!
//! Also used by the tests of whole guests (`vmm/tests/cluster`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tessera_dsm::link::session::Greeting;
use tessera_dsm::link::{Link, TcpLink};
use tessera_dsm::pager::{Lane, LinkBroke, Pager, Rejoin, Resume};
use tessera_dsm::NodeId;

/// How long a peer may be without a link: never that long here, however busy the machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection that goes through this process.
struct Wire {
    between: [NodeId; 2],
    cut: Arc<AtomicBool>,
    /// The middle's sockets, to wake who reads them.
    middle: [TcpStream; 2],
}

/// All connections of a guest.
pub struct Network {
    random: Mutex<u64>,
    wires: Mutex<Vec<Wire>>,
    /// By node.
    pagers: Mutex<Vec<Option<Arc<Pager>>>>,
    cuts: AtomicU64,
}

/// Both ends of a plain connection.
pub fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    (near, listener.accept().expect("accept").0)
}

impl Network {
    /// A network whose breaks are drawn from `seed`, which is printed.
    pub fn new(seed: u64) -> Arc<Self> {
        println!("network: seed {seed}");
        Arc::new(Network {
            random: Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1)),
            wires: Mutex::default(),
            pagers: Mutex::default(),
            cuts: AtomicU64::new(0),
        })
    }

    fn below(&self, bound: usize) -> usize {
        let mut state = self.random.lock().expect("no panic");
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// Both ends of a new connection.
    pub fn connect(self: &Arc<Self>, one: NodeId, other: NodeId) -> (TcpStream, TcpStream) {
        let ((one_end, one_middle), (other_end, other_middle)) = (loopback(), loopback());
        let cut = Arc::new(AtomicBool::new(false));
        for (from, to) in [(&one_middle, &other_middle), (&other_middle, &one_middle)] {
            let (from, to) = (from.try_clone().expect("clone"), to.try_clone().expect("clone"));
            let (network, cut) = (self.clone(), cut.clone());
            std::thread::spawn(move || network.forward(from, to, &cut));
        }
        let wire = Wire { between: [one, other], cut, middle: [one_middle, other_middle] };
        self.wires.lock().expect("no panic").push(wire);
        (one_end, other_end)
    }

    /// Carries bytes one way until the connection ends, in pieces of any size.
    fn forward(&self, mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
        let _ = to.set_nodelay(true);
        let mut buffer = [0; 20_000];
        loop {
            let most = 1 + self.below([64, 5000, buffer.len()][self.below(3)]);
            let Ok(bytes) = from.read(&mut buffer[..most]) else { break };
            let is_cut = cut.load(Ordering::SeqCst);
            let arrives = if is_cut { self.below(bytes + 1) } else { bytes };
            if bytes == 0 || to.write_all(&buffer[..arrives]).is_err() || is_cut {
                break;
            }
        }
        for socket in [&from, &to] {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Breaks every connection between two nodes, or between all: some with a reset, some with a plain end.
    pub fn cut(&self, between: Option<[NodeId; 2]>) {
        self.wires.lock().expect("no panic").retain(|wire| {
            if between.is_some_and(|between| between != wire.between) {
                return true;
            }
            wire.cut.store(true, Ordering::SeqCst);
            for socket in &wire.middle {
                if self.below(2) == 0 {
                    // Its close is then a reset, which takes away what the other end has not read yet.
                    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                }
                // Only the reading side, so that what the other thread has in its hands still goes out in part.
                let _ = socket.shutdown(Shutdown::Read);
            }
            self.cuts.fetch_add(1, Ordering::SeqCst);
            false
        });
    }

    /// Breaks connections between all nodes for as long as `go_on` says, each after a random time of up to `pause`.
    pub fn keep_cutting(&self, pause: Duration, go_on: impl Fn() -> bool) {
        while go_on() {
            std::thread::sleep(pause.mul_f64(self.below(1000) as f64 / 1000.0));
            self.cut(None);
        }
    }

    /// How many connections were broken.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// Lets the node's pager have new links.
    pub fn serve(&self, node: NodeId, pager: &Arc<Pager>) {
        let mut pagers = self.pagers.lock().expect("no panic");
        if pagers.len() <= node.index() {
            pagers.resize_with(node.index() + 1, || None);
        }
        pagers[node.index()] = Some(pager.clone());
    }

    /// Lets go of the pagers.
    pub fn close(&self) {
        self.pagers.lock().expect("no panic").clear();
        self.cut(None);
    }

    fn pager(&self, node: NodeId) -> Option<Arc<Pager>> {
        self.pagers.lock().expect("no panic").get(node.index())?.clone()
    }

    /// What the pager of `me` is to be started with.
    pub fn resume(self: &Arc<Self>, me: NodeId) -> Resume {
        let network = self.clone();
        let on_break = move |broke: LinkBroke| {
            let Some(greeting) = broke.redial else { return };
            let network = network.clone();
            std::thread::spawn(move || network.redial(me, broke.lane, greeting));
        };
        Resume { limit: LIMIT, on_break: Box::new(on_break) }
    }

    /// Sets up a new connection, now and then after an attempt of which only the other end learns, at once or late.
    fn redial(self: &Arc<Self>, me: NodeId, lane: Lane, mut greeting: Greeting) {
        std::thread::sleep(Duration::from_micros(self.below(3000) as u64));
        let mut late = None;
        match self.below(4) {
            0 => {
                drop(self.offer(me, lane, greeting));
                greeting.epoch = greeting.epoch.next();
            }
            1 => {
                late = Some(greeting);
                greeting.epoch = greeting.epoch.next();
            }
            _ => {}
        }
        let near = self.offer(me, lane, greeting);
        if let (Some(near), Some(pager)) = (near, self.pager(me)) {
            pager.relink(lane, near, Rejoin::Dialled(greeting.epoch));
        }
        if let Some(late) = late {
            drop(self.offer(me, lane, late));
        }
    }

    /// Gives the peer its end of a new connection.
    fn offer(
        self: &Arc<Self>,
        me: NodeId,
        Lane { peer, shard }: Lane,
        greeting: Greeting,
    ) -> Option<Box<dyn Link>> {
        let pager = self.pager(peer)?;
        let (far, near) = self.connect(peer, me);
        let here = Lane { peer: me, shard };
        pager.relink(here, Box::new(TcpLink::new(far).expect("link")), Rejoin::Accepted(greeting));
        Some(Box::new(TcpLink::new(near).expect("link")))
    }
}
