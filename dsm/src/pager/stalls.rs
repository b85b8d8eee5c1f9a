//! How long each thread of this process has waited for pages.
//!
//! A vCPU that waits in the kernel for a page does nothing else: it is *stalled*. Where KVM's own threads fetch pages while the
//! guest runs another task, the faults are theirs, and no vCPU is stalled.

use serde::{Deserialize, Serialize};

use crate::protocol::Micros;
use crate::uffd::ThreadId;

/// Most threads told apart: more than a guest has vCPUs.
const THREADS_MAX: usize = 1024;

/// Faults of one thread, or of all kernel threads together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stall {
    /// How many faults.
    pub faults: u64,
    /// How long they took together, in microseconds.
    pub waited_us: u64,
}

impl Stall {
    fn add(&mut self, took: Micros) {
        self.faults += 1;
        self.waited_us += took;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Stall) {
        self.faults += other.faults;
        self.waited_us += other.waited_us;
    }
}

/// What each thread has waited.
#[derive(Debug)]
pub(super) struct Stalls {
    own: Vec<(ThreadId, Stall)>,
    others: Stall,
}

impl Default for Stalls {
    fn default() -> Self {
        Stalls { own: Vec::with_capacity(THREADS_MAX), others: Stall::default() }
    }
}

impl Stalls {
    /// A fault of `thread` took so long. `is_own` is asked for threads that are not known yet.
    pub(super) fn record(&mut self, thread: ThreadId, took: Micros, is_own: impl FnOnce(ThreadId) -> bool) {
        if let Some((_, stall)) = self.own.iter_mut().find(|(known, _)| *known == thread) {
            return stall.add(took);
        }
        if self.own.len() == THREADS_MAX || !is_own(thread) {
            return self.others.add(took);
        }
        let mut stall = Stall::default();
        stall.add(took);
        self.own.push((thread, stall));
    }

    /// The threads of this process that have waited, by number.
    pub(super) fn own(&self) -> Vec<(u32, Stall)> {
        self.own.iter().map(|&(thread, stall)| (thread.0, stall)).collect()
    }

    /// Everybody else: the threads with which KVM serves asynchronous page faults.
    pub(super) fn others(&self) -> Stall {
        self.others
    }
}

/// What threads have waited for two pagers, `one` and `other`, each thread once.
pub(super) fn joined(mut one: Vec<(u32, Stall)>, other: &[(u32, Stall)]) -> Vec<(u32, Stall)> {
    for &(thread, stall) in other {
        match one.iter_mut().find(|(known, _)| *known == thread) {
            Some((_, known)) => known.merge(&stall),
            None => one.push((thread, stall)),
        }
    }
    one
}

/// Whether a thread is one of this process.
pub(super) fn is_of_this_process(thread: ThreadId) -> bool {
    let Ok(thread) = libc::pid_t::try_from(thread.0) else { return false };
    // SAFETY: signal 0 is not sent; the call only says whether this process has such a thread.
    thread > 0 && unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, 0) } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_apart_and_kernel_threads_are_one() {
        let mut stalls = Stalls::default();
        let own = |thread: ThreadId| thread.0 < 100;
        for (thread, took) in [(1, 5), (2, 7), (1, 10), (200, 3), (300, 4)] {
            stalls.record(ThreadId(thread), took, own);
        }
        let stall = |faults, waited_us| Stall { faults, waited_us };
        assert_eq!(stalls.own(), [(1, stall(2, 15)), (2, stall(1, 7))]);
        assert_eq!(stalls.others(), stall(2, 7));
    }

    #[test]
    fn no_more_threads_are_kept_than_there_is_room_for() {
        let mut stalls = Stalls::default();
        for thread in 0..2 * THREADS_MAX as u32 {
            stalls.record(ThreadId(thread), 1, |_| true);
        }
        assert_eq!((stalls.own().len(), stalls.others().faults), (THREADS_MAX, THREADS_MAX as u64));
    }

    #[test]
    fn this_thread_is_of_this_process_and_init_is_not() {
        // SAFETY: no arguments, no memory.
        let me = unsafe { libc::syscall(libc::SYS_gettid) };
        assert!(is_of_this_process(ThreadId(me as u32)));
        assert!(!is_of_this_process(ThreadId(1)) || std::process::id() == 1);
        assert!(!is_of_this_process(ThreadId(0)) && !is_of_this_process(ThreadId(u32::MAX)));
    }
}
