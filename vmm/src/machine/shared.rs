//! What all threads of a machine share, and how each vCPU sees it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tessera_abi::mmio;
use tessera_devices::{GuestEnd, Platform};
use tessera_dsm::{Gfn, Layout, NodeId};
use tessera_migration::handover::{Epoch, MoveMessage};
use tessera_migration::VcpuId;

use super::interrupts::Interrupts;
use super::lock;
use super::message::{MachineEvents, PeerMessage, PeerSink, DEVICE_BYTES_MAX};
use super::places::Places;
use super::remote_io::RemoteIo;
use super::stats::{BlackoutLog, MachineStats, VcpuStatus};
use crate::boot::pci_window;
use crate::kvm::host_tsc;
use crate::vcpu::{DeviceAccess, Interrupt, Mail, Mailbox, Surroundings, VcpuMove};

/// What all threads of a machine share.
pub struct Shared {
    pub(super) me: NodeId,
    pub(super) nodes: u8,
    pub(super) layout: Layout,
    pub(super) tsc_khz: u32,
    pub(super) tsc_offset_ticks: i64,
    pub(super) places: Arc<Places>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    pub(super) remote: RemoteIo,
    /// The devices, on the home node.
    pub(super) platform: Option<Platform>,
    pub(super) peers: Arc<dyn PeerSink>,
    pub(super) events: Arc<dyn MachineEvents>,
    pub(super) blackouts: Mutex<BlackoutLog>,
    pub(super) move_errors: AtomicU64,
    pub(super) remote_accesses: AtomicU64,
    pub(super) context_bytes_sent: AtomicU64,
    pub(super) contexts_sent: AtomicU64,
    pub(super) move_messages_sent: AtomicU64,
    /// The guest is to stand still.
    pub(super) paused: AtomicBool,
    /// The machine is being taken down: what its parts say no longer counts.
    pub(super) quiet: AtomicBool,
}

impl Shared {
    pub(super) fn mailbox(&self, vcpu: VcpuId) -> &Arc<Mailbox> {
        &self.mailboxes[vcpu.index()]
    }

    pub(super) fn quiet(&self) {
        self.quiet.store(true, Ordering::SeqCst);
    }

    /// Takes a peer's message.
    pub(super) fn deliver(&self, from: NodeId, message: PeerMessage) {
        let known = |vcpu: VcpuId| vcpu.index() < self.mailboxes.len();
        match message {
            PeerMessage::Interrupt(vcpu, interrupt) if known(vcpu) => {
                self.interrupts.receive(vcpu, interrupt);
            }
            PeerMessage::DeviceRead { vcpu, token, at, len } => {
                let mut data = vec![0xff; usize::from(len).min(DEVICE_BYTES_MAX)];
                self.count_remote(at, data.len());
                self.home_read(at, &mut data);
                self.reply(from, PeerMessage::DeviceAnswer { vcpu, token, data });
            }
            PeerMessage::DeviceWrite { vcpu, token, at, data } => {
                self.count_remote(at, data.len());
                self.home_write(at, &data);
                self.reply(from, PeerMessage::DeviceAnswer { vcpu, token, data: Vec::new() });
            }
            PeerMessage::DevicePost { at, data } => {
                self.count_remote(at, data.len());
                self.home_write(at, &data);
            }
            PeerMessage::DeviceAnswer { vcpu, token, data } => self.remote.answer(vcpu.index(), token, data),
            PeerMessage::EndOfInterrupt(vector) => self.end_of_interrupt(vector),
            PeerMessage::Move(vcpu, message) if known(vcpu) => {
                if !self.mailbox(vcpu).post(Mail::Peer(from, message)) {
                    tracing::warn!(%vcpu, %from, "too many letters about moves: one was dropped");
                }
            }
            PeerMessage::Placed(vcpu, node, epoch) if known(vcpu) && node.0 < self.nodes => {
                if self.places.set(vcpu, node, epoch) {
                    self.mailbox(vcpu).post(Mail::Learn(epoch));
                    self.events.placed(vcpu, node);
                }
            }
            PeerMessage::GuestEnd(end) => self.guest_end(end),
            other => {
                tracing::warn!(%from, ?other, "a peer named a vCPU or node that the guest does not have");
            }
        }
    }

