//! Memory from end to end, and the page tables that lead to it.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;

use crate::runtime::arena::Page;
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;
use crate::runtime::paging::Window;
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console, gates};

/// Pieces that `mem_touch` takes, one from each stripe of memory by turns.
const PIECES: usize = 64;
/// Words of each page that are stamped.
const STAMPED: [usize; 3] = [0, 200, 511];

/// Every page of `mb=` of untouched memory, spread over all of the guest's, is stamped by one CPU and then
/// read by each other. What nobody wrote must be zero.
pub fn mem_touch(machine: &Machine) -> bool {
    let pages = (machine.number("mb", 16) * 256) as usize;
    let cpus = machine.cpus();
    let each = pages.div_ceil(PIECES).max(1);
    let pieces = machine.arena.page();
    for piece in 0..PIECES {
        let memory = machine.arena.untouched(each);
        pieces.word(piece).store(memory.as_ptr() as u64, Ordering::Relaxed);
    }
    let found = machine.arena.pages(cpus);
    let page = move |number: usize| -> &'static Page {
        let start = pieces.word(number / each).load(Ordering::Relaxed) as *const Page;
        // SAFETY: the piece has `each` pages of the arena.
        unsafe { &*start.add(number % each) }
    };
    let start = clock::now();
    let all = PIECES * each;
    machine.run(move |cpu| {
        for number in (cpu..all).step_by(cpus) {
            STAMPED
                .iter()
                .for_each(|&word| page(number).word(word).store(stamp(number, word), Ordering::Relaxed));
        }
    });
    for shift in 0..cpus {
        machine.run(move |cpu| {
            let mut wrong = 0;
            for number in ((cpu + shift) % cpus..all).step_by(cpus) {
                let page = page(number);
                wrong += STAMPED
                    .iter()
                    .filter(|&&word| page.word(word).load(Ordering::Relaxed) != stamp(number, word))
                    .count();
                wrong += usize::from(page.word(100).load(Ordering::Relaxed) != 0);
            }
            found[cpu].word(0).fetch_add(wrong as u64, Ordering::AcqRel);
        });
    }
    let wrong: u64 = found.iter().map(|page| page.word(0).load(Ordering::Acquire)).sum();
    let mut line = Line::new("mem_touch");
    line.number("cpus", cpus as u64).number("pages", all as u64).number("wrong", wrong);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(wrong == 0)));
    wrong == 0
}

fn stamp(page: usize, word: usize) -> u64 {
    Random::new((page as u64) << 9 | word as u64).word()
}

/// Entries of the shared table page that change.
const CHANGING: usize = 8;
/// Entries that stay as they are, for readers that only translate.
const STEADY: usize = 64;

/// CPU 0 rewrites entries of a table page that all CPUs translate through. Once it has said that an entry
/// leads to its new page, whoever then drops its translation and reads must see the new page; entries that
/// stay must lead where they always have. `rounds=` rewrites.
pub fn tablepage(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 2000);
    let cpus = machine.cpus();
    if cpus < 2 {
        fail(Status::Usage, format_args!("tablepage needs two CPUs"));
    }
    let window = Window::new(&machine.arena, 1);
    // Two frames for each changing entry; each holds its own number.
    let frames = machine.arena.pages(2 * CHANGING);
    let steady = machine.arena.pages(STEADY);
    let said = machine.arena.page();
    let found = machine.arena.pages(cpus);
    frames.iter().zip(0..).for_each(|(frame, number)| frame.word(0).store(number, Ordering::Relaxed));
    for (page, index) in steady.iter().zip(0..) {
        page.word(0).store(1000 + index as u64, Ordering::Relaxed);
        window.map(CHANGING + index, page);
    }
    (0..CHANGING).for_each(|entry| window.map(entry, &frames[2 * entry]));
    let start = clock::now();
    machine.run(move |cpu| match cpu {
        0 => rewrite(window, frames, said, found, rounds),
        _ => translate(window, said, &found[cpu], rounds),
    });
    let sum = |word: usize| found.iter().map(|page| page.word(word).load(Ordering::Acquire)).sum::<u64>();
    let (stale, strange, reads) = (sum(1), sum(2), sum(3));
    let mut line = Line::new("tablepage");
    line.number("cpus", cpus as u64).number("rounds", rounds).number("reads", reads);
    line.number("stale", stale).number("strange", strange).thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(stale + strange == 0)));
    stale + strange == 0
}

/// Round r (from 1) changes entry r % CHANGING to its other frame, says so, and waits until all have looked.
fn rewrite(
    window: Window,
    frames: &'static [Page],
    said: &'static Page,
    found: &'static [Page],
    rounds: u64,
) {
    for round in 1..=rounds {
        let (entry, frame) = changed(round);
        window.map(entry, &frames[frame as usize]);
        said.word(0).store(round, Ordering::Release);
        for page in &found[1..] {
            wait_until("a reader's look", || page.word(0).load(Ordering::Acquire) >= round);
        }
    }
}

/// The entry that changes in a round, and the number of the frame that it leads to then.
fn changed(round: u64) -> (usize, u64) {
    let (entry, times) = (round % CHANGING as u64, round.div_ceil(CHANGING as u64));
    (entry as usize, 2 * entry + times % 2)
}

fn translate(window: Window, said: &'static Page, found: &'static Page, rounds: u64) {
    let (mut stale, mut strange, mut reads) = (0, 0, 0);
    let mut random = Random::new(found.address());
    for round in 1..=rounds {
        wait_until("a rewrite", || {
            let index = random.below(STEADY as u64) as usize;
            gates::invlpg(window.start + ((CHANGING + index) as u64) * 4096);
            strange += u64::from(window.read(CHANGING + index) != 1000 + index as u64);
            reads += 1;
            said.word(0).load(Ordering::Acquire) >= round
        });
        let (entry, frame) = changed(round);
        gates::invlpg(window.start + entry as u64 * 4096);
        let value = window.read(entry);
        stale += u64::from(value == frame ^ 1);
        strange += u64::from(value != frame && value != frame ^ 1);
        found.word(0).store(round, Ordering::Release);
    }
    found.word(1).store(stale, Ordering::Relaxed);
    found.word(2).store(strange, Ordering::Relaxed);
    found.word(3).store(reads, Ordering::Release);
}
