//! The way from ring 3 to the few privileged instructions that tests need: an invalid instruction with the
//! number of the gate in R11. See `ring0.s` for why.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

/// What R11 holds for gate 0; the assembly's `GATE_MAGIC`.
const MAGIC: u64 = 0x7e55_e700;
/// What R11 holds for the gate of [`wait_while`].
pub const WAIT: u64 = MAGIC + 2;

/// Writes a model-specific register.
pub fn wrmsr(register: u32, value: u64) {
    // SAFETY: the gate executes WRMSR and nothing else; a bad register ends in the exception report.
    // Registers that move memory under the program (page tables, APIC base) are not written by the tests.
    unsafe {
        asm!("ud2", inout("r11") MAGIC => _, in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

/// Reads a model-specific register.
pub fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the gate executes RDMSR and nothing else.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 1 => _, in("ecx") register, out("eax") low, out("edx") high);
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Halts this CPU until some interrupt comes, unless `word` differs from `seen` already. The check is made
/// with interrupts off, so an interrupt that changes `word` cannot slip in between. May return early.
pub fn wait_while(word: &AtomicU64, seen: u64) {
    // SAFETY: the gate reads the word, which outlives the call, and halts.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 2 => _, in("rdi") word.as_ptr(), in("rsi") seen);
    }
}

/// Drops this CPU's translation of the page at `address`.
pub fn invlpg(address: u64) {
    // SAFETY: the gate executes INVLPG, which has no effect on memory.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 3 => _, in("rdi") address);
    }
}

/// Turns on CR4.OSXSAVE and sets XCR0, after which ring 3 may use what `components` names.
pub fn xsetbv(components: u64) {
    // SAFETY: the gate sets XCR0; the caller took the components from CPUID, and no register content is lost
    // by enabling more of them.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 4 => _, in("ecx") 0, in("eax") components as u32, in("edx") (components >> 32) as u32);
    }
}

/// Writes each byte of `text` to `port`.
pub fn print(port: u16, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    // SAFETY: the gate reads the text and executes OUT; the console's port has no effect on memory.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 5 => _, in("dx") port, inout("rsi") text.as_ptr() => _, inout("rcx") text.len() => _, out("al") _);
    }
}

/// Writes the status to `port`, where the payload ends.
pub fn exit(port: u16, status: u32) {
    write_port(port, status);
}

/// Writes a 32-bit port.
pub fn write_port(port: u16, value: u32) {
    // SAFETY: the gate executes OUT; ports have no effect on memory of the program's own accord: what a device is given
    // to write, its driver has set aside.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 6 => _, in("dx") port, in("eax") value);
    }
}

/// Reads a 32-bit port.
pub fn read_port(port: u16) -> u32 {
    let value;
    // SAFETY: the gate executes IN.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 12 => _, in("dx") port, out("eax") value);
    }
    value
}

/// CPUID as ring 0 sees it: EAX, EBX, ECX, EDX. (A KVM that runs ring 3 natively may show it the host's.)
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u64, u32, u32);
    // SAFETY: the gate executes CPUID.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + 7 => _, inout("eax") leaf => a, inout("ecx") subleaf => c, out("edx") d, out("r8") b);
    }
    [a, b as u32, c, d]
}

/// A register that only remembers what it is given, as long as page faults and debugging are not in play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Keeper {
    /// CR2, the address of the last page fault.
    Cr2 = 8,
    /// DR0, the first breakpoint address.
    Dr0 = 10,
}

/// Sets a [`Keeper`].
pub fn keep(keeper: Keeper, value: u64) {
    // SAFETY: neither register does anything by itself.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + keeper as u64 => _, in("rdi") value);
    }
}

/// Reads a [`Keeper`].
pub fn kept(keeper: Keeper) -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe {
        asm!("ud2", inout("r11") MAGIC + keeper as u64 + 1 => _, out("rax") value);
    }
    value
}
