//! What one access costs when its page is elsewhere, by the time-stamp counter of the CPU that waits.

use core::sync::atomic::Ordering;

use payload_core::line::Line;

use super::bench::{add, from, rounds, timed, turn, Samples, BATCH};
use crate::runtime::arena::Page;
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console};

/// Before each access: longer than a granted page is kept by default.
const PAUSE_US: u64 = 100;

/// What is done to pages when they are measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// A store where CPU 0 has a read copy already.
    Upgrade,
}

/// CPU `from=` writes pages of stripe `stripe=`, then CPU 0 does `kind=read|write|upgrade` to each of them. For an
/// upgrade, CPUs 1 to `sharers=` and CPU 0 itself have read the pages before.
pub fn bench_fault(machine: &Machine) -> bool {
    let name = machine.cmdline.word("kind").unwrap_or("read");
    let kind = match name {
        "read" => Kind::Read,
        "write" => Kind::Write,
        "upgrade" => Kind::Upgrade,
        _ => fail(Status::Usage, format_args!("kind={name}: read, write or upgrade")),
    };
    let (from, rounds) = (from(machine), rounds(machine, 2048));
    let sharers = machine.number("sharers", 1) as usize;
    let stripe = machine.number("stripe", 7) as usize;
    let samples = Samples::new(machine, rounds);
    let pages = machine.arena.untouched_of(stripe, BATCH);
    let start = clock::now();
    let mut done = 0;
    while done < rounds {
        let value = done + 1;
        machine.run(move |cpu| {
            if cpu == from {
                pages.iter().for_each(|page| page.word(1).store(value, Ordering::Relaxed));
            }
        });
        if kind == Kind::Upgrade {
            machine.run(move |cpu| {
                if cpu <= sharers {
                    pages.iter().for_each(|page| check(page, value));
                }
            });
        }
        let batch = (rounds - done).min(BATCH as u64);
        for number in 0..batch {
            let page = &pages[turn(number as usize)];
            let cycles = match kind {
                Kind::Read => timed(PAUSE_US, || check(page, value)),
                Kind::Write | Kind::Upgrade => {
                    timed(PAUSE_US, || page.word(2).store(value, Ordering::Relaxed))
                }
            };
            samples.record(done + number, cycles);
        }
        done += batch;
    }
    let mut line = Line::new("bench_fault");
    line.text("kind", name).number("from", from as u64).number("sharers", sharers as u64);
    line.number("stripe", stripe as u64);
    add(&mut line, "access", samples.summary(rounds));
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(true)));
    true
}

fn check(page: &Page, value: u64) {
    let found = page.word(1).load(Ordering::Relaxed);
    if found != value {
        fail(Status::Failed, format_args!("bench_fault: a page holds {found}, not {value}"));
    }
}

/// CPU 0 reads pages that nobody has touched: what filling a page costs, where it is filled one by one.
pub fn bench_touch(machine: &Machine) -> bool {
    let rounds = rounds(machine, 2048).min(machine.arena.left() / 2) / BATCH as u64 * BATCH as u64;
    let samples = Samples::new(machine, rounds);
    let start = clock::now();
    let pages = machine.arena.untouched_of(1, rounds as usize);
    for number in 0..rounds {
        let at = number as usize / BATCH * BATCH + turn(number as usize);
        let word = pages[at].word(1);
        samples.record(number, timed(PAUSE_US, || _ = word.load(Ordering::Relaxed)));
    }
    let mut line = Line::new("bench_touch");
    add(&mut line, "access", samples.summary(rounds));
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(true)));
    true
}

/// CPU 0 and CPU `from=` pass a word to and fro: half of each round trip.
pub fn bench_pingpong(machine: &Machine) -> bool {
    let (from, rounds) = (from(machine), rounds(machine, 2048));
    let samples = Samples::new(machine, rounds);
    let ball = machine.arena.untouched_of(machine.number("stripe", 7) as usize, 1)[0].word(0);
    let start = clock::now();
    machine.run(move |cpu| {
        for round in 0..rounds {
            if cpu == from {
                wait_until("the ball", || ball.load(Ordering::Acquire) == 2 * round + 1);
                ball.store(2 * round + 2, Ordering::Release);
            } else if cpu == 0 {
                let start = clock::now();
                ball.store(2 * round + 1, Ordering::Release);
                wait_until("the ball's coming back", || ball.load(Ordering::Acquire) == 2 * round + 2);
                samples.record(round, (clock::now() - start) / 2);
            }
        }
    });
    let mut line = Line::new("bench_pingpong");
    line.number("from", from as u64);
    add(&mut line, "half", samples.summary(rounds));
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(true)));
    true
}
