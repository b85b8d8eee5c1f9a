//! A guest over several nodes in one process: real KVM, real pagers over loopback TCP, control messages over
//! channels (encoded as in the product), with a place where tests meddle with them.

#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::needless_pass_by_value, reason = "a specification is used once")]

use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use tessera_devices::ram::NodeRam;
use tessera_devices::GuestEnd;
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{AskAhead, Lane, Pager, PagerConfig, PagerHooks, Tracking};
use tessera_dsm::protocol::{HabitPolicy, LeasePolicy};
use tessera_dsm::{NodeId, Stripes, EXTENT_BYTES};
use tessera_migration::VcpuId;
use tessera_vmm::boot::{self, BootSpec, BootVcpu};
use tessera_vmm::control::devices::DeviceSpec;
use tessera_vmm::cpuid::{self, AsyncFaults};
use tessera_vmm::machine::{
    HomeDevices, Machine, MachineEvents, MachineSpec, PeerLost, PeerMessage, PeerSink, VcpuSpec,
};

#[path = "../../../dsm/tests/pager/network.rs"]
pub mod network;

use network::Network;

/// No test guest runs longer: a hang, not a measure.
pub const HANG: Duration = Duration::from_secs(900);

/// What becomes of a control message.
pub enum Verdict {
    /// It arrives.
    Pass,
    /// The link is down.
    Cut,
}

/// Decides about control messages: from, to, message.
pub type Meddler = Arc<dyn Fn(NodeId, NodeId, &PeerMessage) -> Verdict + Send + Sync>;

/// Makes the data connection between two nodes: the one end for the lower of them, the other for the higher.
pub type Connector = Arc<dyn Fn(NodeId, NodeId) -> (TcpStream, TcpStream) + Send + Sync>;

/// What to run.
pub struct ClusterSpec {
    pub payload: &'static str,
    pub cmdline: String,
    /// What the guest finds as its initramfs.
    pub initramfs: Option<PathBuf>,
    /// The node of each vCPU.
    pub vcpus: Vec<u8>,
    pub nodes: u8,
    pub memory_mib: u64,
    pub lease: LeasePolicy,
    pub ahead: AskAhead,
    /// Pagers of each node, which share memory out extent by extent.
    pub pagers: u8,
    pub meddler: Option<Meddler>,
    /// Whether the guest is offered asynchronous page faults.
    pub async_faults: AsyncFaults,
    /// What the data connections go over; plain loopback if absent.
    pub network: Option<Arc<Network>>,
    /// Devices of the home node.
    pub devices: Vec<DeviceSpec>,
    /// Who makes them, if there is no network.
    pub connect: Option<Connector>,
}

impl ClusterSpec {
    /// The general payload with `test=...` and so on, vCPUs spread over the nodes in turn.
    pub fn payload(cmdline: &str, nodes: u8, vcpus: usize) -> Self {
        ClusterSpec {
            payload: "tessera-payload",
            cmdline: cmdline.into(),
            initramfs: None,
            vcpus: (0..vcpus).map(|index| (index % usize::from(nodes)) as u8).collect(),
            nodes,
            memory_mib: 64,
            lease: LeasePolicy::default(),
            ahead: AskAhead::On,
            pagers: 1,
            meddler: None,
            async_faults: AsyncFaults::Hidden,
            network: None,
            devices: Vec::new(),
            connect: None,
        }
    }

    /// Over connections that break when the network is told to.
    pub fn over(mut self, network: &Arc<Network>) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// With so many pagers on each node.
    pub fn with_pagers(mut self, pagers: u8) -> Self {
        self.pagers = pagers;
        self
    }

    /// With asynchronous page faults.
    pub fn with_async_faults(mut self) -> Self {
        self.async_faults = AsyncFaults::Offered;
        self
    }

    pub fn meddle(
        mut self,
        meddler: impl Fn(NodeId, NodeId, &PeerMessage) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.meddler = Some(Arc::new(meddler));
        self
    }
}

