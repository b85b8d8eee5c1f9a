//! Store buffering by two threads of this very process: whether this machine can show it at all just now.

use std::sync::atomic::{AtomicU64, Ordering};

/// Runs of one attempt.
const RUNS: u64 = 20_000;

/// A word with a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// How often both threads missed the other's store. A machine that has no two processors to spare shows none.
pub fn store_buffering() -> u64 {
    let (words, rounds): ([Line; 2], [Line; 2]) = Default::default();
    let side = |me: usize| {
        let missed = |run: u64| {
            rounds[me].0.store(run, Ordering::SeqCst);
            while rounds[1 - me].0.load(Ordering::SeqCst) < run {
                std::thread::yield_now();
            }
            // Who came last goes on first: sometimes it waits for the other.
            for _ in 0..if me == 0 { run % 128 } else { 64 } {
                std::hint::black_box(run);
            }
            // Relaxed, as the litmus test: two moves.
            words[me].0.store(run, Ordering::Relaxed);
            words[1 - me].0.load(Ordering::Relaxed) < run
        };
        (1..=RUNS).map(missed).collect::<Vec<bool>>()
    };
    let (mine, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| side(1));
        (side(0), other.join().expect("no panic"))
    });
    mine.iter().zip(&other).filter(|(mine, other)| **mine && **other).count() as u64
}