    pub(super) fn vcpu_statuses(&self) -> Vec<VcpuStatus> {
        let log = lock(&self.blackouts);
        let status = |index: usize| {
            let place = self.places.get(VcpuId(index as u16));
            VcpuStatus {
                vcpu: index as u16,
                apic_id: self.interrupts.apic_ids[index],
                node: place.node,
                moves: place.epoch.0,
                last_blackout_us: log.last_us[index],
                worst_blackout_us: log.worst_us[index],
            }
        };
        (0..self.places.len()).map(status).collect()
    }

    pub(super) fn stats(&self) -> MachineStats {
        MachineStats {
            arrivals: lock(&self.blackouts).figures(),
            move_errors: self.move_errors.load(Ordering::Relaxed),
            interrupts: self.interrupts.stats(),
            remote_device_accesses: self.remote_accesses.load(Ordering::Relaxed),
            context_bytes_sent: self.context_bytes_sent.load(Ordering::Relaxed),
            contexts_sent: self.contexts_sent.load(Ordering::Relaxed),
            move_messages_sent: self.move_messages_sent.load(Ordering::Relaxed),
        }
    }

    fn reply(&self, to: NodeId, message: PeerMessage) {
        if self.peers.send(to, message).is_err() {
            tracing::debug!(%to, "not sent: the peer is lost");
        }
    }

    fn home_read(&self, at: DeviceAccess, data: &mut [u8]) {
        match (&self.platform, at) {
            (Some(platform), DeviceAccess::Port(port)) => platform.pio_read(port, data),
            (Some(platform), DeviceAccess::Memory(gpa)) => platform.mmio_read(gpa, data),
            (None, _) => data.fill(0xff),
        }
    }

    fn home_write(&self, at: DeviceAccess, data: &[u8]) {
        match (&self.platform, at) {
            (Some(platform), DeviceAccess::Port(port)) => platform.pio_write(port, data),
            (Some(platform), DeviceAccess::Memory(gpa)) => platform.mmio_write(gpa, data),
            (None, _) => {}
        }
    }

    /// An access came from another node.
    fn count_remote(&self, at: DeviceAccess, bytes: usize) {
        if let (Some(platform), DeviceAccess::Memory(gpa)) = (&self.platform, at) {
            platform.remote_access(gpa, bytes);
        }
    }

    /// Whether a write is one that nobody waits for: to the memory of a PCI device, such as a kick.
    fn is_posted(&self, at: DeviceAccess) -> bool {
        let DeviceAccess::Memory(gpa) = at else { return false };
        (mmio::PCI_LOW..mmio::PCI_LOW_END).contains(&gpa) || pci_window(&self.layout).contains(&gpa)
    }

    /// Asks the home node and waits. The vCPU's thread may do so: the pager and the control connections go on.
    fn ask_home(&self, vcpu: VcpuId, question: impl FnOnce(u32) -> PeerMessage) -> Option<Vec<u8>> {
        self.remote_accesses.fetch_add(1, Ordering::Relaxed);
        let token = self.remote.open(vcpu.index());
        self.peers.send(NodeId::HOME, question(token)).ok()?;
        self.remote.wait(vcpu.index())
    }
}

impl Surroundings for Shared {
    fn device_read(&self, vcpu: VcpuId, at: DeviceAccess, data: &mut [u8]) {
        if self.platform.is_some() {
            return self.home_read(at, data);
        }
        let len = data.len().min(DEVICE_BYTES_MAX) as u16;
        data.fill(0xff);
        let answer = self.ask_home(vcpu, |token| PeerMessage::DeviceRead { vcpu, token, at, len });
        for (byte, got) in data.iter_mut().zip(answer.unwrap_or_default()) {
            *byte = got;
        }
    }

