//! Building a machine at rest.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use kvm_bindings::KVM_MP_STATE_RUNNABLE;
use tessera_devices::ram::NodeRam;
use tessera_devices::{GuestEnd, MsiSink, Platform, PlatformEvents};
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::pager::TableCache;
use tessera_dsm::NodeId;
use tessera_migration::{kvm_ext, VcpuId};
use thiserror::Error;

use super::devices::{DeviceError, HomeDevices};
use super::interrupts::Interrupts;
use super::message::{MachineEvents, PeerSink};
use super::places::Places;
use super::remote_io::RemoteIo;
use super::shared::Shared;
use super::spec::MachineSpec;
use super::stats::BlackoutLog;
use super::{lock, Machine};
use crate::boot::entry::{self, Entry};
use crate::cpuid::{self, CpuidError, VcpuTopology};
use crate::host;
use crate::kvm::{KickError, Kicker, KvmError, PrivateError, ShadowEraser, Vm};
use crate::vcpu::{stub, Mailbox, VcpuCore, VcpuError};

/// Set for a daemon by the test that shows what goes wrong without the eraser. Nobody else has a use for it.
const WITHOUT_ERASER: &str = "TESSERA_TEST_WITHOUT_ERASER";

/// Why a machine could not be built or started.
#[derive(Debug, Error)]
pub enum MachineError {
    /// KVM would not.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU could not be set up.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// No CPUID can be made.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// Kicks do not work.
    #[error(transparent)]
    Kick(#[from] KickError),
    /// Memory of the node's own could not be had.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// More vCPUs than a node can stand in for.
    #[error("a guest has 1 to {max} vCPUs, not {0}", max = stub::VCPUS_MAX)]
    Vcpus(usize),
    /// A device could not be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A thread could not be made.
    #[error("{vcpu}: no thread: {source}")]
    Thread {
        /// Whose.
        vcpu: VcpuId,
        /// Why.
        source: std::io::Error,
    },
}

/// The home node's devices speak to the machine's listener.
struct DeviceEvents(Arc<dyn MachineEvents>);

impl PlatformEvents for DeviceEvents {
    fn console(&self, bytes: &[u8]) {
        self.0.console(bytes);
    }

    fn guest_end(&self, end: GuestEnd) {
        self.0.guest_end(end);
    }
}

impl Machine {
    /// Builds a machine at rest, whose home node has no devices but the platform's own.
    ///
    /// # Errors
    /// When KVM or the system refuses something.
    pub fn new(
        spec: MachineSpec,
        memory: &Arc<NodeMemory>,
        peers: Arc<dyn PeerSink>,
        events: Arc<dyn MachineEvents>,
    ) -> Result<Arc<Machine>, MachineError> {
        let none = HomeDevices::open(&[], Arc::new(NodeRam::new(memory)))?;
        Machine::with_devices(spec, memory, peers, events, none)
    }

    /// Builds a machine at rest: its memory, every vCPU of the guest, and on the home node the devices; on the others
    /// `devices` are dropped.
    ///
    /// # Errors
    /// When KVM or the system refuses something.
    pub fn with_devices(
        spec: MachineSpec,
        memory: &Arc<NodeMemory>,
        peers: Arc<dyn PeerSink>,
        events: Arc<dyn MachineEvents>,
        devices: HomeDevices,
    ) -> Result<Arc<Machine>, MachineError> {
        let count = spec.vcpus.len();
        if count == 0 || count > stub::VCPUS_MAX {
            return Err(MachineError::Vcpus(count));
        }
        let mut vm = build_vm(memory)?;
        let several = spec.nodes > 1;
        let forbidden = several && vm.forbid_async_faults_early();
        let cores = build_vcpus(&spec, &vm)?;
        let eraser = build_eraser(&spec, &mut vm)?;
        if several && !forbidden {
            vm.forbid_async_faults();
        }
        let tables = eraser.map(|eraser| Box::new(eraser) as Box<dyn TableCache>);
        let vm = Arc::new(vm);
        let places = Arc::new(Places::new(spec.vcpus.iter().map(|vcpu| vcpu.node)));
        let interrupts = Arc::new(interrupts(&spec, vm, &places, &peers));
        let platform = match spec.me {
            NodeId::HOME => {
                let sink = Arc::clone(&interrupts) as Arc<dyn MsiSink>;
                let heard: Arc<dyn PlatformEvents> = Arc::new(DeviceEvents(Arc::clone(&events)));
                let platform = Platform::new(sink.clone(), heard.clone());
                Some(devices.install(platform, &spec.layout, &sink, &heard)?)
            }
            _ => None,
        };
        let mailboxes = (0..count)
            .map(|_| Ok(Arc::new(Mailbox::new(Kicker::new()?))))
            .collect::<Result<_, MachineError>>()?;
        let shared = Arc::new(Shared {
            me: spec.me,
            nodes: spec.nodes,
            layout: spec.layout,
            tsc_khz: spec.tsc_khz,
            tsc_offset_ticks: spec.tsc_offset_ticks,
            places,
            interrupts,
            mailboxes,
            remote: RemoteIo::new(count),
            platform,
            peers,
            events,
            blackouts: Mutex::new(BlackoutLog::new(count)),
            move_errors: AtomicU64::new(0),
            remote_accesses: AtomicU64::new(0),
            context_bytes_sent: AtomicU64::new(0),
            move_messages_sent: AtomicU64::new(0),
            contexts_sent: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
        });
        Ok(Arc::new(Machine {
            shared,
            resting: Mutex::new(cores),
            threads: Mutex::default(),
            quitting: AtomicBool::new(false),
            tables: Mutex::new(tables),
        }))
    }

