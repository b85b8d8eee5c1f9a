//! Making a KVM that shadows page tables forget one guest page table.
//!
//! A shadow is dropped when KVM *emulates* a write to the page that it was made from; KVM looks the shadow up by frame
//! number, whatever memory stands behind it. So the eraser is one more vCPU that never runs the guest: it lives in KVM's
//! second address space (the one for system management mode, KVM API 4.35 and KVM_CAP_MULTI_ADDRESS_SPACE), where
//! private memory stands at the guest's frame numbers. There it executes one `insb`, which KVM always emulates,
//! to an odd byte of the frame: a write too small for a table entry, upon which KVM drops the whole shadow
//! (`detect_write_misaligned` in arch/x86/kvm/mmu/mmu.c, as in 6.1, 6.12 and 6.18). No guest memory is read or written, and
//! nothing waits.

use std::sync::Arc;

use kvm_bindings::{
    kvm_mp_state, kvm_regs, kvm_segment, CpuId, KVM_MP_STATE_RUNNABLE, KVM_VCPUEVENT_VALID_SMM,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use tessera_dsm::pager::TableCache;
use tessera_dsm::{Gfn, Layout};

use super::private::PrivateMemory;
use super::vm::{call, KvmError, PrivateError, Vm};

/// The eraser's vCPU id: no vCPU of the guest has it, and its local APIC stays switched off.
pub(super) const ERASER_ID: u32 = 0xfe;
/// KVM's address space for system management mode.
const SMM_SPACE: u32 = 1;

/// The eraser's own code and tables, in its address space only.
const BASE: u64 = 0xfef0_0000;
const BYTES: usize = 0x10000;
const PML4: u64 = BASE;
const PDPT: u64 = BASE + 0x1000;
const PD: u64 = BASE + 0x2000;
const WINDOW_PD: u64 = BASE + 0x3000;
const CODE: u64 = BASE + 0x4000;

/// Where the 2 MiB with the page are mapped for the eraser.
const WINDOW: u64 = 1 << 30;
const WINDOW_BYTES: u64 = 2 << 20;
/// The byte that is written: not the first of an entry.
const ODD: u64 = 1;

const TABLE: u64 = 0x23;
const LARGE_PAGE: u64 = 0xe3;
/// `insb; jmp` back.
const INSB: [u8; 3] = [0x6c, 0xeb, 0xfd];

/// After so many writes the scratch pages behind the frames are given back.
const SCRATCH_PAGES_MAX: u32 = 1024;

/// A vCPU that erases shadows of page tables.
pub struct ShadowEraser {
    // The vCPU first: dropped before the memory behind its address space.
    vcpu: VcpuFd,
    own: Arc<PrivateMemory>,
    scratch: Vec<Arc<PrivateMemory>>,
    used_pages: u32,
}

impl ShadowEraser {
    /// An eraser for a guest with this memory. The VM keeps the memory that it uses.
    ///
    /// # Errors
    /// When KVM has no second address space, or refuses something.
    pub fn new(vm: &mut Vm, layout: &Layout, cpuid: &CpuId) -> Result<Self, PrivateError> {
        let mut scratch = Vec::new();
        for region in layout.regions() {
            let bytes = (region.pages * tessera_dsm::PAGE_BYTES as u64) as usize;
            scratch.push(vm.add_private_in(SMM_SPACE, region.start.gpa(), bytes, |_| {})?);
        }
        let own = vm.add_private_in(SMM_SPACE, BASE, BYTES, write_tables)?;
        let vcpu = vm.create_helper(ERASER_ID, cpuid)?;
        enter(&vcpu)?;
        Ok(ShadowEraser { vcpu, own, scratch, used_pages: 0 })
    }

    fn erase(&mut self, gfn: Gfn) -> Result<(), KvmError> {
        let gpa = gfn.gpa();
        let entry = (gpa & !(WINDOW_BYTES - 1)) | LARGE_PAGE;
        self.own.write((WINDOW_PD - BASE) as usize, &entry.to_le_bytes());
        let target = WINDOW + (gpa & (WINDOW_BYTES - 1)) + ODD;
        let regs = kvm_regs { rip: CODE, rdi: target, rflags: 2, ..Default::default() };
        call("KVM_SET_REGS", self.vcpu.set_regs(&regs))?;
        self.vcpu.set_kvm_immediate_exit(0);
        match self.vcpu.run() {
            // KVM asks for the byte...
            Ok(VcpuExit::IoIn(_, data)) => data.fill(0),
            other => return Err(unexpected(format!("{other:?}"))),
        }
        // ... and writes it, without going on.
        self.vcpu.set_kvm_immediate_exit(1);
        match self.vcpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            other => Err(unexpected(format!("{other:?}"))),
        }
    }

    fn tidy(&mut self) {
        self.used_pages += 1;
        if self.used_pages >= SCRATCH_PAGES_MAX {
            self.scratch.iter().for_each(|memory| memory.give_back());
            self.used_pages = 0;
        }
    }
}

impl TableCache for ShadowEraser {
    fn forget(&mut self, gfn: Gfn) -> Result<(), String> {
        self.erase(gfn).map_err(|error| error.to_string())?;
        self.tidy();
        Ok(())
    }
}

fn unexpected(what: String) -> KvmError {
    KvmError::Eraser(what)
}

/// Writes the eraser's tables and code; the window's entry comes with each use.
fn write_tables(memory: &mut [u8]) {
    let mut put = |gpa: u64, bytes: &[u8]| {
        let at = (gpa - BASE) as usize;
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(PML4, &(PDPT | TABLE).to_le_bytes());
    put(PDPT + 8 * (WINDOW >> 30), &(WINDOW_PD | TABLE).to_le_bytes());
    put(PDPT + 8 * (BASE >> 30), &(PD | TABLE).to_le_bytes());
    put(PD + 8 * ((BASE >> 21) & 511), &((BASE & !(WINDOW_BYTES - 1)) | LARGE_PAGE).to_le_bytes());
    put(CODE, &INSB);
}

/// Puts the vCPU into long mode and into system management mode's address space.
fn enter(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut sregs = call("KVM_GET_SREGS", vcpu.get_sregs())?;
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: 8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 16, type_: 3, l: 0, db: 1, ..code };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: 24, type_: 11, present: 1, ..Default::default() };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, PML4, 0x620, 0x500);
    let mut events = call("KVM_GET_VCPU_EVENTS", vcpu.get_vcpu_events())?;
    events.flags = KVM_VCPUEVENT_VALID_SMM;
    events.smi.smm = 1;
    events.smi.pending = 0;
    call("KVM_SET_VCPU_EVENTS", vcpu.set_vcpu_events(&events))?;
    call("KVM_SET_SREGS", vcpu.set_sregs(&sregs))?;
    call("KVM_SET_MP_STATE", vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE }))
}
