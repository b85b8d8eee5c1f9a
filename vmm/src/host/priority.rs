//! Which threads run first on a host that has fewer CPUs than the guest has vCPUs.
//!
//! A vCPU that computes leaves its CPU to an ordinary thread only after some milliseconds, and every page and interrupt
//! that crosses hosts waits for a handful of such threads. On a crowded host the threads that serve others therefore run
//! in the real-time class, in which they are short; vCPUs that run the guest stay ordinary.

use std::io;

/// A thread's class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// SCHED_OTHER.
    Ordinary,
    /// SCHED_FIFO, lowest priority.
    RealTime,
}

/// Whether a guest with so many vCPUs, which may all come here, can fill this host's CPUs.
pub fn crowded(vcpus: usize) -> bool {
    std::thread::available_parallelism().map_or(true, |cpus| vcpus > cpus.get())
}

/// Whether this host has so many CPUs that such a guest never fills: they may then be kept busy with waiting.
pub fn has_spare(vcpus: usize, wanted: u8) -> bool {
    std::thread::available_parallelism().is_ok_and(|cpus| vcpus + usize::from(wanted) <= cpus.get())
}

/// Puts the calling thread into a class.
///
/// # Errors
/// Without CAP_SYS_NICE or RLIMIT_RTPRIO. The thread goes on as it was; only latency suffers.
pub fn set_own(priority: Priority) -> io::Result<()> {
    let (policy, sched_priority) = match priority {
        Priority::Ordinary => (libc::SCHED_OTHER, 0),
        Priority::RealTime => (libc::SCHED_FIFO, 1),
    };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: 0 is the calling thread; the parameters live through the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