    /// What the pager must tell when a page leaves this node, where KVM shadows page tables; once.
    pub fn take_table_cache(&self) -> Option<Box<dyn TableCache>> {
        lock(&self.tables).take()
    }

    /// Sets the vCPU that starts the guest to its entry point. On its node, before [`Machine::start`].
    ///
    /// # Errors
    /// When KVM refuses the registers.
    pub fn set_entry(&self, entry: &Entry) -> Result<(), MachineError> {
        for core in lock(&self.resting).iter().filter(|core| core.id == VcpuId::BOOT) {
            let sregs = entry::initial_sregs(core.sregs()?, entry);
            core.set_registers(&sregs, &entry::initial_regs(entry))?;
            core.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
        }
        Ok(())
    }
}

/// The way of interrupts, before the first.
fn interrupts(
    spec: &MachineSpec,
    vm: Arc<Vm>,
    places: &Arc<Places>,
    peers: &Arc<dyn PeerSink>,
) -> Interrupts {
    Interrupts {
        vm,
        me: spec.me,
        apic_ids: spec.vcpus.iter().map(|vcpu| vcpu.apic_id).collect(),
        places: Arc::clone(places),
        peers: Arc::clone(peers),
        relayed: AtomicU64::new(0),
        received: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    }
}

fn build_vm(memory: &Arc<NodeMemory>) -> Result<Vm, MachineError> {
    let mut vm = Vm::new()?;
    for slot in memory.slots() {
        let bytes = slot.pages * tessera_dsm::PAGE_BYTES as u64;
        // SAFETY: the VM keeps the memory (`keep`), whose mappings never move.
        unsafe { vm.add_memory(slot.start.gpa(), bytes, slot.hva) }?;
    }
    vm.keep(Arc::clone(memory));
    vm.add_private(stub::STUB_GPA, stub::STUB_BYTES, stub::write)?;
    Ok(vm)
}

/// Who makes KVM forget page tables that it has shadowed: needed where it shadows them and other nodes write them too.
fn build_eraser(spec: &MachineSpec, vm: &mut Vm) -> Result<Option<ShadowEraser>, MachineError> {
    if spec.nodes < 2 || !host::shadows_page_tables() {
        return Ok(None);
    }
    if std::env::var_os(WITHOUT_ERASER).is_some() {
        tracing::warn!(
            "{WITHOUT_ERASER} is set: a guest that changes page tables on several hosts goes wrong"
        );
        return Ok(None);
    }
    if !vm.has_second_address_space() {
        tracing::warn!("this KVM cannot be made to forget page tables: a guest that changes them on several hosts goes wrong");
        return Ok(None);
    }
    let places: Vec<(u32, NodeId)> = spec.vcpus.iter().map(|vcpu| (vcpu.apic_id, vcpu.node)).collect();
    let cpuid = cpuid::for_vcpu(&spec.cpuid, &VcpuTopology::new(places[0].0, &places, spec.tsc_khz))?;
    Ok(Some(ShadowEraser::new(vm, &spec.layout, &cpuid)?))
}

fn build_vcpus(spec: &MachineSpec, vm: &Vm) -> Result<Vec<VcpuCore>, MachineError> {
    let places: Vec<(u32, NodeId)> = spec.vcpus.iter().map(|vcpu| (vcpu.apic_id, vcpu.node)).collect();
    let mut cores: Vec<VcpuCore> = Vec::with_capacity(places.len());
    for (index, &(apic_id, _)) in places.iter().enumerate() {
        let id = VcpuId(index as u16);
        let topology = VcpuTopology::new(apic_id, &places, spec.tsc_khz);
        let fd = vm.create_vcpu(apic_id, &cpuid::for_vcpu(&spec.cpuid, &topology)?)?;
        let offset = spec.tsc_offset_ticks as u64;
        kvm_ext::set_tsc_offset(&fd, offset)
            .map_err(|source| KvmError::Call { call: "KVM_VCPU_TSC_OFFSET", source })?;
        // The set depends on the CPUID, which is the same for all.
        let msrs = match cores.first() {
            Some(first) => Arc::clone(&first.msrs),
            None => Arc::new(vm.msrs(&fd)?),
        };
        let (xsave_bytes, crowded) = (vm.xsave_bytes(), host::priority::crowded(places.len()));
        cores.push(VcpuCore { id, fd, msrs, xsave_bytes, tsc_offset_ticks: offset, crowded });
    }
    Ok(cores)
}
