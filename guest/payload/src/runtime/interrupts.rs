//! The interrupt table and the local APIC, by x2APIC registers (Intel SDM volume 3, chapter "APIC").

use core::sync::atomic::{AtomicU64, Ordering};

use super::gates;

/// x2APIC: interrupt command register.
const ICR: u32 = 0x830;
/// x2APIC: logical destination register.
const LDR: u32 = 0x80d;
/// x2APIC: timer entry of the local vector table.
const LVT_TIMER: u32 = 0x832;
/// Deadline of the timer, in TSC cycles.
const TSC_DEADLINE: u32 = 0x6e0;

/// The first vector that tests may use.
pub const FIRST_FREE_VECTOR: u8 = 0x30;
/// The vector by which KVM tells that a page has come; `ring0.s` has it too.
pub const ASYNC_VECTOR: u8 = 0x2e;
/// The vector under which NMIs are counted.
pub const NMI_VECTOR: u8 = 2;

unsafe extern "C" {
    static idt: [[AtomicU64; 2]; 256];
    static vector_stubs: [[u8; 16]; 256];
}

/// Who gets an interrupt.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// One CPU by its x2APIC id.
    Cpu(u32),
    /// One or more CPUs of a cluster, in the form of the logical destination register.
    Logical(u32),
    /// All CPUs except the sender.
    AllButSelf,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// An interrupt with a vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up at the page.
    Startup(u8),
}

/// Fills the interrupt table; the table register was loaded by ring 0. Done once, by the boot CPU.
pub fn install() {
    // SAFETY: both are arrays of that size in the image.
    let (table, stubs) = unsafe { (&idt, &vector_stubs) };
    for (vector, entry) in table.iter().enumerate() {
        let address = stubs[vector].as_ptr() as u64;
        // Interrupt gate to the ring-0 code segment. The image lies below 4 GiB.
        entry[0]
            .store(address & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (address >> 16) << 48, Ordering::Relaxed);
        entry[1].store(0, Ordering::Relaxed);
    }
}

/// Sends an interrupt.
pub fn send(to: To, what: What) {
    let command = match what {
        What::Fixed(vector) => u64::from(vector),
        What::Nmi => 0x400,
        What::Init => 0x500,
        What::Startup(page) => 0x600 | u64::from(page),
    } | 0x4000; // level: assert
    let target = match to {
        To::Cpu(id) => u64::from(id) << 32,
        To::Logical(set) => u64::from(set) << 32 | 0x800,
        To::AllButSelf => 3 << 18,
    };
    // The write is not serialising (SDM "MSR access in x2APIC mode"): what was stored before must be visible
    // before the interrupt is.
    super::sync::fence();
    gates::wrmsr(ICR, target | command);
}

/// The logical id of this CPU: cluster in the upper half, one bit in the lower.
pub fn logical_id() -> u32 {
    gates::rdmsr(LDR) as u32
}

/// Puts this CPU's timer into TSC-deadline mode with `vector`.
pub fn timer_mode(vector: u8) {
    gates::wrmsr(LVT_TIMER, 0x40000 | u64::from(vector));
    // The SDM asks for a fence between the mode and the first deadline.
    super::sync::fence();
}

/// Arms the timer for `deadline`, in TSC cycles.
pub fn timer_arm(deadline: u64) {
    gates::wrmsr(TSC_DEADLINE, deadline);
}