/// Where a payload lies: `TESSERA_PAYLOADS`, else where cargo puts it.
pub fn payload_path(name: &str) -> PathBuf {
    let folder = std::env::var_os("TESSERA_PAYLOADS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guest/payload/target/release"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(path.exists(), "{} is missing: `cargo xtask test` builds the payloads first", path.display());
    path
}

#[derive(Default)]
struct Seen {
    console: Vec<u8>,
    end: Option<GuestEnd>,
    failures: Vec<String>,
}

/// Hears all nodes.
#[derive(Default)]
pub struct Listener {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl MachineEvents for Listener {
    fn console(&self, bytes: &[u8]) {
        self.seen.lock().expect("no panic").console.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    fn guest_end(&self, end: GuestEnd) {
        self.seen.lock().expect("no panic").end.get_or_insert(end);
        self.changed.notify_all();
    }

    fn failed(&self, why: String) {
        self.seen.lock().expect("no panic").failures.push(why);
        self.changed.notify_all();
    }

    fn placed(&self, _: VcpuId, _: NodeId) {}
}

/// Who sent it, and an encoded message.
type Letter = (NodeId, Vec<u8>);

/// Sends to the other machines of the process.
struct Wires {
    me: NodeId,
    to: Vec<Mutex<Sender<Letter>>>,
    meddler: Option<Meddler>,
}

impl PeerSink for Wires {
    fn send(&self, to: NodeId, message: PeerMessage) -> Result<(), PeerLost> {
        if let Some(meddler) = &self.meddler {
            if matches!(meddler(self.me, to, &message), Verdict::Cut) {
                return Err(PeerLost(to));
            }
        }
        let bytes = postcard::to_stdvec(&message).expect("encodes");
        self.to[to.index()].lock().expect("no panic").send((self.me, bytes)).map_err(|_| PeerLost(to))
    }
}

pub struct Node {
    pub machine: Arc<Machine>,
    pub pager: Arc<Pager>,
    pub memory: Arc<NodeMemory>,
    reader: Option<JoinHandle<()>>,
}

/// A running guest.
pub struct Cluster {
    pub nodes: Vec<Node>,
    listener: Arc<Listener>,
    lines: Vec<Sender<(NodeId, Vec<u8>)>>,
    network: Option<Arc<Network>>,
}

impl Cluster {
    pub fn start(spec: ClusterSpec) -> Cluster {
        let nodes = usize::from(spec.nodes);
        let layout = boot::layout_for(spec.memory_mib << 20, nodes).expect("layout");
        let mut per_node = vec![0u32; nodes];
        spec.vcpus.iter().for_each(|&node| per_node[usize::from(node)] += 1);
        let mut ids: Vec<(u32, NodeId)> = cpuid::apic_ids(&per_node).expect("few enough");
        let vcpus: Vec<VcpuSpec> = spec
            .vcpus
            .iter()
            .map(|&node| {
                let at = ids.iter().position(|&(_, of)| of == NodeId(node)).expect("counted");
                let (apic_id, node) = ids.remove(at);
                VcpuSpec { apic_id, node }
            })
            .collect();
        let kvm = Kvm::new().expect("/dev/kvm");
        let supported =
            kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).expect("CPUID").as_slice().to_vec();
        let tsc_khz = tsc_khz(&kvm);
        let memories: Vec<_> = (0..nodes).map(|_| NodeMemory::new(layout.clone()).expect("memory")).collect();
        let apics: Vec<String> = vcpus.iter().map(|vcpu| vcpu.apic_id.to_string()).collect();
        let boot_spec = BootSpec {
            kernel: File::open(payload_path(spec.payload)).expect("payload"),
            initramfs: spec.initramfs.as_ref().map(|path| File::open(path).expect("initramfs")),
            cmdline: format!("apic={} tsc_khz={tsc_khz} {}", apics.join(","), spec.cmdline),
            vcpus: vcpus.iter().map(|v| BootVcpu { apic_id: v.apic_id, node: v.node }).collect(),
        };
        let image = boot::load(&memories[0].alias_view(), &layout, &boot_spec).expect("loads");
        let mut shown = cpuid::levelled(std::slice::from_ref(&supported)).expect("levels");
        if spec.async_faults == AsyncFaults::Offered {
            cpuid::offer_async_faults(&mut shown, std::slice::from_ref(&supported)).expect("offered");
        }
        let listener = Arc::new(Listener::default());
        let (lines, inboxes): (Vec<_>, Vec<_>) = (0..nodes).map(|_| channel::<(NodeId, Vec<u8>)>()).unzip();
        let stripes = Stripes::of_at_least(EXTENT_BYTES, &layout, spec.pagers);
        let mut mesh = mesh(nodes, stripes, &connector(&spec));
        let tsc_offset_ticks = -(tessera_vmm::kvm::host_tsc() as i64);
        let mut built = Vec::new();
        for (index, (memory, inbox)) in memories.into_iter().zip(inboxes).enumerate() {
            let me = NodeId(index as u8);
            let tracking = if nodes == 1 { Tracking::Off } else { Tracking::On };
            let config = PagerConfig {
                me,
                nodes: spec.nodes,
                preloaded: image.written.clone(),
                lease: spec.lease,
                habits: HabitPolicy::OFF,
                stripes,
                tracking,
                ahead: spec.ahead,
            };
            let hears = Arc::clone(&listener);
            let on_failure = Box::new(move |failure: tessera_dsm::pager::PagerFailure| {
                hears.failed(format!("pager of {me}: {failure}"));
            });
            let wires = Wires {
                me,
                to: lines.iter().map(|line| Mutex::new(line.clone())).collect(),
                meddler: spec.meddler.clone(),
            };
            let machine_spec = MachineSpec {
                me,
                nodes: spec.nodes,
                layout: layout.clone(),
                vcpus: vcpus.clone(),
                cpuid: shown.clone(),
                tsc_khz,
                tsc_offset_ticks,
            };
            let ram = Arc::new(NodeRam::new(&memory));
            let own = if me == NodeId::HOME { spec.devices.as_slice() } else { &[] };
            let devices = HomeDevices::open(own, Arc::clone(&ram)).expect("devices");
            let listens = Arc::clone(&listener) as _;
            let machine = Machine::with_devices(machine_spec, &memory, Arc::new(wires), listens, devices)
                .expect("machine");
            let resume = spec.network.as_ref().map(|network| network.resume(me));
            let hooks = PagerHooks { on_failure, tables: machine.take_table_cache(), resume };
            let links = std::mem::take(&mut mesh[index]);
            let pager = Arc::new(Pager::start(config, Arc::clone(&memory), links, hooks).expect("pager"));
            if let Some(network) = &spec.network {
                network.serve(me, &pager);
            }
            ram.serve(Arc::clone(&pager));
            let reader = Some(read(inbox, Arc::clone(&machine)));
            built.push(Node { machine, pager, memory, reader });
        }
        built[0].machine.set_entry(&image.entry).expect("entry");
        for node in &built {
            node.machine.start().expect("starts");
        }
        Cluster { nodes: built, listener, lines, network: spec.network }
    }

    /// Where `vcpu` is, asked of the node that says that it has it.
    pub fn place(&self, vcpu: VcpuId) -> NodeId {
        let says = |node: &Node| node.machine.vcpus()[vcpu.index()].node;
        let own = |index: usize| says(&self.nodes[index]) == NodeId(index as u8);
        (0..self.nodes.len())
            .find(|&index| own(index))
            .map_or_else(|| says(&self.nodes[0]), |i| NodeId(i as u8))
    }

    /// Moves a vCPU from where it is.
    pub fn move_vcpu(
        &self,
        vcpu: VcpuId,
        to: NodeId,
    ) -> Result<tessera_vmm::machine::MoveReport, tessera_migration::handover::Refusal> {
        self.nodes[self.place(vcpu).index()].machine.move_vcpu(vcpu, to)
    }

    /// Moves random vCPUs out of `which` to random other nodes until the guest ends or `moves` are made; gives how
    /// many were. The seed is printed; `TESSERA_SEED` sets it.
    pub fn keep_moving(&self, which: &[u16], moves: usize) -> usize {
        let seed =
            std::env::var("TESSERA_SEED").ok().map_or(0x7e55e4a, |text| text.parse().expect("a number"));
        println!("moves: TESSERA_SEED={seed}");
        self.keep_moving_from(seed, which, moves)
    }

    /// As [`Cluster::keep_moving`], with this seed.
    pub fn keep_moving_from(&self, seed: u64, which: &[u16], moves: usize) -> usize {
        let mut random = Random(seed.max(1));
        let mut made = 0;
        while made < moves && !self.ended() {
            let vcpu = VcpuId(which[random.below(which.len())]);
            let from = self.place(vcpu);
            let to =
                NodeId(((from.index() + 1 + random.below(self.nodes.len() - 1)) % self.nodes.len()) as u8);
            match self.move_vcpu(vcpu, to) {
                Ok(_) => made += 1,
                // Between INIT and SIPI, or at the very end.
                Err(tessera_migration::handover::Refusal::Freeze(_)) => {}
                Err(_) if self.ended() => break,
                Err(refusal) => panic!("after {made} moves: {vcpu} from {from} to {to}: {refusal}"),
            }
        }
        made
    }

    pub fn ended(&self) -> bool {
        let seen = self.listener.seen.lock().expect("no panic");
        seen.end.is_some() || !seen.failures.is_empty()
    }

    /// Lets the pagers run before everything else of this machine: its cores are busy with vCPUs that wait by spinning.
    pub fn real_time(&self) {
        for node in &self.nodes {
            if let Err(error) = node.pager.set_real_time() {
                println!("the pagers stay ordinary threads: {error}");
            }
        }
    }

    /// Waits until the console shows `text`.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(&format!("the console shows {text:?}"), |seen| {
            String::from_utf8_lossy(&seen.console).contains(text)
        });
    }

    /// Waits for the guest's end.
    pub fn await_end(&self) {
        self.wait_until("the guest ends", |seen| seen.end.is_some());
    }

    /// Waits for the guest's end, stops all nodes, and gives the console's text.
    pub fn finish(mut self) -> (GuestEnd, String) {
        self.await_end();
        self.take_down();
        let seen = self.listener.seen.lock().expect("no panic");
        let console = String::from_utf8_lossy(&seen.console).into_owned();
        println!("{console}");
        (seen.end.expect("waited for"), console)
    }

    /// As [`Cluster::finish`], and the payload must have passed.
    pub fn expect_pass(self) -> String {
        let (end, console) = self.finish();
        assert_eq!(end, GuestEnd::PayloadExit(0), "the payload failed");
        console
    }

    /// What the nodes said about failures so far.
    pub fn failures(&self) -> Vec<String> {
        self.listener.seen.lock().expect("no panic").failures.clone()
    }

    fn wait_until(&self, what: &str, done: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + HANG;
        let mut seen = self.listener.seen.lock().expect("no panic");
        while !done(&seen) {
            let console = String::from_utf8_lossy(&seen.console).into_owned();
            assert!(seen.failures.is_empty(), "{:?}; console:\n{console}", seen.failures);
            assert!(seen.end.is_none(), "ended with {:?} before {what}; console:\n{console}", seen.end);
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("hangs before {what}; console:\n{console}"));
            seen = self.listener.changed.wait_timeout(seen, left).expect("no panic").0;
        }
    }

    fn take_down(&mut self) {
        self.nodes.iter().for_each(|node| node.machine.quit());
        self.nodes.iter().for_each(|node| node.pager.stop());
        self.nodes.iter().for_each(|node| node.machine.join());
        self.lines.clear();
        self.network.take().into_iter().for_each(|network| network.close());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.take_down();
    }
}

