//! Waiting for another CPU without asking the kernel for the time: the page with the time of day changes with
//! every tick, and reading it in a loop would have it travel all the time.

use std::sync::atomic::{fence, AtomicU32, Ordering};

/// How long to wait awake before sleeping, unless told otherwise: some tens of milliseconds, longer than a number of pages
/// take to come. To be woken on another host costs more than that.
pub const PATIENCE: Cycles = Cycles(100_000_000);

/// A time by the time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycles(pub u64);

/// The time-stamp counter, read neither before earlier loads nor after later ones.
pub fn tsc() -> u64 {
    // SAFETY: SSE2 and the counter exist on every x86-64, and Linux leaves it readable.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        let now = std::arch::x86_64::_rdtsc();
        std::arch::x86_64::_mm_lfence();
        now
    }
}

/// Spins until `done`; gives up the CPU now and then where it takes long.
pub fn until(mut done: impl FnMut() -> bool) {
    let mut start = tsc();
    while !done() {
        std::hint::spin_loop();
        if tsc().wrapping_sub(start) > PATIENCE.0 {
            std::thread::yield_now();
            start = tsc();
        }
    }
}

/// Waits until `word` differs from what `passes` refuses: spins for as long as its patience lasts, then sleeps on the
/// word. `asleep` tells the writer that it must wake; it has a page of its own, written only around a sleep.
pub fn wait(word: &AtomicU32, asleep: &AtomicU32, patience: Cycles, passes: impl Fn(u32) -> bool) {
    let start = tsc();
    while tsc().wrapping_sub(start) < patience.0 {
        if passes(word.load(Ordering::Acquire)) {
            return;
        }
        std::hint::spin_loop();
    }
    loop {
        asleep.store(1, Ordering::Relaxed);
        // The writer stores the word, then looks at `asleep`; we store `asleep`, then look at the word.
        fence(Ordering::SeqCst);
        let seen = word.load(Ordering::Acquire);
        if passes(seen) {
            break;
        }
        // SAFETY: the word outlives the call; a wait that ends early for whatever reason is tried again.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                seen,
                0usize,
            );
        }
    }
    asleep.store(0, Ordering::Relaxed);
}

/// Stores `value` and wakes those who sleep on the word.
pub fn publish<'a>(word: &AtomicU32, value: u32, asleep: impl Iterator<Item = &'a AtomicU32>) {
    word.store(value, Ordering::Release);
    fence(Ordering::SeqCst);
    let mut asleep = asleep;
    if asleep.any(|flag| flag.load(Ordering::Relaxed) != 0) {
        // SAFETY: the word is valid; waking touches nothing else.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_that_sleeps_is_woken() {
        let (word, asleep) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| wait(&word, &asleep, PATIENCE, |value| value >= 3));
            for value in 1..=3 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                publish(&word, value, std::iter::once(&asleep));
            }
            waiter.join().unwrap();
        });
        assert_eq!(asleep.load(Ordering::Relaxed), 0);
    }
}
