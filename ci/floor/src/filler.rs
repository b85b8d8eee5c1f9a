//! The plainest handler of page faults: wait, read one, copy a page.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::uffd::{FaultBatch, Protection, Userfaultfd, Waiters};
use tessera_dsm::PAGE_BYTES;

/// After so long without a fault the thread looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A thread that fills pages of guest memory when they are touched. It ends when this value goes: drop it after the
/// vCPUs have ended.
pub struct Filler {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Tracks all of `memory` from here on. Pages that are there stay.
    ///
    /// # Errors
    /// If there is no usable userfaultfd.
    pub fn start(memory: &Arc<NodeMemory>) -> Result<Self> {
        let mut uffd = Userfaultfd::open()?;
        for slot in memory.slots() {
            // SAFETY: shared memory that `memory` owns and gives out as addresses only; the thread keeps it for longer
            // than the userfaultfd.
            unsafe { uffd.register(slot.hva, slot.pages * PAGE_BYTES as u64)? };
        }
        let over = Arc::new(AtomicBool::new(false));
        let (seen, memory) = (Arc::clone(&over), Arc::clone(memory));
        let thread = std::thread::Builder::new().name("filler".into()).spawn(move || {
            if let Err(error) = fill(uffd, &seen) {
                eprintln!("tessera-floor: {error:#}");
            }
            drop(memory);
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What went wrong in it has been printed.
            let _ = thread.join();
        }
    }
}

fn fill(mut uffd: Userfaultfd, over: &AtomicBool) -> Result<()> {
    // The guest counts on zeros; they are copied all the same, as a page that has come from elsewhere would be.
    let page = vec![[0; PAGE_BYTES]];
    let mut batch = FaultBatch::default();
    while !over.load(Ordering::Relaxed) {
        poll(&mut [PollFd::new(&uffd, PollFlags::IN)], Some(&LOOK)).context("waiting for a fault")?;
        let faults = uffd.read_faults(&mut batch)?;
        for fault in faults {
            // (A page that is there already was touched by two at once; the copy has woken both.)
            let _placed = uffd.copy(fault.hva, &page, Protection::Writable, Waiters::Wake)?;
        }
    }
    Ok(())
}
