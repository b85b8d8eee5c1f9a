//! How a worker brings its node up: one order of the launcher after the other, each with a deadline.

use std::net::TcpStream;
use std::sync::mpsc::Receiver;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_dsm::link::Link;
use tessera_dsm::pager::Lane;
use tessera_dsm::NodeId;

use super::clock;
use super::image::Images;
use super::machine::{GuestBuilder, Surroundings, UnarmedGuest};
use super::mesh::{Arrival, Meeting};
use super::node::Node;
use super::peers::{PeerLink, Peers};
use super::transport;
use super::Worker;
use crate::control::frame::FrameReader;
use crate::control::guest::GuestSpec;
use crate::control::lifeline::FromWorker;
use crate::control::orders::{Arming, Order, Report, Stage, WRITTEN_MAX};
use crate::time::estimate::guest_offset;

/// How long a launcher may take from one order to the next: other nodes have their own work meanwhile.
const ORDER_LIMIT: Duration = Duration::from_secs(180);
/// What a stage may take here, of what the launcher allows: the rest is for the way of the answer.
const OWN_SHARE: (u32, u32) = (4, 5);

/// The pagers' connections.
type DataLinks = Vec<(Lane, Box<dyn Link>)>;
/// The guest's description, and its memory.
type Configured = (Arc<GuestSpec>, Box<dyn UnarmedGuest>);

/// Why a node does not come up.
#[derive(Debug)]
pub struct Failed {
    /// The stage that was not reached.
    pub stage: Stage,
    /// Why, in one line.
    pub why: String,
}

/// A node that is being brought up.
pub struct BringUp<'a> {
    worker: &'a Arc<Worker>,
    orders: &'a mut FrameReader<TcpStream>,
    /// Until the node is connected: then they are for connections in place of broken ones.
    arrivals: Option<Receiver<Arrival>>,
    /// The stage that is being worked on.
    stage: Stage,
}

impl<'a> BringUp<'a> {
    /// A node of which nothing is known yet.
    pub(super) fn new(
        worker: &'a Arc<Worker>,
        orders: &'a mut FrameReader<TcpStream>,
        arrivals: Receiver<Arrival>,
    ) -> Self {
        BringUp { worker, orders, arrivals: Some(arrivals), stage: Stage::Created }
    }

    /// Follows the launcher's orders until the guest runs.
    ///
    /// # Errors
    /// The stage that failed, and why.
    pub fn run(&mut self, builder: &dyn GuestBuilder) -> Result<Arc<Node>, Failed> {
        self.follow(builder).map_err(|why| Failed { stage: self.stage, why })
    }

    fn follow(&mut self, builder: &dyn GuestBuilder) -> Result<Arc<Node>, String> {
        let (spec, mut guest) = self.configure(builder)?;
        let (node, data) = self.connect(&spec)?;
        if spec.me == NodeId::HOME {
            self.load(&mut *guest)?;
        }
        self.arm(&node, guest, data)?;
        self.start(&node)?;
        Ok(node)
    }

    fn next_order(&mut self) -> Result<Order, String> {
        let order = self.orders.read(Some(Instant::now() + ORDER_LIMIT));
        order.map_err(|error| format!("no orders from the launcher: {error}"))
    }

    fn reached(&self, report: &Report) -> Result<(), String> {
        if self.stage != Stage::Configured {
            self.worker.tell_daemon(&FromWorker::Reached(self.stage));
        }
        self.worker.launcher.send(report).map_err(|error| format!("the launcher is lost: {error}"))
    }

    fn configure(&mut self, builder: &dyn GuestBuilder) -> Result<Configured, String> {
        self.stage = Stage::Configured;
        let Order::Configure(spec) = self.next_order()? else { return Err(unexpected("Configure")) };
        spec.check().map_err(|error| error.to_string())?;
        let spec: Arc<GuestSpec> = Arc::from(spec);
        let guest = builder.configure(&spec)?;
        let hosts = spec.hosts.iter().map(|host| host.address.to_string()).collect();
        self.worker.tell_daemon(&FromWorker::Configured { node: spec.me, hosts });
        self.reached(&Report::Reached(self.stage))?;
        Ok((spec, guest))
    }

