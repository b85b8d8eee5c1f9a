//! What one access costs when its page is elsewhere, as the CPU that waits sees it.
//!
//! CPU `to=` (1) measures, CPU `from=` (0) has the pages: `read` (written there, read here), `write` (written
//! there, written here), `upgrade` (read by both, then written here), `first` (touched by nobody, written
//! here), `pingpong` (one word, half a round trip), `ipi` (from sending an interrupt to seeing its count,
//! both ways of the count's page included). `rounds=` samples of each. Compare with the same CPUs on one node
//! for what the measurement itself costs.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::samples::{cycles_to_ns, summarise, Summary};

use crate::runtime::arena::Page;
use crate::runtime::exit::{fail, Status};
use crate::runtime::interrupts::{self, To, What, FIRST_FREE_VECTOR};
use crate::runtime::machine::Machine;
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console};

/// Pages measured at a time.
const BATCH: usize = 64;
/// Samples of each kind at most.
const MOST: u64 = 8192;
/// Vector of the interrupt that is measured.
const VECTOR: u8 = FIRST_FREE_VECTOR + 6;
/// Before each access, so that accesses do not run into each other's page.
const PAUSE_US: u64 = 20;

/// What is done to pages before and when they are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Upgrade,
}

/// The two CPUs, and where samples go.
#[derive(Clone, Copy)]
struct Setting {
    from: usize,
    to: usize,
    samples: &'static [Page],
}

impl Setting {
    fn record(&self, number: u64, cycles: u64) {
        self.samples[(number / 512) as usize].word((number % 512) as usize).store(cycles, Ordering::Relaxed);
    }

    /// The samples of a measurement, summed up; the buffer is free again.
    fn summary(&self, count: u64) -> Summary {
        let start = self.samples.as_ptr().cast::<u64>().cast_mut();
        // SAFETY: the sample pages are adjacent, hold at least `count` words, and no job is running.
        summarise(unsafe { core::slice::from_raw_parts_mut(start, count as usize) })
    }
}

/// See the module.
pub fn latency(machine: &Machine) -> bool {
    let setting = Setting {
        from: machine.cpu("from", 0),
        to: machine.cpu("to", 1),
        samples: machine.arena.pages((MOST / 512) as usize),
    };
    if setting.from == setting.to {
        fail(Status::Usage, format_args!("latency needs two CPUs"));
    }
    let rounds = machine.number("rounds", 1000).clamp(1, MOST);
    let start = clock::now();
    let mut line = Line::new("latency");
    line.number("from", setting.from as u64).number("to", setting.to as u64).number("tsc_khz", clock::khz());
    for (name, kind) in [("read", Kind::Read), ("write", Kind::Write), ("upgrade", Kind::Upgrade)] {
        add(&mut line, name, faults(machine, setting, kind, rounds));
    }
    add(&mut line, "first", first_touch(machine, setting, rounds.min(machine.arena.left() / 4)));
    add(&mut line, "pingpong", pingpong(machine, setting, rounds));
    add(&mut line, "ipi", interrupt(machine, setting, rounds));
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(true)));
    true
}

/// Microseconds with three decimals: p50, p99, max, mean, and the median in cycles.
fn add(line: &mut Line, name: &str, summary: Summary) {
    let ns = |cycles| cycles_to_ns(cycles, clock::khz());
    let (p50, p99, max, mean) = (ns(summary.p50), ns(summary.p99), ns(summary.max), ns(summary.mean));
    line.raw(
        name,
        format_args!(
            "{{\"count\":{},\"p50_us\":{}.{:03},\"p99_us\":{}.{:03},\"max_us\":{}.{:03},\"mean_us\":{}.{:03},\"p50_cycles\":{}}}",
            summary.count, p50 / 1000, p50 % 1000, p99 / 1000, p99 % 1000, max / 1000, max % 1000, mean / 1000, mean % 1000, summary.p50
        ),
    );
}

fn timed(access: impl FnOnce()) -> u64 {
    clock::spin(clock::us(PAUSE_US));
    let start = clock::now();
    access();
    clock::now() - start
}

fn faults(machine: &Machine, setting: Setting, kind: Kind, rounds: u64) -> Summary {
    let pages = machine.arena.pages(BATCH);
    let mut done = 0;
    while done < rounds {
        let batch = (rounds - done).min(BATCH as u64);
        let (first, value) = (done, done + 1);
        machine.run(move |cpu| {
            if cpu == setting.from {
                pages.iter().for_each(|page| page.word(1).store(value, Ordering::Relaxed));
            }
        });
        if kind == Kind::Upgrade {
            machine.run(move |cpu| {
                if cpu == setting.to {
                    pages.iter().for_each(|page| check(page, value));
                }
            });
            machine.run(move |cpu| {
                if cpu == setting.from {
                    pages.iter().for_each(|page| check(page, value));
                }
            });
        }
        machine.run(move |cpu| {
            if cpu == setting.to {
                for (page, number) in pages.iter().zip(first..first + batch) {
                    let cycles = match kind {
                        Kind::Read => timed(|| check(page, value)),
                        Kind::Write | Kind::Upgrade => timed(|| page.word(2).store(value, Ordering::Relaxed)),
                    };
                    setting.record(number, cycles);
                }
            }
        });
        done += batch;
    }
    setting.summary(rounds)
}

fn check(page: &Page, value: u64) {
    let found = page.word(1).load(Ordering::Relaxed);
    if found != value {
        fail(Status::Failed, format_args!("latency: a page holds {found}, not {value}"));
    }
}

fn first_touch(machine: &Machine, setting: Setting, rounds: u64) -> Summary {
    let pages = machine.arena.untouched(rounds.max(1) as usize);
    machine.run(move |cpu| {
        if cpu == setting.to {
            for (page, number) in pages.iter().zip(0..) {
                setting.record(number, timed(|| page.word(0).store(1, Ordering::Relaxed)));
            }
        }
    });
    setting.summary(rounds.max(1))
}

fn pingpong(machine: &Machine, setting: Setting, rounds: u64) -> Summary {
    let ball = machine.arena.page().word(0);
    machine.run(move |cpu| {
        for round in 0..rounds {
            if cpu == setting.from {
                wait_until("the ball's coming back", || ball.load(Ordering::Acquire) == 2 * round);
                ball.store(2 * round + 1, Ordering::Release);
            } else if cpu == setting.to {
                let start = clock::now();
                wait_until("the ball", || ball.load(Ordering::Acquire) == 2 * round + 1);
                ball.store(2 * round + 2, Ordering::Release);
                setting.record(round, (clock::now() - start) / 2);
            }
        }
    });
    setting.summary(rounds)
}

fn interrupt(machine: &Machine, setting: Setting, rounds: u64) -> Summary {
    let target = machine.block(setting.from);
    let over = machine.arena.page().word(0);
    machine.run(move |cpu| {
        if cpu == setting.to {
            for round in 0..rounds {
                let cycles = timed(|| {
                    interrupts::send(To::Cpu(target.apic_id()), What::Fixed(VECTOR));
                    wait_until("an interrupt's count", || {
                        target.count(VECTOR).load(Ordering::Acquire) > round
                    });
                });
                setting.record(round, cycles);
            }
            over.store(1, Ordering::Release);
        } else if cpu == setting.from {
            wait_until("the end of the interrupts", || over.load(Ordering::Acquire) != 0);
        }
    });
    target.count(VECTOR).store(0, Ordering::Release);
    setting.summary(rounds)
}