    fn device_write(&self, vcpu: VcpuId, at: DeviceAccess, data: &[u8]) {
        if self.platform.is_some() {
            return self.home_write(at, data);
        }
        let data = data.to_vec();
        if self.is_posted(at) && self.remote.may_post(vcpu.index()) {
            self.remote_accesses.fetch_add(1, Ordering::Relaxed);
            return self.reply(NodeId::HOME, PeerMessage::DevicePost { at, data });
        }
        self.ask_home(vcpu, |token| PeerMessage::DeviceWrite { vcpu, token, at, data });
    }

    fn end_of_interrupt(&self, vector: u8) {
        match &self.platform {
            Some(platform) => platform.ioapic_eoi(vector),
            None => self.reply(NodeId::HOME, PeerMessage::EndOfInterrupt(vector)),
        }
    }

    fn is_ram(&self, gpa: u64) -> bool {
        self.layout.home(Gfn::containing(gpa)).is_some()
    }

    fn relay(&self, vcpu: VcpuId, interrupt: Interrupt) {
        self.interrupts.relay(vcpu, interrupt);
    }

    fn inject_here(&self, vcpu: VcpuId, interrupt: Interrupt) {
        self.interrupts.inject_here(vcpu, interrupt);
    }

    fn send_move(&self, to: NodeId, vcpu: VcpuId, message: VcpuMove) -> bool {
        if let MoveMessage::Commit(_, transit) = &message {
            let bytes = postcard::experimental::serialized_size(&**transit).unwrap_or(0);
            self.context_bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
            self.contexts_sent.fetch_add(1, Ordering::Relaxed);
        }
        self.move_messages_sent.fetch_add(1, Ordering::Relaxed);
        self.peers.send(to, PeerMessage::Move(vcpu, message)).is_ok()
    }

    fn this_node(&self) -> NodeId {
        self.me
    }

    fn departing(&self, vcpu: VcpuId, to: NodeId) {
        // What it does there must not overtake what it has posted here. The way to the home node is the same for both.
        if to != NodeId::HOME && self.platform.is_none() && self.remote.has_posted(vcpu.index()) {
            let nothing = DeviceAccess::Memory(0);
            self.ask_home(vcpu, |token| PeerMessage::DeviceRead { vcpu, token, at: nothing, len: 0 });
        }
        let stay = self.places.get(vcpu).epoch.next();
        self.places.set(vcpu, to, stay);
    }

    fn settled(&self, vcpu: VcpuId, epoch: Epoch) {
        self.places.set(vcpu, self.me, epoch);
    }

    fn placed(&self, vcpu: VcpuId, node: NodeId, epoch: Epoch) {
        self.places.set(vcpu, node, epoch);
        self.events.placed(vcpu, node);
        for peer in (0..self.nodes).map(NodeId).filter(|&peer| peer != self.me && peer != node) {
            self.move_messages_sent.fetch_add(1, Ordering::Relaxed);
            self.reply(peer, PeerMessage::Placed(vcpu, node, epoch));
        }
    }

    fn arrived(&self, vcpu: VcpuId, blackout_us: u32) {
        lock(&self.blackouts).record(vcpu.index(), blackout_us);
    }

    fn guest_tsc(&self) -> u64 {
        host_tsc().wrapping_add_signed(self.tsc_offset_ticks)
    }

    fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    fn paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    fn guest_end(&self, end: GuestEnd) {
        if self.quiet.load(Ordering::SeqCst) {
            return;
        }
        if self.me == NodeId::HOME {
            self.events.guest_end(end);
        } else {
            self.reply(NodeId::HOME, PeerMessage::GuestEnd(end));
        }
    }

    fn failed(&self, why: String) {
        if !self.quiet.load(Ordering::SeqCst) {
            self.events.failed(why);
        }
    }
}