fn read(inbox: Receiver<(NodeId, Vec<u8>)>, machine: Arc<Machine>) -> JoinHandle<()> {
    // Weak: the reader ends with the wires, which the machines hold.
    let machine = Arc::downgrade(&machine);
    std::thread::spawn(move || {
        for (from, bytes) in inbox {
            let message = postcard::from_bytes(&bytes).expect("decodes");
            let Some(machine) = machine.upgrade() else { return };
            machine.deliver(from, message);
        }
    })
}

/// What makes the data connections of this guest.
fn connector(spec: &ClusterSpec) -> Connector {
    match (&spec.network, &spec.connect) {
        (Some(network), _) => {
            let network = Arc::clone(network);
            Arc::new(move |low, high| network.connect(low, high))
        }
        (None, Some(connect)) => Arc::clone(connect),
        (None, None) => Arc::new(|_, _| network::loopback()),
    }
}

/// A connection between each two nodes for each shard.
fn mesh(nodes: usize, stripes: Stripes, connect: &Connector) -> Vec<Vec<(Lane, TcpStream)>> {
    let mut mesh: Vec<Vec<(Lane, TcpStream)>> = (0..nodes).map(|_| Vec::new()).collect();
    for low in 0..nodes {
        for high in low + 1..nodes {
            for shard in stripes.shards() {
                let (here, there) = connect(NodeId(low as u8), NodeId(high as u8));
                mesh[low].push((Lane { peer: NodeId(high as u8), shard }, here));
                mesh[high].push((Lane { peer: NodeId(low as u8), shard }, there));
            }
        }
    }
    mesh
}

fn tsc_khz(kvm: &Kvm) -> u32 {
    let vm = kvm.create_vm().expect("VM");
    let vcpu = vm.create_vcpu(0).expect("vCPU");
    vcpu.get_tsc_khz().expect("TSC frequency")
}

/// A small generator (xorshift64*), so that a run can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}
