//! The time-stamp counter.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

static TSC_KHZ: AtomicU64 = AtomicU64::new(2_500_000);

/// Sets the frequency that the command line gave. Until then a guess is used; it only scales what is printed
/// and how long waits last.
pub fn set_khz(khz: u64) {
    TSC_KHZ.store(khz.max(1), Ordering::Relaxed);
}

/// The frequency in kHz.
pub fn khz() -> u64 {
    TSC_KHZ.load(Ordering::Relaxed)
}

/// The counter, read neither before earlier loads nor after later ones.
pub fn now() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter; CR4.TSD is clear.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The same by RDTSCP. Only where CPUID names it.
pub fn now_rdtscp() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter; the caller looked at CPUID.
    unsafe {
        asm!("rdtscp", "lfence", out("eax") low, out("edx") high, out("ecx") _, options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Microseconds as cycles.
pub fn us(microseconds: u64) -> u64 {
    microseconds.saturating_mul(khz()) / 1000
}

/// Milliseconds since `start`, for results.
pub fn ms_since(start: u64) -> u64 {
    now().saturating_sub(start) / khz()
}

/// Burns about `cycles`.
pub fn spin(cycles: u64) {
    let start = now();
    while now().wrapping_sub(start) < cycles {
        core::hint::spin_loop();
    }
}
