//! The VM: local APICs in the kernel, IOAPIC in the VMM, memory slots.

use kvm_bindings::{
    kvm_enable_cap, kvm_msi, kvm_userspace_memory_region, CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API,
    KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_X86_SMM, KVM_CAP_XSAVE2, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
    KVM_X2APIC_API_USE_32BIT_IDS, KVM_X86_DISABLE_EXITS_HLT,
};
use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use tessera_devices::Msi;
use tessera_dsm::memory::NodeMemory;
use tessera_migration::{context, kvm_ext};
use thiserror::Error;
use vmm_sys_util::errno;

use super::private::PrivateMemory;
use crate::boot::entry;

/// Guest-physical address of the three pages that KVM wants on Intel for real mode (KVM API 4.35).
const TSS_ADDRESS: usize = 0xfffb_d000;
/// Guest-physical address of the page that KVM wants on Intel for its identity map (KVM API 4.76).
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// Pins of the IOAPIC, which is the VMM's: KVM must know which vectors' EOIs to report.
const IOAPIC_PINS: u64 = 24;
/// APIC base MSR: address, global enable, x2APIC (SDM 3A 11.12.1).
const APIC_BASE_X2APIC: u64 = 0xfee0_0c00;
/// APIC base MSR: the address alone.
const APIC_OFF: u64 = 0xfee0_0000;
/// APIC base MSR: this is the boot processor.
const APIC_BASE_BSP: u64 = 0x100;
/// x2APIC software enable with spurious vector 255.
const SPURIOUS_ENABLED: u32 = 0x1ff;
/// An APIC id that no vCPU has: no vCPU is the boot processor in KVM's eyes, so that INIT puts each of them
/// into wait-for-SIPI, and a proxy of vCPU 0 is like any other.
const NO_BOOT_CPU: u32 = 0xff;

