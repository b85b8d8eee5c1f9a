//! The product's machine behind the [seam](super::machine): guest memory, pager and KVM.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tessera_devices::pci::FunctionReport;
use tessera_devices::ram::NodeRam;
use tessera_devices::GuestEnd;
use tessera_dsm::link::Link;
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::{
    Arrived, AskAhead, Lane, Pager, PagerConfig, PagerFailure, PagerHooks, PagerStats, Rejoin, Resume, Stall,
    Tracking,
};
use tessera_dsm::protocol::{HabitPolicy, LeasePolicy};
use tessera_dsm::{NodeId, EXTENT_PAGES, PAGE_BYTES};
use tessera_migration::VcpuId;

use super::machine::{GuestBuilder, GuestEvents, GuestMachine, Surroundings, UnarmedGuest, Written};
use super::peers::Peers;
use crate::boot::{self, BootSpec, BootVcpu, Entry};
use crate::control::ask::Moved;
use crate::control::devices::DeviceSpec;
use crate::control::ending::EndCause;
use crate::control::frame;
use crate::control::guest::GuestSpec;
use crate::control::stats::{
    ArrivalStats, AsyncFaultStats, DeviceStats, FaultStats, MemoryStats, MoveStats, NodeStats, Spread,
    StallStats, TrafficStats, VcpuStats,
};
use crate::host::priority;
use crate::machine::{
    HomeDevices, Machine, MachineEvents, MachineSpec, PeerLost, PeerMessage, PeerSink, VcpuSpec, VcpuStatus,
};

/// Makes machines of KVM.
#[derive(Clone, Copy, Debug)]
pub struct KvmGuestBuilder;

impl GuestBuilder for KvmGuestBuilder {
    fn configure(&self, spec: &Arc<GuestSpec>) -> Result<Box<dyn UnarmedGuest>, String> {
        let memory = NodeMemory::new(spec.layout.clone()).map_err(line)?;
        let ram = Arc::new(NodeRam::new(&memory));
        // The other nodes' hosts do not have the devices' files.
        let here = if spec.me == NodeId::HOME { spec.devices.as_slice() } else { &[] };
        let devices = HomeDevices::open(here, ram.clone()).map_err(line)?;
        Ok(Box::new(Unarmed { spec: spec.clone(), memory, ram, devices, entry: None }))
    }
}

