//! Time: the counter goes forward for all CPUs together, and every timer that was armed goes off, not early.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;
use payload_core::samples::cycles_to_ns;

use crate::runtime::arena::Page;
use crate::runtime::exit::{fail, Status};
use crate::runtime::gates;
use crate::runtime::interrupts::{self, FIRST_FREE_VECTOR};
use crate::runtime::machine::Machine;
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console};

/// Vector of the timer.
const TIMER: u8 = FIRST_FREE_VECTOR + 5;
/// Longest time that a timer is armed for.
const LONGEST_US: u64 = 2000;

/// A token with the last reading goes round all CPUs, `rounds=` times; nobody may read an earlier time than
/// the one that came with the token, nor than its own last. Odd rounds use RDTSCP where there is one.
pub fn tsc(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 10_000);
    let cpus = machine.cpus() as u64;
    let token = machine.arena.page();
    let found = machine.arena.pages(machine.cpus());
    let rdtscp = gates::cpuid(0x8000_0001, 0)[3] >> 27 & 1 != 0;
    let start = clock::now();
    machine.run(move |cpu| {
        let (turn, reading) = (token.word(0), token.word(8));
        let (mut last, mut back, mut worst) = (0, 0, 0);
        for round in 0..rounds {
            let mine = round * cpus + cpu as u64;
            wait_until("the token's arrival", || turn.load(Ordering::Acquire) == mine);
            let given = reading.load(Ordering::Relaxed).max(last);
            let now = if rdtscp && round % 2 == 1 { clock::now_rdtscp() } else { clock::now() };
            if now < given {
                back += 1;
                worst = worst.max(given - now);
            }
            last = clock::now();
            reading.store(last, Ordering::Relaxed);
            turn.store(mine + 1, Ordering::Release);
        }
        found[cpu].word(1).store(worst, Ordering::Relaxed);
        found[cpu].word(0).store(back, Ordering::Release);
    });
    let back: u64 = found.iter().map(|page| page.word(0).load(Ordering::Acquire)).sum();
    let worst = found.iter().map(|page| page.word(1).load(Ordering::Relaxed)).max().unwrap_or(0);
    let mut line = Line::new("tsc");
    line.number("cpus", cpus)
        .number("handovers", rounds * cpus)
        .number("steps_back", back)
        .number("max_step_cycles", worst);
    line.raw("rdtscp", format_args!("{rdtscp}")).thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(back == 0)));
    back == 0
}

/// Every CPU arms its TSC-deadline timer `rounds=` times for up to 2 ms; each deadline must give one
/// interrupt, and none before its time. Every other wait is a HLT.
pub fn timer(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 500);
    let seed = machine.number("seed", 1);
    if gates::cpuid(1, 0)[2] >> 24 & 1 == 0 {
        fail(Status::Usage, format_args!("timer: CPUID has no TSC-deadline timer"));
    }
    let blocks = machine.blocks();
    let found: &'static [Page] = machine.arena.pages(machine.cpus());
    let start = clock::now();
    machine.run(move |cpu| {
        let count = blocks.get(cpu).count(TIMER);
        let mut random = Random::new(seed << 8 | cpu as u64);
        let (mut early, mut latest) = (0, 0);
        interrupts::timer_mode(TIMER);
        for round in 0..rounds {
            let deadline = clock::now() + clock::us(1 + random.below(LONGEST_US));
            interrupts::timer_arm(deadline);
            wait_until("the interrupt of an armed timer", || {
                if round % 2 == 1 {
                    gates::wait_while(count, round);
                }
                count.load(Ordering::Acquire) > round
            });
            let now = clock::now();
            early += u64::from(now < deadline);
            latest = now.saturating_sub(deadline).max(latest);
        }
        clock::spin(clock::us(2 * LONGEST_US));
        found[cpu].word(2).store(count.swap(0, Ordering::AcqRel).abs_diff(rounds), Ordering::Relaxed);
        found[cpu].word(1).store(latest, Ordering::Relaxed);
        found[cpu].word(0).store(early, Ordering::Release);
    });
    let sum = |word: usize| found.iter().map(|page| page.word(word).load(Ordering::Acquire)).sum::<u64>();
    let (early, wrong) = (sum(0), sum(2));
    let latest = found.iter().map(|page| page.word(1).load(Ordering::Relaxed)).max().unwrap_or(0);
    let mut line = Line::new("timer");
    line.number("cpus", machine.cpus() as u64)
        .number("rounds", rounds)
        .number("early", early)
        .number("wrong", wrong);
    line.number("max_late_us", cycles_to_ns(latest, clock::khz()) / 1000)
        .thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(early == 0 && wrong == 0)));
    early == 0 && wrong == 0
}