/// Why KVM could not be set up.
#[derive(Debug, Error)]
pub enum KvmError {
    /// /dev/kvm cannot be used.
    #[error(
        "cannot open /dev/kvm: {0}; load kvm_amd or kvm_intel, and let this user read and write /dev/kvm"
    )]
    Open(errno::Error),
    /// This KVM lacks something.
    #[error("this host's KVM has no {0}; Tessera needs Linux 6.1 or later")]
    Lacks(&'static str),
    /// A call failed.
    #[error("{call} failed: {source}")]
    Call {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: errno::Error,
    },
    /// The vCPU that erases shadows of page tables did something else.
    #[error("erasing the shadow of a page table went wrong: {0}")]
    Eraser(String),
    /// A vCPU's registers could not be set.
    #[error(transparent)]
    Context(#[from] context::ContextError),
}

pub(crate) fn call<T>(name: &'static str, result: Result<T, errno::Error>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError::Call { call: name, source })
}

/// Why private memory could not be added.
#[derive(Debug, Error)]
pub enum PrivateError {
    /// The system has no memory.
    #[error("no memory: {0}")]
    Memory(std::io::Error),
    /// KVM refused the slot.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// One guest's VM on this host.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    xsave_bytes: usize,
    slots: u32,
    // Below `fd`: what the VM maps is dropped after its file.
    private: Vec<Arc<PrivateMemory>>,
    guest: Option<Arc<NodeMemory>>,
}

impl Vm {
    /// A VM without memory and vCPUs.
    ///
    /// # Errors
    /// When /dev/kvm cannot be used or lacks what Tessera needs.
    pub fn new() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        for (cap, name) in [
            (Cap::SplitIrqchip, "split irqchip"),
            (Cap::X2ApicApi, "x2APIC API"),
            (Cap::ImmediateExit, "immediate exit"),
            (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Lacks(name));
            }
        }
        let fd = call("KVM_CREATE_VM", kvm.create_vm())?;
        call("KVM_SET_TSS_ADDR", fd.set_tss_address(TSS_ADDRESS))?;
        call("KVM_SET_IDENTITY_MAP_ADDR", fd.set_identity_map_address(IDENTITY_MAP_ADDRESS))?;
        enable(&fd, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS, "KVM_CAP_SPLIT_IRQCHIP")?;
        let api = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        enable(&fd, KVM_CAP_X2APIC_API, api.into(), "KVM_CAP_X2APIC_API")?;
        if let Err(error) = kvm_ext::set_boot_cpu_id(&fd, NO_BOOT_CPU) {
            tracing::debug!("KVM_SET_BOOT_CPU_ID: {error}; vCPU 0 cannot be restarted by INIT");
        }
        let xsave_bytes =
            usize::try_from(fd.check_extension_raw(KVM_CAP_XSAVE2.into())).unwrap_or(0).max(4096);
        Ok(Vm { kvm, fd, xsave_bytes, slots: 0, private: Vec::new(), guest: None })
    }

    /// Bytes of a vCPU's extended state (KVM API 4.134).
    pub fn xsave_bytes(&self) -> usize {
        self.xsave_bytes
    }

    /// Which MSRs of `vcpu` can be read.
    ///
    /// # Errors
    /// When KVM does not say which there are.
    pub fn msrs(&self, vcpu: &VcpuFd) -> Result<context::MsrSet, KvmError> {
        Ok(context::MsrSet::probe(&self.kvm, vcpu)?)
    }

    /// Gives the guest `bytes` of memory at `gpa`, which stand at `hva` in this process.
    ///
    /// # Safety
    /// The mapping must live and keep its place as long as the VM.
    ///
    /// # Errors
    /// When KVM refuses the slot.
    pub unsafe fn add_memory(&mut self, gpa: u64, bytes: u64, hva: u64) -> Result<(), KvmError> {
        // SAFETY: the caller's promise.
        unsafe { self.add_slot(0, gpa, bytes, hva) }
    }

    /// As [`Vm::add_memory`], in one of KVM's address spaces.
    ///
    /// # Safety
    /// As there.
    unsafe fn add_slot(&mut self, space: u32, gpa: u64, bytes: u64, hva: u64) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            // Bits 16 to 31 of the slot name the address space.
            slot: self.slots | space << 16,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: bytes,
            userspace_addr: hva,
        };
        // SAFETY: the caller's promise.
        call("KVM_SET_USER_MEMORY_REGION", unsafe { self.fd.set_user_memory_region(region) })?;
        self.slots += 1;
        Ok(())
    }

    /// Holds on to the guest's memory for as long as the VM lives.
    pub fn keep(&mut self, memory: Arc<NodeMemory>) {
        self.guest = Some(memory);
    }

    /// Gives the guest `bytes` of memory at `gpa` that only this node has, written once by `fill`.
    ///
    /// # Errors
    /// When there is no memory or KVM refuses the slot.
    pub fn add_private(
        &mut self,
        gpa: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), PrivateError> {
        self.add_private_in(0, gpa, bytes, fill).map(drop)
    }

    /// As [`Vm::add_private`], in one of KVM's address spaces.
    ///
    /// # Errors
    /// As there.
    pub(super) fn add_private_in(
        &mut self,
        space: u32,
        gpa: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Arc<PrivateMemory>, PrivateError> {
        let memory = Arc::new(PrivateMemory::new(bytes, fill).map_err(PrivateError::Memory)?);
        // SAFETY: `self.private` keeps the mapping until after the VM's file is closed.
        unsafe { self.add_slot(space, gpa, bytes as u64, memory.hva()) }?;
        self.private.push(Arc::clone(&memory));
        Ok(memory)
    }

    /// Whether KVM has a second address space, for system management mode.
    pub fn has_second_address_space(&self) -> bool {
        self.kvm.check_extension_raw(KVM_CAP_X86_SMM.into()) > 0
    }

    /// Makes a vCPU of our own, which is not one of the guest's: its local APIC stays switched off, so that no
    /// interrupt of the guest reaches it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn create_helper(&self, id: u32, cpuid: &CpuId) -> Result<VcpuFd, KvmError> {
        let vcpu = call("KVM_CREATE_VCPU", self.fd.create_vcpu(id.into()))?;
        call("KVM_SET_CPUID2", vcpu.set_cpuid2(cpuid))?;
        call("KVM_SET_MSRS", entry::set_initial_msrs(&vcpu))?;
        let mut sregs = call("KVM_GET_SREGS", vcpu.get_sregs())?;
        sregs.apic_base = APIC_OFF;
        call("KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
        Ok(vcpu)
    }

    /// Makes a vCPU: x2APIC on from the start, its APIC enabled so that a proxy takes interrupts, waiting for
    /// INIT. KVM delivers nothing to an APIC that was never set, hence the write of it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, apic_id: u32, cpuid: &CpuId) -> Result<VcpuFd, KvmError> {
        let vcpu = call("KVM_CREATE_VCPU", self.fd.create_vcpu(apic_id.into()))?;
        call("KVM_SET_CPUID2", vcpu.set_cpuid2(cpuid))?;
        call("KVM_SET_MSRS", entry::set_initial_msrs(&vcpu))?;
        let mut sregs = call("KVM_GET_SREGS", vcpu.get_sregs())?;
        sregs.apic_base = APIC_BASE_X2APIC | if apic_id == 0 { APIC_BASE_BSP } else { 0 };
        call("KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
        let mut lapic = call("KVM_GET_LAPIC", vcpu.get_lapic())?;
        let spurious = &mut lapic.regs[0xf0..0xf4];
        for (byte, value) in spurious.iter_mut().zip(SPURIOUS_ENABLED.to_le_bytes()) {
            *byte = value as _;
        }
        call("KVM_SET_LAPIC", vcpu.set_lapic(&lapic))?;
        Ok(vcpu)
    }

    /// Keeps KVM from handing page faults of vCPUs to its own threads: now, before any vCPU is made, where the kernel would
    /// refuse it later. Says whether it is settled; if not, [`Vm::forbid_async_faults`] is to be called when all are made.
    ///
    /// Where a guest can take an interrupt KVM halts the vCPU and has a kernel thread touch the page for it, always for
    /// *writing* (`async_pf_execute`): of a page that is only read another node would lose its copy. KVM leaves that if HLT
    /// does not exit, since it could not halt the vCPU (`kvm_can_do_async_pf`). (A guest that was offered asynchronous faults
    /// and takes them still gets those of its user mode: there KVM need not halt it.) The price of asking now is that HLT really
    /// does not exit: a vCPU that idles keeps its processor, asleep, until another thread wants it. (KVMs that emulate
    /// ring 0 take HLT as before.)
    pub fn forbid_async_faults_early(&self) -> bool {
        !takes_capabilities_late(&self.kvm) && self.forbid_async_faults()
    }

    /// Keeps KVM from handing page faults of vCPUs to its own threads, once all vCPUs are made. Says whether it is kept.
    ///
    /// See [`Vm::forbid_async_faults_early`]. Asked for now that the vCPUs exist, the capability (KVM API 7.13) has this
    /// effect and no other: what of a vCPU exits was settled when it was made. Later kernels refuse it then (seen in
    /// 6.18; 6.1 and 6.12 do not).
    pub fn forbid_async_faults(&self) -> bool {
        let hlt = KVM_X86_DISABLE_EXITS_HLT.into();
        match enable(&self.fd, KVM_CAP_X86_DISABLE_EXITS, hlt, "KVM_CAP_X86_DISABLE_EXITS") {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(
                    "{error}: pages that vCPUs only read may be fetched for writing, which is slower"
                );
                false
            }
        }
    }

    /// Sends an interrupt message on this host; says whether some local APIC took it.
    ///
    /// # Errors
    /// When KVM refuses the call itself.
    pub fn signal_msi(&self, msi: Msi) -> Result<bool, KvmError> {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        Ok(call("KVM_SIGNAL_MSI", self.fd.signal_msi(message))? > 0)
    }
}

/// Whether KVM lets exits be switched off when there are vCPUs already; tried on a VM of its own.
fn takes_capabilities_late(kvm: &Kvm) -> bool {
    let Ok(scratch) = kvm.create_vm() else { return false };
    let Ok(_vcpu) = scratch.create_vcpu(0) else { return false };
    let hlt = KVM_X86_DISABLE_EXITS_HLT.into();
    enable(&scratch, KVM_CAP_X86_DISABLE_EXITS, hlt, "KVM_CAP_X86_DISABLE_EXITS").is_ok()
}

fn enable(fd: &VmFd, cap: u32, arg: u64, name: &'static str) -> Result<(), KvmError> {
    let mut request = kvm_enable_cap { cap, ..Default::default() };
    request.args[0] = arg;
    call(name, fd.enable_cap(&request))
}
