//! A machine that only pretends, and workers that are threads.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tessera_dsm::link::Link;
use tessera_dsm::pager::{Lane, Rejoin};
use tessera_dsm::{Gfn, NodeId};

use crate::control::ask::Moved;
use crate::control::guest::GuestSpec;
use crate::control::lifeline::Lifeline;
use crate::control::stats::{DeviceStats, NodeStats, VcpuStats};
use crate::daemon::spawn::{Ended, WorkerProcess, WorkerSpawner};
use crate::worker::life::Life;
use crate::worker::machine::{GuestBuilder, GuestEvents, GuestMachine, Surroundings, UnarmedGuest, Written};
use crate::worker::peers::Peers;

/// Makes fake machines, and keeps them for the test to look at.
#[derive(Default)]
pub struct FakeBuilder {
    machines: Mutex<Vec<Arc<FakeMachine>>>,
    /// Machines never halt.
    pub halts_never: AtomicBool,
    /// Memory cannot be had.
    pub has_no_memory: AtomicBool,
}

impl FakeBuilder {
    /// The machine of a node.
    pub fn machine(&self, node: NodeId) -> Arc<FakeMachine> {
        let machines = self.machines.lock().expect("no panic");
        machines.iter().find(|machine| machine.spec.me == node).expect("armed").clone()
    }
}

/// The builder as the worker has it.
struct Shared(Arc<FakeBuilder>);

impl GuestBuilder for Shared {
    fn configure(&self, spec: &Arc<GuestSpec>) -> Result<Box<dyn UnarmedGuest>, String> {
        match self.0.has_no_memory.load(Ordering::SeqCst) {
            true => Err("no memory".into()),
            false => Ok(Box::new(Unarmed { spec: spec.clone(), builder: self.0.clone() })),
        }
    }
}

struct Unarmed {
    spec: Arc<GuestSpec>,
    builder: Arc<FakeBuilder>,
}

impl UnarmedGuest for Unarmed {
    fn load(&mut self, kernel: File, initramfs: Option<File>) -> Result<Written, String> {
        assert!(initramfs.is_none());
        match io::read_to_string(kernel).expect("read").as_str() {
            "ker" => Ok(vec![(Gfn(1), 2)]),
            other => Err(format!("{other:?} is no kernel")),
        }
    }

    fn arm(self: Box<Self>, surroundings: Surroundings) -> Result<Arc<dyn GuestMachine>, String> {
        assert_eq!(surroundings.written, [(Gfn(1), 2)]);
        assert_eq!(surroundings.data.len(), self.spec.nodes() - 1);
        let places = self.spec.vcpus.iter().map(|vcpu| vcpu.node).collect();
        let machine = Arc::new(FakeMachine {
            spec: self.spec,
            guest_tsc_offset: surroundings.guest_tsc_offset,
            data: Mutex::new(surroundings.data),
            relinked: Mutex::default(),
            peers: surroundings.peers,
            events: surroundings.events,
            delivered: Mutex::default(),
            input: Mutex::default(),
            presses: AtomicU32::new(0),
            paused: AtomicBool::new(false),
            restless: AtomicBool::new(false),
            places: Mutex::new(places),
            asked: AtomicU32::new(0),
            builder: self.builder.clone(),
        });
        self.builder.machines.lock().expect("no panic").push(machine.clone());
        Ok(machine)
    }
}

/// The machine.
pub struct FakeMachine {
    pub spec: Arc<GuestSpec>,
    pub guest_tsc_offset: i64,
    pub data: Mutex<Vec<(Lane, Box<dyn Link>)>>,
    /// New data connections.
    pub relinked: Mutex<Vec<(Lane, Rejoin)>>,
    pub peers: Arc<Peers>,
    pub events: Arc<dyn GuestEvents>,
    pub delivered: Mutex<Vec<(NodeId, Vec<u8>)>>,
    pub input: Mutex<Vec<u8>>,
    /// How often the power button was pressed.
    pub presses: AtomicU32,
    pub paused: AtomicBool,
    /// Cannot be paused.
    pub restless: AtomicBool,
    pub places: Mutex<Vec<NodeId>>,
    /// How often the figures were asked for.
    pub asked: AtomicU32,
    builder: Arc<FakeBuilder>,
}

