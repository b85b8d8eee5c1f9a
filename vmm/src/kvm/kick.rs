//! Getting a vCPU's thread out of KVM_RUN.
//!
//! A kick is a real-time signal to the thread. Its handler sets `immediate_exit` in the thread's own kvm_run, so
//! that a kick that comes just before KVM_RUN is not lost (KVM API 5, "immediate_exit").

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use kvm_bindings::kvm_run;
use thiserror::Error;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{register_signal_handler, SIGRTMIN};

thread_local! {
    static RUN: Cell<*mut kvm_run> = const { Cell::new(std::ptr::null_mut()) };
}

/// The signal handler could not be installed.
#[derive(Debug, Error)]
#[error("installing the handler for kicks failed: {0}")]
pub struct KickError(errno::Error);

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.with(Cell::get);
    if !run.is_null() {
        // SAFETY: the pointer is this thread's own kvm_run, set in `Kicker::arm` and cleared before the mapping
        // goes; the field is one byte that the kernel reads at KVM_RUN.
        unsafe { (*run).immediate_exit = 1 };
    }
}

/// Kicks one vCPU's thread; cloned to whoever has mail for it.
#[derive(Clone, Debug)]
pub struct Kicker {
    thread: Arc<AtomicU64>,
    /// Its number (gettid); 0 before it runs.
    number: Arc<AtomicU32>,
    alive: Arc<AtomicBool>,
}

impl Kicker {
    /// A kicker of a thread that has not started; kicks go nowhere until it calls [`Kicker::arm`].
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn new() -> Result<Self, KickError> {
        static INSTALLED: OnceLock<Result<(), errno::Error>> = OnceLock::new();
        INSTALLED.get_or_init(|| register_signal_handler(SIGRTMIN(), on_kick)).map_err(KickError)?;
        Ok(Kicker { thread: Arc::default(), number: Arc::default(), alive: Arc::default() })
    }

    /// Called by the vCPU's thread with its own kvm_run. The guard must live as long as the thread runs the
    /// vCPU, and go before the mapping does.
    pub fn arm(&self, run: *mut kvm_run) -> Armed {
        RUN.with(|cell| cell.set(run));
        // SAFETY: pthread_self has no preconditions.
        self.thread.store(unsafe { libc::pthread_self() }, Ordering::SeqCst);
        // SAFETY: as above.
        let number = unsafe { libc::syscall(libc::SYS_gettid) };
        self.number.store(u32::try_from(number).unwrap_or(0), Ordering::SeqCst);
        self.alive.store(true, Ordering::SeqCst);
        Armed { kicker: self.clone() }
    }

    /// The thread's number (gettid); `None` before it has called [`Kicker::arm`].
    pub fn thread_number(&self) -> Option<u32> {
        Some(self.number.load(Ordering::SeqCst)).filter(|&number| number != 0)
    }

    /// Makes the thread leave KVM_RUN, now or the next time that it enters it.
    pub fn kick(&self) {
        if self.alive.load(Ordering::SeqCst) {
            let thread = self.thread.load(Ordering::SeqCst);
            // SAFETY: `alive` says that the thread runs; its owner joins it only after the guard is gone, and
            // a thread that was not joined can be signalled.
            unsafe { libc::pthread_kill(thread, SIGRTMIN()) };
        }
    }
}

/// While this lives, kicks reach the thread that made it.
#[derive(Debug)]
pub struct Armed {
    kicker: Kicker,
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.kicker.alive.store(false, Ordering::SeqCst);
        RUN.with(|cell| cell.set(std::ptr::null_mut()));
    }
}
