//! A memory tester for memory that moves. Shared pages are handed from CPU to CPU by a lock word in the page
//! itself; whoever holds a page checks every word of it (writer, sequence, place) and stamps it anew.
//! Besides, every CPU keeps some private memory that it checks and rewrites without any locks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Finding;
use crate::cpus;
use crate::json::Object;
use crate::memory::{Pages, PAGE_BYTES, PAGE_WORDS};
use crate::orders::Order;
use crate::random::{mix, Random};
use crate::trouble::Trouble;

/// Words of a shared page before the stamps: the lock, the sequence number, the writer.
const LOCK: usize = 0;
const SEQUENCE: usize = 1;
const WRITER: usize = 2;
const FIRST_STAMP: usize = 3;
/// Pages handled between looks at the clock.
const BATCH: usize = 32;

/// What one thread did and found.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    shared: u64,
    busy: u64,
    private: u64,
    errors: u64,
}

fn stamp(page: usize, word: usize, writer: u64, sequence: u64) -> u64 {
    mix(sequence << 20 ^ writer << 52 ^ (page as u64) << 10 ^ word as u64)
}

/// Takes a page if it is free, checks and stamps it. Gives the wrong words, or `None` where another holds it.
fn handle_shared(page: &[AtomicU64], number: usize, me: u64) -> Option<u64> {
    page[LOCK].compare_exchange(0, me + 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
    let (sequence, writer) = (page[SEQUENCE].load(Ordering::Relaxed), page[WRITER].load(Ordering::Relaxed));
    let expected = |word| if sequence == 0 { 0 } else { stamp(number, word, writer, sequence) };
    let mut errors = 0;
    for (word, value) in page.iter().enumerate().skip(FIRST_STAMP) {
        errors += u64::from(value.load(Ordering::Relaxed) != expected(word));
        value.store(stamp(number, word, me, sequence + 1), Ordering::Relaxed);
    }
    page[SEQUENCE].store(sequence + 1, Ordering::Relaxed);
    page[WRITER].store(me, Ordering::Relaxed);
    // Nobody else may have come in.
    errors += u64::from(page[LOCK].swap(0, Ordering::Release) != me + 1);
    Some(errors)
}

fn handle_private(page: &[AtomicU64], number: usize, me: u64, round: u64) -> u64 {
    let expected = |word| if round == 0 { 0 } else { stamp(number, word, me, round) };
    let mut errors = 0;
    for (word, value) in page.iter().enumerate() {
        errors += u64::from(value.load(Ordering::Relaxed) != expected(word));
        value.store(stamp(number, word, me, round + 1), Ordering::Relaxed);
    }
    errors
}

fn work(me: usize, shared: &Pages, private: &Pages, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut random = Random::new(me as u64);
    let mut place = 0;
    let mut round = 0;
    while Instant::now() < end {
        for _ in 0..BATCH {
            let number = random.below(shared.len() as u64) as usize;
            match handle_shared(shared.page(number), number, me as u64) {
                Some(errors) => {
                    tally.shared += 1;
                    tally.errors += errors;
                }
                None => tally.busy += 1,
            }
            tally.errors += handle_private(private.page(place), place, me as u64, round);
            tally.private += 1;
            place += 1;
            if place == private.len() {
                place = 0;
                round += 1;
            }
        }
    }
    tally
}

/// Runs the program. Parameters: `mb` of shared memory (16), `private_kb` for each CPU (1024), `seconds` (2),
/// `threads`.
///
/// # Errors
/// Parameters that make no sense, or no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["mb", "private_kb", "seconds", "threads"])?;
    let shared = Pages::new(order.number("mb", 16, 1)?.min(1 << 20) as usize * (1 << 20) / PAGE_BYTES)?;
    let private_pages = (order.number("private_kb", 1024, 4)?.min(1 << 30) * 1024) as usize / PAGE_BYTES;
    let seconds = order.seconds("seconds", 2.0)?;
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    let private = cpus.iter().map(|_| Pages::new(private_pages)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let tallies = cpus::on_each(&cpus, |me| work(me, &shared, &private[me], end))?;
    let elapsed = start.elapsed().as_secs_f64();
    let sum = tallies.iter().fold(Tally::default(), |sum, tally| Tally {
        shared: sum.shared + tally.shared,
        busy: sum.busy + tally.busy,
        private: sum.private + tally.private,
        errors: sum.errors + tally.errors,
    });
    // Every hand-over must have left its trace: a lost one would be a page from the past.
    let traces: u64 = (0..shared.len()).map(|page| shared.page(page)[SEQUENCE].load(Ordering::Acquire)).sum();
    let mut figures = Object::default();
    figures
        .add("threads", cpus.len())
        .add("shared_pages", shared.len())
        .add("handovers", sum.shared)
        .add("busy", sum.busy);
    figures.add("private_pages", sum.private).add("words", (sum.shared + sum.private) * PAGE_WORDS as u64);
    figures.add("errors", sum.errors).add("lost_handovers", sum.shared.abs_diff(traces));
    Ok(Finding { figures, seconds: elapsed, ok: sum.errors == 0 && traces == sum.shared && sum.shared > 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_changed_by_itself_is_seen() {
        let pages = Pages::new(2).unwrap();
        assert_eq!(handle_shared(pages.page(1), 1, 0), Some(0));
        assert_eq!(handle_shared(pages.page(1), 1, 3), Some(0));
        pages.page(1)[100].fetch_add(1, Ordering::Relaxed);
        assert_eq!(handle_shared(pages.page(1), 1, 0), Some(1));
        // An older page as a whole is no error in itself: its missing hand-over is.
        pages.page(1)[LOCK].store(9, Ordering::Relaxed);
        assert_eq!(handle_shared(pages.page(1), 1, 0), None);
    }

    #[test]
    fn memory_here_keeps_its_stamps() {
        let finding = run(&"stamps:mb=1:private_kb=64:seconds=0.2".parse().unwrap()).unwrap();
        assert!(finding.ok, "{}", finding.figures);
    }
}
