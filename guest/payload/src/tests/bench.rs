//! What the tests that only measure have in common.
//!
//! CPU 0 measures, in place and not as a job: other CPUs halt meanwhile, so that on a machine with few processors
//! nothing competes with what is measured. Pages are gone through in an order that no asking ahead follows.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::samples::{cycles_to_ns, summarise, Summary};

use crate::runtime::arena::Page;
use crate::runtime::clock;
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;

/// Pages measured at a time; a power of two.
pub const BATCH: usize = 256;
/// From one page of a batch to the next. Odd, so that all pages have their turn; and it takes 109 steps to come from a
/// page to the one behind it.
const STEP: usize = 101;
/// Samples at most.
pub const MOST: u64 = 1 << 16;
/// Words of a page.
const WORDS: u64 = 512;

/// The page of a batch that has the turn of this number.
pub fn turn(number: usize) -> usize {
    number * STEP % BATCH
}

/// The number under `rounds=`.
pub fn rounds(machine: &Machine, default: u64) -> u64 {
    machine.number("rounds", default).clamp(1, MOST)
}

/// The CPU under `from=` that has the pages first; never CPU 0, which measures.
pub fn from(machine: &Machine) -> usize {
    match machine.cpu("from", machine.cpus() - 1) {
        0 => fail(Status::Usage, format_args!("from= must be another CPU than 0, which measures")),
        from => from,
    }
}

/// Where samples go.
#[derive(Clone, Copy)]
pub struct Samples(&'static [Page]);

impl Samples {
    /// Room for this many, in CPU 0's own memory.
    pub fn new(machine: &Machine, count: u64) -> Self {
        Self(machine.arena.pages_of(0, count.div_ceil(WORDS) as usize))
    }

    /// Keeps one.
    pub fn record(&self, number: u64, cycles: u64) {
        self.0[(number / WORDS) as usize].word((number % WORDS) as usize).store(cycles, Ordering::Relaxed);
    }

    /// Sums up the first `count`.
    pub fn summary(&self, count: u64) -> Summary {
        let start = self.0.as_ptr().cast::<u64>().cast_mut();
        // SAFETY: the pages are adjacent, hold at least `count` words, and no job is running.
        summarise(unsafe { core::slice::from_raw_parts_mut(start, count as usize) })
    }
}

/// Adds a summary, in nanoseconds.
pub fn add(line: &mut Line, name: &str, summary: Summary) {
    let ns = |cycles| cycles_to_ns(cycles, clock::khz());
    let Summary { count, p50, p99, max, mean } = summary;
    line.raw(
        name,
        format_args!(
            "{{\"count\":{count},\"p50_ns\":{},\"p99_ns\":{},\"max_ns\":{},\"mean_ns\":{}}}",
            ns(p50),
            ns(p99),
            ns(max),
            ns(mean)
        ),
    );
}

/// Cycles that an access takes, begun after a pause in which what the last one left behind can end.
pub fn timed(pause_us: u64, access: impl FnOnce()) -> u64 {
    clock::spin(clock::us(pause_us));
    let start = clock::now();
    access();
    clock::now() - start
}
