//! The state of a vCPU at its first instruction.
//!
//! The boot vCPU starts in 64-bit mode as the boot protocol asks for: flat segments with selectors 0x10 and
//! 0x18, paging with the first 4 GiB mapped one to one, interrupts off, RSI pointing to the zero page. The other
//! vCPUs wait for INIT and SIPI. All have their local APIC in x2APIC mode from the start: x2APIC ids are vCPU
//! ids and need no memory-mapped page.

use kvm_bindings::{kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, Msrs};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use tessera_abi::boot as at;
use tessera_abi::port;
use vmm_sys_util::errno;

use super::place::GuestWriter;
use super::BootError;

/// Selectors that the boot protocol asks for, and the one behind them.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS at entry: interrupts off; bit 1 is always set.
const RFLAGS: u64 = 1 << 1;

/// IA32_APIC_BASE (SDM volume 3, 11.12.1).
const APIC_BASE_BSP: u64 = 1 << 8;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
const TABLE_ENTRIES: u64 = 512;
const TABLE_BYTES: u64 = 4096;
const LARGE_PAGE_BYTES: u64 = 2 << 20;
const DIRECTORY_SPAN: u64 = TABLE_ENTRIES * LARGE_PAGE_BYTES;

/// IA32_MISC_ENABLE, bit 0: fast string operations.
const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
/// IA32_MTRR_DEF_TYPE: MTRRs on, write-back everywhere. Off, as after a reset, would mean uncached memory, and
/// Linux then also leaves its PAT alone.
const MTRR_DEF_TYPE: (u32, u64) = (0x2ff, 1 << 11 | 6);

/// Real-mode code for the reset vector: `mov al, 0xfe; out 0x64, al; hlt; jmp .-1`. A kernel whose other ways to
/// reset have failed goes into real mode and jumps there; without firmware it would run through zeros for ever.
pub(super) const RESET_CODE: [u8; 7] =
    [0xb0, port::I8042_RESET, 0xe6, port::I8042_COMMAND as u8, 0xf4, 0xeb, 0xfd];

/// How the boot vCPU starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The first instruction.
    pub rip: u64,
    /// The zero page, for RSI.
    pub zero_page: u64,
    /// The top of an empty stack: Linux brings its own, a payload need not.
    pub stack: u64,
    /// The top page table.
    pub cr3: u64,
    /// The descriptor table.
    pub gdt: u64,
}

/// The boot GDT: null, unused, flat 64-bit code, flat data, a busy 64-bit task state segment (two slots).
const GDT: [u64; 6] =
    [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0x0000_0000_0000_0000];

/// Writes the descriptor table and the page tables that the entry at `rip` needs.
pub(super) fn write(guest: &mut GuestWriter<'_>, rip: u64) -> Result<Entry, BootError> {
    guest.write("boot GDT", at::GDT, &bytes_of(GDT))?;
    let pointers_at = at::PAGE_TABLES + TABLE_BYTES;
    let directories_at = pointers_at + TABLE_BYTES;
    let directories = at::IDENTITY_MAPPED.div_ceil(DIRECTORY_SPAN);
    let pointer = |directory| (directories_at + directory * TABLE_BYTES) | PRESENT_WRITABLE;
    let pages = at::IDENTITY_MAPPED / LARGE_PAGE_BYTES;
    let page = |page| (page * LARGE_PAGE_BYTES) | PRESENT_WRITABLE | LARGE_PAGE;
    guest.write("boot page tables", at::PAGE_TABLES, &bytes_of([pointers_at | PRESENT_WRITABLE]))?;
    guest.write("boot page tables", pointers_at, &bytes_of((0..directories).map(pointer)))?;
    guest.write("boot page tables", directories_at, &bytes_of((0..pages).map(page)))?;
    Ok(Entry { rip, zero_page: at::ZERO_PAGE, stack: at::STACK_TOP, cr3: at::PAGE_TABLES, gdt: at::GDT })
}

fn bytes_of(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The general registers of the boot vCPU.
pub fn initial_regs(entry: &Entry) -> kvm_regs {
    kvm_regs { rip: entry.rip, rsi: entry.zero_page, rsp: entry.stack, rflags: RFLAGS, ..Default::default() }
}

/// The system registers of the boot vCPU, made from those that KVM_GET_SREGS gave. Set the vCPU's CPUID first:
/// KVM refuses x2APIC mode to a vCPU that does not have it.
pub fn initial_sregs(sregs: kvm_sregs, entry: &Entry) -> kvm_sregs {
    let mut sregs = waiting_sregs(sregs);
    sregs.apic_base |= APIC_BASE_BSP;
    sregs.cs = kvm_segment { l: 1, ..segment(CODE, 0xb) };
    let data = kvm_segment { db: 1, ..segment(DATA, 0x3) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // VMX refuses an entry without a busy task state segment.
    sregs.tr = kvm_segment { limit: 0x67, s: 0, g: 0, ..segment(TASK, 0xb) };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    sregs.gdt.base = entry.gdt;
    sregs.gdt.limit = (GDT.len() * 8 - 1) as u16;
    // No IDT: an exception before the kernel has its own ends in a triple fault, not in wild code.
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.cr3 = entry.cr3;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    sregs
}

/// The system registers of a vCPU that waits for INIT and SIPI: as after a reset, but in x2APIC mode.
pub fn waiting_sregs(mut sregs: kvm_sregs) -> kvm_sregs {
    sregs.apic_base |= APIC_BASE_ENABLE | APIC_BASE_X2APIC;
    sregs
}

/// Sets the MSRs that firmware would have set. For every vCPU, after its CPUID.
///
/// # Errors
/// What KVM_SET_MSRS said; EINVAL when it took some and refused others.
pub fn set_initial_msrs(vcpu: &VcpuFd) -> Result<(), errno::Error> {
    let entries =
        [MISC_ENABLE, MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let list = Msrs::from_entries(&entries).map_err(|_| errno::Error::new(libc::E2BIG))?;
    match vcpu.set_msrs(&list)? {
        taken if taken == entries.len() => Ok(()),
        _ => Err(errno::Error::new(libc::EINVAL)),
    }
}

/// A flat segment, accessed, present, with 4 KiB granularity.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { limit: 0xffff_ffff, selector, type_, present: 1, s: 1, g: 1, ..Default::default() }
}