impl GuestMachine for FakeMachine {
    fn start(&self) -> Result<(), String> {
        Ok(())
    }

    fn deliver(&self, from: NodeId, message: &[u8]) -> Result<(), String> {
        if message == b"nonsense" {
            return Err("nonsense".into());
        }
        self.delivered.lock().expect("no panic").push((from, message.to_vec()));
        Ok(())
    }

    fn move_vcpu(&self, vcpu: u32, to: NodeId) -> Result<Moved, String> {
        self.places.lock().expect("no panic")[vcpu as usize] = to;
        Ok(Moved { vcpu, from: self.spec.me, to, blackout_us: 5, bytes: 6 })
    }

    fn vcpus(&self) -> Vec<VcpuStats> {
        let places = self.places.lock().expect("no panic");
        let stats = |(vcpu, node): (usize, &NodeId)| VcpuStats {
            vcpu: vcpu as u32,
            apic_id: vcpu as u32,
            node: *node,
            moves: 0,
            last_blackout_us: 0,
            worst_blackout_us: 0,
        };
        places.iter().enumerate().map(stats).collect()
    }

    fn devices(&self) -> Vec<DeviceStats> {
        vec![DeviceStats {
            name: "disk0".into(),
            slot: 1,
            node: self.spec.me,
            host: "h".into(),
            behind: "/image".into(),
            pages_borrowed: 3,
            pages_fetched: 2,
            remote_accesses: 1,
        }]
    }

    fn press_power_button(&self) {
        self.presses.fetch_add(1, Ordering::SeqCst);
    }

    fn pause(&self) -> Result<(), String> {
        self.paused.store(true, Ordering::SeqCst);
        match self.restless.load(Ordering::SeqCst) {
            true => Err("vCPU 0 still runs".into()),
            false => Ok(()),
        }
    }

    fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        // Three at a time, as a UART with little room.
        let count = bytes.len().min(3);
        self.input.lock().expect("no panic").extend(&bytes[..count]);
        count
    }

    fn pages_alone(&self) -> u64 {
        70 + u64::from(self.spec.me.0)
    }

    fn pages_only_at(&self, node: NodeId) -> Option<u64> {
        Some(500 + u64::from(node.0))
    }

    fn relink(&self, lane: Lane, link: Box<dyn Link>, rejoin: Rejoin) {
        self.data.lock().expect("no panic").push((lane, link));
        self.relinked.lock().expect("no panic").push((lane, rejoin));
    }

    fn fill_stats(&self, stats: &mut NodeStats) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        stats.memory.owned_pages = self.pages_alone();
    }

    fn halt(&self) {
        if self.builder.halts_never.load(Ordering::SeqCst) {
            std::thread::park_timeout(super::HANG);
        }
    }

    fn close(&self) {
        self.data.lock().expect("no panic").clear();
    }
}

/// Starts workers as threads.
pub struct ThreadSpawner(pub Arc<FakeBuilder>);

impl WorkerSpawner for ThreadSpawner {
    fn spawn(&self, launcher: TcpStream, lifeline: Lifeline) -> io::Result<Box<dyn WorkerProcess>> {
        let builder = Shared(self.0.clone());
        let run = move || crate::worker::run(launcher, lifeline, Arc::new(Life::default()), &builder);
        Ok(Box::new(ThreadWorker(Some(std::thread::spawn(run)))))
    }
}

struct ThreadWorker(Option<JoinHandle<io::Result<()>>>);

impl WorkerProcess for ThreadWorker {
    fn id(&self) -> u32 {
        1
    }

    fn wait(&mut self) -> Ended {
        match self.0.take().map(JoinHandle::join) {
            Some(Ok(Ok(()))) => Ended::InOrder,
            other => Ended::Otherwise(format!("{other:?}")),
        }
    }

    fn killer(&self) -> Box<dyn Fn() + Send> {
        Box::new(|| {})
    }
}
