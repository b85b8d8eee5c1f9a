//! The proxy's stub: a few instructions in memory that only this node has.
//!
//! A proxy vCPU that is made runnable here takes every interrupt that is pending in its local APIC; each
//! enters the stub's IDT, and its entry writes the vector to a port: one exit each. When none is left the
//! idle loop writes to another port. No guest instruction runs and no guest memory is touched.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Where the stub stands in guest-physical space: inside the hole for devices, in no guest's RAM.
pub const STUB_GPA: u64 = 0xfef0_0000;
/// Bytes of the stub's memory slot.
pub const STUB_BYTES: usize = 1 << 20;
/// A vector was taken: its number is the byte written.
pub const PORT_VECTOR: u16 = 0x30;
/// Nothing is pending.
pub const PORT_IDLE: u16 = 0x31;
/// The vector that the stub reports for an NMI.
pub const NMI_VECTOR: u8 = 2;

const PML4: u64 = STUB_GPA;
const PDPT: u64 = STUB_GPA + 0x1000;
const PD: u64 = STUB_GPA + 0x2000;
const GDT: u64 = STUB_GPA + 0x3000;
const IDT: u64 = STUB_GPA + 0x4000;
const ENTRIES: u64 = STUB_GPA + 0x5000;
const CODE: u64 = STUB_GPA + 0x6000;
const TSS: u64 = STUB_GPA + 0x7000;
const STACKS: u64 = STUB_GPA + 0x10000;

/// Bytes of one vector's entry code.
const ENTRY_BYTES: u64 = 16;
/// Bytes of one vCPU's stack: an interrupt frame takes 40.
const STACK_BYTES: u64 = 512;
/// Most vCPUs that have a stack.
pub const VCPUS_MAX: usize = (STUB_BYTES - 0x10000) / STACK_BYTES as usize;

/// `sti; nop; nop; out PORT_IDLE, al; jmp` back.
const IDLE: [u8; 7] = [0xfb, 0x90, 0x90, 0xe6, PORT_IDLE as u8, 0xeb, 0xf9];
/// x2APIC EOI: `mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr`, then [`RETURN`].
const EOI: [u8; 11] = [0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30];
/// `iretq`
const RETURN: [u8; 2] = [0x48, 0xcf];
const EOI_AT: u64 = CODE + 0x20;
/// Where an entry goes on when its interrupt must stay in service.
pub const KEEP_AT: u64 = EOI_AT + EOI.len() as u64;

const PRESENT_WRITABLE_ACCESSED: u64 = 0x23;
const LARGE_PAGE: u64 = 0xe3;
const CODE_SELECTOR: u16 = 0x8;
const DATA_SELECTOR: u16 = 0x10;

/// Writes the stub into its memory, which stands at [`STUB_GPA`] for the guest.
///
/// # Panics
/// If `memory` is not [`STUB_BYTES`] long.
pub fn write(memory: &mut [u8]) {
    assert_eq!(memory.len(), STUB_BYTES, "the stub's slot has one size");
    let mut put = |gpa: u64, bytes: &[u8]| {
        let at = (gpa - STUB_GPA) as usize;
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    };
    // One 2 MiB page, supervisor only, that maps the stub at its own address.
    let (pdpt_index, pd_index) = ((STUB_GPA >> 30) & 511, (STUB_GPA >> 21) & 511);
    put(PML4, &(PDPT | PRESENT_WRITABLE_ACCESSED).to_le_bytes());
    put(PDPT + 8 * pdpt_index, &(PD | PRESENT_WRITABLE_ACCESSED).to_le_bytes());
    put(PD + 8 * pd_index, &((STUB_GPA & !0x1f_ffff) | LARGE_PAGE).to_le_bytes());
    put(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    put(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    put(CODE, &IDLE);
    put(EOI_AT, &EOI);
    put(KEEP_AT, &RETURN);
    for vector in 0..=255u8 {
        let entry = ENTRIES + ENTRY_BYTES * u64::from(vector);
        put(IDT + 16 * u64::from(vector), &gate(entry));
        put(entry, &entry_code(vector, entry));
    }
}

/// An interrupt gate of long mode (SDM 3A figure 6-8): interrupts off on entry.
fn gate(target: u64) -> [u8; 16] {
    let low =
        (target & 0xffff) | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32 | (target >> 16 & 0xffff) << 48;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&(target >> 32).to_le_bytes());
    bytes
}

/// `mov al, vector; out PORT_VECTOR, al; jmp` to the EOI, or to the return where there is none (an NMI).
fn entry_code(vector: u8, entry: u64) -> [u8; 9] {
    let target = if vector == NMI_VECTOR { KEEP_AT } else { EOI_AT };
    let distance = (target as i64 - (entry as i64 + 9)) as i32;
    let mut code = [0xb0, vector, 0xe6, PORT_VECTOR as u8, 0xe9, 0, 0, 0, 0];
    code[5..].copy_from_slice(&distance.to_le_bytes());
    code
}

/// The registers of a proxy at rest: in the idle loop, interrupts on.
pub fn idle_regs(vcpu_index: usize) -> kvm_regs {
    assert!(vcpu_index < VCPUS_MAX, "vCPU counts are checked when the guest is made");
    kvm_regs {
        rip: CODE,
        rsp: STACKS + STACK_BYTES * (vcpu_index as u64 + 1),
        rflags: 0x202,
        ..Default::default()
    }
}

/// The segments and control registers of a proxy; the APIC base stays the vCPU's own.
pub fn sregs(current: &kvm_sregs) -> kvm_sregs {
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: CODE_SELECTOR,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, l: 0, db: 1, ..code };
    let task =
        kvm_segment { base: TSS, limit: 0x67, selector: 0x18, type_: 11, present: 1, ..Default::default() };
    let mut stub = kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        ldt: kvm_segment { type_: 2, unusable: 1, ..Default::default() },
        cr0: 0x8005_0033,
        cr3: PML4,
        cr4: 0x620,
        efer: 0x500,
        apic_base: current.apic_base,
        ..Default::default()
    };
    (stub.gdt.base, stub.gdt.limit) = (GDT, 31);
    (stub.idt.base, stub.idt.limit) = (IDT, 0xfff);
    stub
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_reports_its_vector_and_reaches_the_end() {
        let mut memory = vec![0; STUB_BYTES];
        write(&mut memory);
        for vector in 0..=255u8 {
            let at = (ENTRIES - STUB_GPA + ENTRY_BYTES * u64::from(vector)) as usize;
            let code = &memory[at..at + 9];
            assert_eq!(&code[..5], [0xb0, vector, 0xe6, 0x30, 0xe9]);
            let distance = i32::from_le_bytes(code[5..].try_into().expect("four bytes"));
            let target = (at as i64 + 9 + i64::from(distance)) as u64 + STUB_GPA;
            assert_eq!(target, if vector == NMI_VECTOR { KEEP_AT } else { EOI_AT });
        }
    }

    #[test]
    fn stacks_lie_inside_the_slot() {
        let last = idle_regs(VCPUS_MAX - 1).rsp;
        assert!(last <= STUB_GPA + STUB_BYTES as u64);
        const { assert!(VCPUS_MAX >= 512) };
    }
}
