//! This host's KVM, set up for one guest.

mod eraser;
mod kick;
mod private;
mod vm;

pub use eraser::ShadowEraser;
pub use kick::{KickError, Kicker};
pub use vm::{KvmError, PrivateError, Vm};

/// The time stamp counter of this host's CPU now, in ticks.
pub fn host_tsc() -> u64 {
    // SAFETY: every x86_64 CPU has RDTSC, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
