//! Waiting for other CPUs, never for ever.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::arena::{Arena, Page};
use super::block::Block;
use super::exit::{fail, Status};
use super::{clock, gates, interrupts};

static LIMIT_S: AtomicU64 = AtomicU64::new(60);

/// Sets how long anything may take before it counts as a hang.
pub fn set_limit_s(seconds: u64) {
    LIMIT_S.store(seconds.max(1), Ordering::Relaxed);
}

/// All earlier loads and stores before all later ones and before a following WRMSR.
pub fn fence() {
    // SAFETY: no effect but order.
    unsafe {
        asm!("mfence", "lfence", options(nostack, preserves_flags));
    }
}

/// Spins until `done`, or ends the run as a hang that names `what`.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = clock::now();
    let limit = clock::us(LIMIT_S.load(Ordering::Relaxed) * 1_000_000);
    while !done() {
        core::hint::spin_loop();
        if clock::now().wrapping_sub(start) > limit {
            if done() {
                break;
            }
            fail(
                Status::Hang,
                format_args!("{what} did not happen in {} s", LIMIT_S.load(Ordering::Relaxed)),
            );
        }
    }
}

/// Lets a CPU that waits for long leave the host's processor to others: it halts until its own timer wakes it.
#[derive(Clone, Copy)]
pub struct Doze {
    alarms: &'static AtomicU64,
}

/// How long a wait spins before it dozes, and how long a doze takes.
const SPIN_US: u64 = 20;
const DOZE_US: u64 = 50;

impl Doze {
    /// For the CPU with this block, which runs this; the timer interrupt is `vector`.
    pub fn new(block: &'static Block, vector: u8) -> Self {
        interrupts::timer_mode(vector);
        Self { alarms: block.count(vector) }
    }

    /// As [`wait_until`], with dozing.
    pub fn wait_until(self, what: &str, mut done: impl FnMut() -> bool) {
        let spun = clock::now() + clock::us(SPIN_US);
        wait_until(what, || {
            if done() {
                return true;
            }
            if clock::now() > spun {
                let seen = self.alarms.load(Ordering::Acquire);
                interrupts::timer_arm(clock::now() + clock::us(DOZE_US));
                gates::wait_while(self.alarms, seen);
            }
            done()
        });
    }
}

/// A barrier for a fixed number of threads. Each arrival word has a page of its own, and so has the release
/// word: per round each page changes hands once each way.
#[derive(Clone, Copy)]
pub struct Barrier {
    arrivals: &'static [Page],
    release: &'static Page,
}

impl Barrier {
    /// A barrier for up to `threads`.
    pub fn new(arena: &Arena, threads: usize) -> Self {
        Self { arrivals: arena.pages(threads.max(1)), release: arena.page() }
    }

    /// The page of the release word, which is word 0. Whatever thread 0 leaves in its other words before it lets the others
    /// go on is there when they go on, even if one page's news overtook another's: a page is one.
    pub fn board(&self) -> &'static Page {
        self.release
    }

    /// Thread `thread` of `threads` has reached `round` (1, 2, 3, ... the same for all): goes on when all
    /// have. Thread 0 runs `alone` when all have arrived and none has gone on.
    pub fn pass(&self, (thread, threads): (usize, usize), round: u64, doze: Doze, alone: impl FnOnce()) {
        let release = self.release.word(0);
        if thread == 0 {
            for arrival in &self.arrivals[1..threads] {
                doze.wait_until("a barrier: the arrival of a thread", || {
                    arrival.word(0).load(Ordering::Acquire) >= round
                });
            }
            alone();
            release.store(round, Ordering::Release);
        } else {
            self.arrivals[thread].word(0).store(round, Ordering::Release);
            doze.wait_until("a barrier: the release", || release.load(Ordering::Acquire) >= round);
        }
    }
}