/// An error in one line.
fn line(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Unarmed {
    spec: Arc<GuestSpec>,
    memory: Arc<NodeMemory>,
    /// Guest memory as the devices borrow it, once there is a pager.
    ram: Arc<NodeRam>,
    devices: HomeDevices,
    /// On node 0, once the guest is loaded.
    entry: Option<Entry>,
}

impl UnarmedGuest for Unarmed {
    fn load(&mut self, kernel: File, initramfs: Option<File>) -> Result<Written, String> {
        let vcpus =
            self.spec.vcpus.iter().map(|vcpu| BootVcpu { apic_id: vcpu.apic_id, node: vcpu.node }).collect();
        let boot = BootSpec { kernel, initramfs, cmdline: self.spec.cmdline.clone(), vcpus };
        let image = boot::load(&self.memory.alias_view(), &self.spec.layout, &boot).map_err(line)?;
        self.entry = Some(image.entry);
        Ok(image.written)
    }

    fn arm(self: Box<Self>, surroundings: Surroundings) -> Result<Arc<dyn GuestMachine>, String> {
        let Surroundings { written, guest_tsc_offset, data, peers, events } = surroundings;
        let spec = self.spec;
        let nodes = spec.nodes() as u8;
        let machine_spec = MachineSpec {
            me: spec.me,
            nodes,
            layout: spec.layout.clone(),
            vcpus: spec
                .vcpus
                .iter()
                .map(|vcpu| VcpuSpec { apic_id: vcpu.apic_id, node: vcpu.node })
                .collect(),
            cpuid: spec.cpuid.clone(),
            tsc_khz: spec.tsc_khz,
            tsc_offset_ticks: guest_tsc_offset,
        };
        // The machine first: the pager tracks memory that KVM already knows.
        let listener = Arc::new(Listener { me: spec.me, events: events.clone() });
        let peers = Arc::new(Sink(peers));
        let machine = Machine::with_devices(machine_spec, &self.memory, peers, listener, self.devices);
        let machine = machine.map_err(line)?;
        if let Some(entry) = &self.entry {
            machine.set_entry(entry).map_err(line)?;
        }
        let config = PagerConfig {
            me: spec.me,
            nodes,
            preloaded: written,
            lease: lease(spec.lease_us),
            // Asking ahead would take pages to write that are only looked at.
            habits: HabitPolicy::OFF,
            stripes: spec.stripes(),
            tracking: if nodes == 1 { Tracking::Off } else { Tracking::On },
            ahead: AskAhead::On,
        };
        let broke = events.clone();
        let resume =
            Resume { limit: spec.links.lost_after(), on_break: Box::new(move |how| broke.link_broke(how)) };
        let hooks = PagerHooks {
            on_failure: on_pager_failure(events),
            tables: machine.take_table_cache(),
            resume: Some(resume),
        };
        let pager = Pager::start_with_links(config, self.memory.clone(), data, hooks).map_err(line)?;
        let pager = Arc::new(pager);
        self.ram.serve(pager.clone());
        if priority::crowded(spec.vcpus.len()) {
            if let Err(error) = pager.set_real_time() {
                tracing::info!("the pager has no real-time priority: {error}; remote pages take longer");
            }
        }
        match spec.links.busy_poll_us {
            0 => {}
            us if priority::has_spare(spec.vcpus.len(), spec.stripes().count()) => {
                pager.set_busy_poll(Duration::from_micros(us.into()));
            }
            _ => tracing::info!("no busy polling: the guest's vCPUs may fill all processors of this host"),
        }
        Ok(Arc::new(KvmGuest { spec, memory: self.memory, machine, pager }))
    }
}

fn lease(base_us: Option<u32>) -> LeasePolicy {
    let usual = LeasePolicy::default();
    match base_us.map(u64::from) {
        Some(base_us) => LeasePolicy { base_us, max_us: usual.max_us.max(base_us) },
        None => usual,
    }
}

fn on_pager_failure(events: Arc<dyn GuestEvents>) -> Box<dyn Fn(PagerFailure) + Send + Sync> {
    Box::new(move |failure| match failure.peer {
        Some(peer) => events.peer_lost(peer, failure.what, failure.pages_only_there),
        None => events.failed(format!("the pager stopped: {}", failure.what)),
    })
}

/// Sends the machine's messages on the control connections.
struct Sink(Arc<Peers>);

impl PeerSink for Sink {
    fn send(&self, to: NodeId, message: PeerMessage) -> Result<(), PeerLost> {
        let bytes = postcard::to_stdvec(&message).map_err(|_| PeerLost(to))?;
        self.0.send_machine(to, bytes).map_err(|_| PeerLost(to))
    }
}

/// Passes on what the machine tells.
struct Listener {
    me: NodeId,
    events: Arc<dyn GuestEvents>,
}

impl MachineEvents for Listener {
    fn console(&self, bytes: &[u8]) {
        self.events.console(bytes);
    }

    fn guest_end(&self, end: GuestEnd) {
        self.events.ended(match end {
            GuestEnd::PowerOff => EndCause::PowerOff,
            GuestEnd::Reset => EndCause::Reset,
            GuestEnd::Panic => EndCause::Panic,
            GuestEnd::PayloadExit(code) => EndCause::PayloadExit(code),
        });
    }

    fn failed(&self, why: String) {
        self.events.failed(why);
    }

    fn placed(&self, vcpu: VcpuId, node: NodeId) {
        if node == self.me {
            tracing::debug!("{vcpu} runs here");
        } else {
            tracing::debug!("{vcpu} runs on {node}");
        }
    }
}

struct KvmGuest {
    spec: Arc<GuestSpec>,
    memory: Arc<NodeMemory>,
    machine: Arc<Machine>,
    pager: Arc<Pager>,
}

impl KvmGuest {
    /// What the pager knows of threads, by vCPU.
    fn stalls(&self, pager: &PagerStats) -> Vec<StallStats> {
        let of_vcpu = |&(thread, stall): &(u32, Stall)| {
            let vcpu = self.machine.vcpu_of_thread(thread)?.0.into();
            Some(StallStats { vcpu, faults: stall.faults, stalled_us: stall.waited_us })
        };
        let mut stalls: Vec<StallStats> = pager.stalls.iter().filter_map(of_vcpu).collect();
        stalls.sort_by_key(|stall| stall.vcpu);
        stalls
    }
}

impl GuestMachine for KvmGuest {
    fn start(&self) -> Result<(), String> {
        self.machine.start().map_err(line)
    }

    fn deliver(&self, from: NodeId, message: &[u8]) -> Result<(), String> {
        let message: PeerMessage = frame::decode(message).map_err(line)?;
        self.machine.deliver(from, message);
        Ok(())
    }

    fn move_vcpu(&self, vcpu: u32, to: NodeId) -> Result<Moved, String> {
        let id = VcpuId(u16::try_from(vcpu).map_err(|_| format!("the guest has no vCPU {vcpu}"))?);
        let report = self.machine.move_vcpu(id, to);
        let report = report.map_err(|refusal| format!("vCPU {vcpu} was not moved: {refusal}"))?;
        // Contexts of one guest are of one size, but for a few bytes.
        let stats = self.machine.stats();
        let bytes = stats.context_bytes_sent.checked_div(stats.contexts_sent).unwrap_or(0);
        Ok(Moved { vcpu, from: report.from, to: report.to, blackout_us: report.blackout_us.into(), bytes })
    }

    fn vcpus(&self) -> Vec<VcpuStats> {
        let known = |status: VcpuStatus| VcpuStats {
            vcpu: status.vcpu.into(),
            apic_id: status.apic_id,
            node: status.node,
            moves: status.moves,
            last_blackout_us: status.last_blackout_us.into(),
            worst_blackout_us: status.worst_blackout_us.into(),
        };
        self.machine.vcpus().into_iter().map(known).collect()
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        self.machine.console_input(bytes)
    }

    fn devices(&self) -> Vec<DeviceStats> {
        let host = self.spec.host_name(NodeId::HOME);
        let stats = |(place, report): (usize, FunctionReport)| DeviceStats {
            name: report.name,
            slot: place as u8,
            node: NodeId::HOME,
            host: host.clone(),
            // They are on the bus in the order of the description, behind the bridge.
            behind: self.spec.devices.get(place.wrapping_sub(1)).map(DeviceSpec::behind).unwrap_or_default(),
            pages_borrowed: report.traffic.pages_borrowed,
            pages_fetched: report.traffic.pages_fetched,
            remote_accesses: report.traffic.remote_accesses,
        };
        self.machine.device_reports().into_iter().map(stats).collect()
    }

    fn press_power_button(&self) {
        self.machine.press_power_button();
    }

    fn pause(&self) -> Result<(), String> {
        self.machine.pause().map_err(line)
    }

    fn resume(&self) {
        self.machine.resume();
    }

    fn pages_alone(&self) -> u64 {
        match self.spec.nodes() {
            1 => resident_pages(self.memory.resident_bytes()),
            _ => pages_alone(&self.pager.stats()),
        }
    }

    fn pages_only_at(&self, node: NodeId) -> Option<u64> {
        self.pager.pages_only_at(node)
    }

    fn relink(&self, lane: Lane, link: Box<dyn Link>, rejoin: Rejoin) {
        self.pager.relink(lane, link, rejoin);
    }

    fn fill_stats(&self, stats: &mut NodeStats) {
        let pager = self.pager.stats();
        let machine = self.machine.stats();
        let home = self.spec.layout.regions().iter().filter(|region| region.home == self.spec.me);
        stats.memory = MemoryStats {
            home_pages: home.map(|region| region.pages).sum(),
            owned_pages: owned_pages(&pager),
            copied_pages: pager.holdings.readable_pages,
            resident_bytes: self.memory.resident_bytes(),
        };
        if self.spec.nodes() == 1 {
            stats.memory.owned_pages = self.spec.layout.pages();
        }
        stats.faults = faults(&pager);
        stats.stalls = self.stalls(&pager);
        stats.async_faults = AsyncFaultStats {
            faults: pager.kernel_stalls.faults,
            travelled_us: pager.kernel_stalls.waited_us,
        };
        stats.arrivals = arrivals(&pager);
        stats.hottest.clone_from(&pager.hottest);
        stats.traffic = TrafficStats {
            bytes_in: pager.links.bytes_in,
            bytes_out: pager.links.bytes_out,
            messages_in: pager.links.messages_in,
            messages_out: pager.links.messages_out,
            links_resumed: pager.links.resumed,
        };
        stats.moves = MoveStats {
            arrived: machine.arrivals.moves,
            left: machine.contexts_sent,
            blackout_p50_us: machine.arrivals.p50_us,
            blackout_p99_us: machine.arrivals.p99_us,
            blackout_max_us: machine.arrivals.max_us,
            failed: machine.move_errors,
            bytes_sent: machine.context_bytes_sent,
            messages_sent: machine.move_messages_sent,
        };
        stats.interrupts_relayed = machine.interrupts.relayed;
        stats.accesses_forwarded = machine.remote_device_accesses;
    }

    fn halt(&self) {
        self.machine.quit();
    }

    fn close(&self) {
        // vCPUs that wait for a page are released by the pager's end, and then see that they are to quit.
        self.pager.stop();
        self.machine.join();
    }
}

fn owned_pages(stats: &PagerStats) -> u64 {
    stats.holdings.whole_extents * EXTENT_PAGES + stats.holdings.writable_pages
}

fn resident_pages(bytes: u64) -> u64 {
    bytes / PAGE_BYTES as u64
}

/// Pages that are gone with this node: those that it owns, but for those that nobody ever wrote.
fn pages_alone(stats: &PagerStats) -> u64 {
    owned_pages(stats).min(resident_pages(stats.resident_bytes))
}

fn faults(stats: &PagerStats) -> Vec<FaultStats> {
    let kinds = [
        ("local", &stats.faults_local),
        ("read", &stats.faults_read),
        ("write", &stats.faults_write),
        ("upgrade", &stats.faults_upgrade),
    ];
    let figures = kinds.into_iter().map(|(kind, latency)| FaultStats {
        kind: kind.into(),
        latency: Spread {
            count: latency.count,
            mean_us: latency.mean_us,
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            max_us: latency.max_us,
        },
    });
    figures.collect()
}

fn arrivals(stats: &PagerStats) -> Vec<ArrivalStats> {
    let extents = stats.protocol.first_touches_local + stats.protocol.first_touches_remote;
    let touched = Arrived { pages: 0, zero_pages: extents * EXTENT_PAGES };
    let came = &stats.arrivals;
    let kinds = [
        ("read", came.read),
        ("write", came.write),
        ("upgrade", came.upgrade),
        ("ahead", came.ahead),
        ("first_touch", touched),
    ];
    let figures = kinds.into_iter().map(|(kind, arrived)| ArrivalStats {
        kind: kind.into(),
        pages: arrived.pages,
        zero_pages: arrived.zero_pages,
        bytes: arrived.bytes(),
    });
    figures.collect()
}
