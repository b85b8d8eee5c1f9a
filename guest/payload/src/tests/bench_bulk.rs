//! Much memory at a time: a scan of another node's, passes over one's own, and faults of many CPUs at once.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;
use payload_core::samples::cycles_to_ns;

use super::bench::{from, rounds, turn, BATCH};
use crate::runtime::arena::{Page, STRIPES};
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console};

/// The first stripe that lies wholly in the second half of memory, which is the last of two nodes' own.
const SCANNED: usize = STRIPES / 2 + 1;
/// Bytes of a MiB.
const MIB: u64 = 1 << 20;
/// From the order to the start of what all CPUs do together.
const LEAD_US: u64 = 20_000;

/// CPU `from=` writes `mb=` MiB of its own node's memory, then CPU 0 reads all words of it in order.
pub fn bench_scan(machine: &Machine) -> bool {
    let (from, mib) = (from(machine), machine.number("mb", 64));
    let each = (mib * 256).div_ceil((STRIPES - SCANNED) as u64) as usize;
    let pieces = core::array::from_fn::<_, { STRIPES - SCANNED }, _>(|index| {
        machine.arena.untouched_of(SCANNED + index, each)
    });
    let pages = pieces.len() * each;
    machine.run(move |cpu| {
        if cpu == from {
            let numbered = pieces.iter().flat_map(|piece| piece.iter()).zip(1..);
            numbered.for_each(|(page, number)| page.word(0).store(number, Ordering::Relaxed));
        }
    });
    let start = clock::now();
    let scanned = pieces.iter().flat_map(|piece| piece.iter());
    let sum = scanned.fold(0_u64, |sum, page| sum.wrapping_add(sum_of(page)));
    let cycles = clock::now() - start;
    let right = sum == (1..=pages as u64).sum();
    let kib_per_s = (pages as u64 * 4).saturating_mul(1_000_000_000) / ns(cycles).max(1);
    let mut line = Line::new("bench_scan");
    line.number("pages", pages as u64).thousandths("mib_per_s", kib_per_s * 1000 / 1024);
    line.thousandths("seconds", ns(cycles) / 1_000_000);
    console::print(format_args!("{}", line.end(right)));
    right
}

fn sum_of(page: &Page) -> u64 {
    page.words.iter().fold(0, |sum, word| sum.wrapping_add(word.load(Ordering::Relaxed)))
}

/// CPU 0 alone uses `mb=` MiB of its node's memory: first touch, then `passes=` times as many random additions as
/// there are pages. The fastest pass is the one that nothing else on the machine disturbed.
pub fn bench_private(machine: &Machine) -> bool {
    let (mib, passes) = (machine.number("mb", 32), machine.number("passes", 200).max(1));
    let pages = machine.arena.untouched_of(1, (mib * MIB / 4096) as usize);
    let start = clock::now();
    pages.iter().for_each(|page| page.word(0).store(1, Ordering::Relaxed));
    let touched = clock::now();
    let mut random = Random::new(7);
    let mut fastest = u64::MAX;
    for _ in 0..passes {
        let pass = clock::now();
        for _ in 0..pages.len() {
            let page = &pages[random.below(pages.len() as u64) as usize];
            page.word(random.below(512) as usize).fetch_add(1, Ordering::Relaxed);
        }
        fastest = fastest.min(clock::now() - pass);
    }
    let end = clock::now();
    let accesses = passes * pages.len() as u64;
    let counted = pages.iter().fold(0_u64, |sum, page| sum.wrapping_add(sum_of(page)));
    let right = counted == accesses + pages.len() as u64;
    let mut line = Line::new("bench_private");
    line.number("pages", pages.len() as u64).number("accesses", accesses);
    line.number("touch_ps_per_page", ns(touched - start) * 1000 / pages.len() as u64);
    line.number("access_ps", ns(end - touched) * 1000 / accesses.max(1));
    line.number("fastest_ps", ns(fastest) * 1000 / pages.len() as u64);
    line.thousandths("seconds", ns(end - start) / 1_000_000);
    console::print(format_args!("{}", line.end(right)));
    right
}

/// CPUs 0 to `readers=` - 1 each read `rounds=` pages that the last CPU has written, all at the same time.
pub fn bench_rate(machine: &Machine) -> bool {
    let (owner, readers) = (machine.cpus() - 1, machine.number("readers", 1) as usize);
    if readers == 0 || readers > owner {
        fail(Status::Usage, format_args!("readers={readers} and the owner are more than {} CPUs", owner + 1));
    }
    let each = rounds(machine, 1024) as usize / BATCH * BATCH;
    let pages = machine.arena.untouched_of(7, readers * each);
    let found = machine.arena.pages_of(0, readers + 1);
    machine.run(move |cpu| {
        if cpu == owner {
            pages.iter().for_each(|page| page.word(1).store(1, Ordering::Relaxed));
        }
    });
    let start = clock::now() + clock::us(LEAD_US);
    machine.run(move |cpu| {
        if cpu < readers {
            wait_until("the start", || clock::now() >= start);
            let own = &pages[cpu * each..(cpu + 1) * each];
            let order = (0..each).map(|number| &own[number / BATCH * BATCH + turn(number)]);
            let read = order.fold(0, |sum, page| sum + page.word(1).load(Ordering::Relaxed));
            found[cpu].word(0).store(read, Ordering::Relaxed);
            found[cpu].word(1).store(clock::now(), Ordering::Release);
        }
    });
    let ends = found[..readers].iter().map(|page| page.word(1).load(Ordering::Acquire));
    let cycles = ends.max().unwrap_or(0).saturating_sub(start);
    let right = found[..readers].iter().all(|page| page.word(0).load(Ordering::Relaxed) == each as u64);
    let faults = (readers * each) as u64;
    let mut line = Line::new("bench_rate");
    line.number("readers", readers as u64).number("faults", faults);
    line.number("faults_per_s", faults * 1_000_000_000 / ns(cycles).max(1));
    line.thousandths("seconds", ns(cycles) / 1_000_000);
    console::print(format_args!("{}", line.end(right)));
    right
}

fn ns(cycles: u64) -> u64 {
    cycles_to_ns(cycles, clock::khz())
}