    fn connect(&mut self, spec: &Arc<GuestSpec>) -> Result<(Arc<Node>, DataLinks), String> {
        self.stage = Stage::Connected;
        let Order::Connect = self.next_order()? else { return Err(unexpected("Connect")) };
        let arrivals = self.arrivals.take().ok_or("the node is connected already")?;
        let limit = self.stage.limit() * OWN_SHARE.0 / OWN_SHARE.1;
        let by = Instant::now() + limit;
        let meeting = Meeting {
            spec,
            arrivals: &arrivals,
            launcher: self.worker.launcher.socket(),
            life: &self.worker.life,
            limit,
        };
        let mesh = meeting.meet().map_err(|error| error.to_string())?;
        let link = |(node, stream)| Arc::new(PeerLink::new(spec.me, node, spec.host_name(node), stream));
        let peers = Arc::new(Peers::new(mesh.control.into_iter().map(link).collect()));
        let node = Arc::new(Node::new(spec.clone(), self.worker.life.clone(), peers, mesh.clock));
        node.start_peer_threads(arrivals).map_err(|error| format!("cannot start a thread: {error}"))?;
        let mut data: DataLinks = Vec::new();
        // In the order of nodes and shards on all of them: none waits for one that waits for another.
        for (lane, stream) in mesh.data {
            let link = transport::data_link(spec, lane.peer, stream, by);
            let link = link.map_err(|error| format!("node {}: {error}", spec.host_name(lane.peer)))?;
            data.push((lane, link));
        }
        self.reached(&Report::Reached(self.stage))?;
        Ok((node, data))
    }

    fn load(&mut self, guest: &mut dyn UnarmedGuest) -> Result<(), String> {
        self.stage = Stage::Loaded;
        let mut images = Images::default();
        loop {
            match self.next_order()? {
                Order::Image { image, bytes } => images.begin(image, bytes),
                Order::Chunk(chunk) => images.append(&chunk),
                Order::Load => break,
                _ => return Err(unexpected("Image, Chunk or Load")),
            }
            .map_err(|error| error.to_string())?;
        }
        let (kernel, initramfs) = images.finish().map_err(|error| error.to_string())?;
        let written = guest.load(kernel, initramfs)?;
        // From here on the guest's clock runs: before its first instruction on any node.
        let arming = Arming { written, guest_zero_tsc: clock::tsc() };
        self.reached(&Report::Loaded(arming))
    }

    fn arm(&mut self, node: &Arc<Node>, guest: Box<dyn UnarmedGuest>, data: DataLinks) -> Result<(), String> {
        self.stage = Stage::Armed;
        let Order::Arm(arming) = self.next_order()? else { return Err(unexpected("Arm")) };
        check_written(&arming, &node.spec)?;
        let machine = guest.arm(Surroundings {
            written: arming.written,
            guest_tsc_offset: guest_offset(node.clock.used(), arming.guest_zero_tsc),
            data,
            peers: node.peers.clone(),
            events: node.events(),
        })?;
        node.set_machine(machine);
        self.reached(&Report::Reached(self.stage))
    }

    fn start(&mut self, node: &Arc<Node>) -> Result<(), String> {
        self.stage = Stage::Running;
        let Order::Start = self.next_order()? else { return Err(unexpected("Start")) };
        let machine = node.machine().ok_or("the guest has no machine")?;
        self.reached(&Report::Reached(self.stage))?;
        let threads = self.worker.start_launcher_threads(node);
        threads.map_err(|error| format!("cannot start a thread: {error}"))?;
        node.set_started();
        // Users may ask from now on.
        let _only_once = self.worker.node.set(node.clone());
        machine.start()
    }
}

fn unexpected(wanted: &str) -> String {
    format!("the launcher gave another order than {wanted}")
}

/// What the loader wrote must be guest memory.
fn check_written(arming: &Arming, spec: &GuestSpec) -> Result<(), String> {
    let in_memory = |&(first, pages): &(tessera_dsm::Gfn, u64)| {
        let region = spec.layout.regions().iter().find(|region| region.contains(first));
        region.is_some_and(|region| pages > 0 && pages <= region.end().0 - first.0)
    };
    match arming.written.len() <= WRITTEN_MAX && arming.written.iter().all(in_memory) {
        true => Ok(()),
        false => Err("what the loader wrote is not guest memory".into()),
    }
}
