//! A lot of memory, touched first by all CPUs (each its own part, so that the kernel takes it from each
//! node), then checked by others: memory that spans hosts, from end to end.

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::Barrier;
use std::time::Instant;

use super::Finding;
use crate::cpus;
use crate::json::{float, Object};
use crate::memory::{Pages, PAGE_BYTES, PAGE_WORDS};
use crate::orders::Order;
use crate::random::mix;
use crate::trouble::Trouble;

/// Words of each page that are written and checked: its ends and some between.
const WORDS: [usize; 4] = [0, 77, 300, PAGE_WORDS - 1];

fn pattern(page: usize, word: usize) -> u64 {
    mix((page as u64) << 9 | word as u64)
}

/// The pages of part `part` of `parts`.
fn part(pages: usize, parts: usize, part: usize) -> std::ops::Range<usize> {
    pages * part / parts..pages * (part + 1) / parts
}

fn write(memory: &Pages, range: std::ops::Range<usize>) {
    for page in range {
        WORDS.iter().for_each(|&word| memory.page(page)[word].store(pattern(page, word), Ordering::Relaxed));
    }
}

/// Gives the number of wrong words.
fn check(memory: &Pages, range: std::ops::Range<usize>) -> u64 {
    let wrong = |page: usize| {
        let words =
            WORDS.iter().map(|&word| memory.page(page)[word].load(Ordering::Relaxed) != pattern(page, word));
        // A word that nobody wrote must still be zero.
        words.filter(|&wrong| wrong).count() as u64
            + u64::from(memory.page(page)[1].load(Ordering::Relaxed) != 0)
    };
    range.map(wrong).sum()
}

/// Where the kernel placed the memory at `address`: `N0=123 N1=456`, pages by node. Empty without NUMA.
fn placement(address: usize) -> String {
    let maps = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let key = format!("{address:08x} ");
    let line = maps.lines().find(|line| line.starts_with(&key)).unwrap_or_default();
    let is_node = |word: &&str| word.starts_with('N') && word[1..].starts_with(|c: char| c.is_ascii_digit());
    line.split_ascii_whitespace().filter(is_node).collect::<Vec<_>>().join(" ")
}

/// Runs the program. Parameters: `mb` (64), `passes` of checking by ever other CPUs (1), `threads`.
///
/// # Errors
/// Parameters that make no sense, or no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["mb", "passes", "threads"])?;
    let memory = Pages::new((order.number("mb", 64, 1)?.min(1 << 20) as usize * (1 << 20)) / PAGE_BYTES)?;
    let passes = order.number("passes", 1, 1)? as usize;
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    let (count, barrier) = (cpus.len(), Barrier::new(cpus.len()));
    let start = Instant::now();
    let results = cpus::on_each(&cpus, |me| {
        write(&memory, part(memory.len(), count, me));
        let written = start.elapsed().as_secs_f64();
        barrier.wait();
        let wrong: u64 =
            (1..=passes).map(|pass| check(&memory, part(memory.len(), count, (me + pass) % count))).sum();
        (written, wrong)
    })?;
    let wrong: u64 = results.iter().map(|(_, wrong)| wrong).sum();
    let mut figures = Object::default();
    figures.add("threads", count).add("pages", memory.len()).add("wrong", wrong);
    figures.list("write_s", results.iter().map(|&(seconds, _)| float(seconds)));
    figures.text("placement", &placement(memory.address()));
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok: wrong == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        let covered: Vec<usize> = (0..3).flat_map(|index| part(10, 3, index)).collect();
        assert_eq!(covered, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_wrong_word_and_a_word_from_nowhere_are_counted() {
        let memory = Pages::new(4).unwrap();
        write(&memory, 0..4);
        assert_eq!(check(&memory, 0..4), 0);
        memory.page(2)[77].store(0, Ordering::Relaxed);
        memory.page(3)[1].store(1, Ordering::Relaxed);
        assert_eq!(check(&memory, 0..4), 2);
    }
}
