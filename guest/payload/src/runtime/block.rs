//! A CPU's block: 16 KiB, aligned, touched by that CPU (and by those who read its counters).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What an exception left behind.
#[repr(C)]
pub struct Exception {
    /// The vector, 0..31.
    pub vector: AtomicU64,
    /// The error code; 0 where the vector has none.
    pub error: AtomicU64,
    /// Where it happened.
    pub rip: AtomicU64,
    /// The code segment there: the low two bits are the ring.
    pub cs: AtomicU64,
    /// The stack pointer there.
    pub rsp: AtomicU64,
    /// CR2.
    pub cr2: AtomicU64,
}

/// Asynchronous page faults of a CPU: what KVM writes, and what ring 0 makes of it.
#[repr(C, align(64))]
pub struct AsyncFaults {
    /// 1: KVM has injected a page fault whose CR2 is a token.
    flags: AtomicU32,
    /// The token of a page that has come; all bits: all of them.
    token: AtomicU32,
    reserved: [u64; 7],
    /// The token that this CPU waits for, halted; 0: none.
    waiting: AtomicU64,
    /// Faults whose page was not there.
    pub absent: AtomicU64,
    /// How often all who wait were woken.
    pub woken_all: AtomicU64,
    rest: [u64; 5],
}

/// The layout that `ring0.s` works with. The first page holds what other CPUs read, the second is private
/// (GDT, TSS, entry data), the last two are the ring-0 stack.
#[repr(C, align(16384))]
pub struct Block {
    /// Interrupts taken by this CPU, by vector.
    counts: [AtomicU64; 256],
    /// The last exception.
    pub exception: Exception,
    /// How often this CPU has entered ring 3 from its reset.
    pub starts: AtomicU64,
    pad: [u64; 256 - 7],
    descriptors: [u64; 32],
    user_stack: AtomicU64,
    entry: AtomicU64,
    boot_params: AtomicU64,
    index: AtomicU64,
    apic_id: AtomicU64,
    gap: [u64; 3],
    /// Asynchronous page faults.
    pub async_faults: AsyncFaults,
    rest: [u64; 512 - 32 - 8 - 16],
    stack: [u64; 1024],
}

const _: () = assert!(core::mem::size_of::<Block>() == 16384);
const _: () = assert!(core::mem::offset_of!(Block, exception) == 2048);
const _: () = assert!(core::mem::offset_of!(Block, descriptors) == 4096);
const _: () = assert!(core::mem::offset_of!(Block, user_stack) == 4096 + 256);
const _: () = assert!(core::mem::offset_of!(Block, async_faults) == 4096 + 320);

impl Block {
    /// Fills in what ring 0 needs to bring this CPU to `entry` in ring 3 with the stack that ends at
    /// `stack_end`.
    pub fn prepare(
        &self,
        index: usize,
        apic_id: u32,
        stack_end: u64,
        entry: extern "C" fn(&'static Block) -> !,
    ) {
        // The ABI: at a function's first instruction RSP is 8 below a multiple of 16.
        self.user_stack.store(stack_end - 8, Ordering::Relaxed);
        self.entry.store(entry as usize as u64, Ordering::Relaxed);
        self.identify(index, apic_id);
    }

    /// Says which CPU this block is for.
    pub fn identify(&self, index: usize, apic_id: u32) {
        self.index.store(index as u64, Ordering::Relaxed);
        self.apic_id.store(u64::from(apic_id), Ordering::Relaxed);
    }

    /// Position of this CPU in the command line's list.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed) as usize
    }

    /// Its x2APIC id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed) as u32
    }

    /// Address of the zero page; only the boot CPU has one.
    pub fn boot_params(&self) -> u64 {
        self.boot_params.load(Ordering::Relaxed)
    }

    /// Interrupts of `vector` that this CPU has taken since it was started.
    pub fn count(&self, vector: u8) -> &AtomicU64 {
        &self.counts[usize::from(vector)]
    }

    /// Address for the AP table.
    pub fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }
}
