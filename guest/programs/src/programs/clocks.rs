//! Time as seen by all CPUs together: what one CPU has read and passed on through memory, no other may read
//! as the future. A token goes round the CPUs with the last reading of the clock (`CLOCK_MONOTONIC`, from the
//! vDSO) and of the time-stamp counter.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Finding;
use crate::cpus;
use crate::json::Object;
use crate::memory::Pages;
use crate::orders::Order;
use crate::spin::{self, tsc};
use crate::trouble::Trouble;

const NS_PER_S: f64 = 1e9;
/// Words of the token's page: whose turn it is, the reading of the clock, of the counter, and the end.
const TURN: usize = 0;
const CLOCK: usize = 1;
const COUNTER: usize = 2;
const OVER: usize = 3;

/// What one thread saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    handovers: u64,
    clock: Steps,
    counter: Steps,
    own: Steps,
}

/// Steps back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    count: u64,
    greatest: u64,
}

impl Steps {
    /// Compares a reading with an earlier one.
    fn look(&mut self, earlier: u64, now: u64) {
        if now < earlier {
            self.count += 1;
            self.greatest = self.greatest.max(earlier - now);
        }
    }

    fn join(self, other: Self) -> Self {
        Self { count: self.count + other.count, greatest: self.greatest.max(other.greatest) }
    }
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn go_round(token: &[AtomicU64], me: u64, count: u64, end_ns: u64) -> Seen {
    let mut seen = Seen::default();
    let (mut last_clock, mut last_counter) = (0, 0);
    loop {
        spin::until(|| {
            token[TURN].load(Ordering::Acquire) % count == me || token[OVER].load(Ordering::Relaxed) != 0
        });
        if token[OVER].load(Ordering::Relaxed) != 0 {
            return seen;
        }
        let (given_clock, given_counter) =
            (token[CLOCK].load(Ordering::Relaxed), token[COUNTER].load(Ordering::Relaxed));
        let counter = tsc();
        let clock = monotonic_ns();
        seen.handovers += 1;
        seen.clock.look(given_clock, clock);
        seen.counter.look(given_counter, counter);
        seen.own.look(last_clock, clock);
        seen.own.look(last_counter, counter);
        (last_clock, last_counter) = (clock, counter);
        // Read again right before passing on: the later the reading, the sharper the test.
        token[COUNTER].store(tsc(), Ordering::Relaxed);
        token[CLOCK].store(monotonic_ns(), Ordering::Relaxed);
        if clock >= end_ns {
            token[OVER].store(1, Ordering::Relaxed);
        }
        token[TURN].fetch_add(1, Ordering::Release);
    }
}

/// Runs the program. Parameters: `seconds` (2), `threads` (0: one per CPU).
///
/// # Errors
/// Parameters that make no sense, or no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["seconds", "threads"])?;
    let seconds = order.seconds("seconds", 2.0)?;
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    let page = Pages::new(1)?;
    let start = monotonic_ns();
    let end = start + (seconds * NS_PER_S) as u64;
    let seen = cpus::on_each(&cpus, |me| go_round(page.words(), me as u64, cpus.len() as u64, end))?;
    let sum = seen.iter().fold(Seen::default(), |sum, seen| Seen {
        handovers: sum.handovers + seen.handovers,
        clock: sum.clock.join(seen.clock),
        counter: sum.counter.join(seen.counter),
        own: sum.own.join(seen.own),
    });
    let mut figures = Object::default();
    figures.add("threads", cpus.len()).add("handovers", sum.handovers);
    figures.add("clock_steps_back", sum.clock.count).add("clock_max_step_ns", sum.clock.greatest);
    figures.add("tsc_steps_back", sum.counter.count).add("tsc_max_step_cycles", sum.counter.greatest);
    figures.add("own_steps_back", sum.own.count).text("clocksource", &cpus::clocksource());
    let ok = sum.clock.count + sum.counter.count + sum.own.count == 0 && sum.handovers > 0;
    Ok(Finding { figures, seconds: (monotonic_ns() - start) as f64 / NS_PER_S, ok })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_from_the_future_is_seen() {
        let page = Pages::new(1).unwrap();
        let token = page.words();
        token[CLOCK].store(monotonic_ns() + 50_000_000_000, Ordering::Relaxed);
        let seen = go_round(token, 0, 1, 0);
        assert_eq!((seen.clock.count, seen.counter.count, seen.own.count), (1, 0, 0));
        assert!(seen.clock.greatest > 40_000_000_000);
    }

    #[test]
    fn time_goes_forward_here() {
        let finding = run(&"clocks:seconds=0.2".parse().unwrap()).unwrap();
        assert!(finding.ok, "{}", finding.figures);
    }
}
