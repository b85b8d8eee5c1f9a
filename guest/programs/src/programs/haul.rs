//! Memory that moves away, in steps that somebody outside can look at: every CPU fills its own part; the first CPU
//! rewrites a piece of the last CPU's; all is checked. After each step the program says `TESSERA-PHASE name` and waits
//! for a line on its input.

use std::io::BufRead;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Finding;
use crate::cpus;
use crate::init::say;
use crate::json::Object;
use crate::memory::{Pages, PAGE_BYTES, PAGE_WORDS};
use crate::orders::Order;
use crate::random::mix;
use crate::trouble::Trouble;

/// Words of each page that are written and checked.
const WORDS: [usize; 3] = [0, 200, PAGE_WORDS - 1];

fn pattern(page: usize, word: usize, generation: u64) -> u64 {
    mix((page as u64) << 12 | (word as u64) << 2 | generation)
}

fn write(memory: &Pages, range: Range<usize>, generation: u64) {
    for page in range {
        for word in WORDS {
            memory.page(page)[word].store(pattern(page, word, generation), Ordering::Relaxed);
        }
    }
}

/// Gives the number of wrong words.
fn check(memory: &Pages, range: Range<usize>, generation: u64) -> u64 {
    let wrong = |page: usize| {
        let right = |&&word: &&usize| {
            memory.page(page)[word].load(Ordering::Relaxed) == pattern(page, word, generation)
        };
        (WORDS.len() - WORDS.iter().filter(right).count()) as u64
    };
    range.map(wrong).sum()
}

/// Says that a phase is over, and waits until somebody has looked.
fn pause(phase: &str) -> Result<(), Trouble> {
    say(&format!("TESSERA-PHASE {phase}\n"));
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) => Err(Trouble::Unfit("the input has ended".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(Trouble::os("reading a line")(error)),
    }
}

/// Runs the program. Parameters: `mb` in all (64), `pull_mb` that the first CPU takes of the last one's (8).
///
/// # Errors
/// Parameters that make no sense, no memory, or an input that ends.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["mb", "pull_mb"])?;
    let pages = |mib: u64| mib.min(1 << 20) as usize * (1 << 20) / PAGE_BYTES;
    let memory = Pages::new(pages(order.number("mb", 64, 1)?))?;
    let cpus = cpus::usable();
    let share = memory.len() / cpus.len();
    let last = (cpus.len() - 1) * share..memory.len();
    let pulled = last.start..last.start + pages(order.number("pull_mb", 8, 1)?).min(last.len());
    let part = |me: usize| if me + 1 == cpus.len() { last.clone() } else { me * share..(me + 1) * share };

    let start = Instant::now();
    let mut wrong: u64 = cpus::on_each(&cpus, |me| {
        write(&memory, part(me), 0);
        check(&memory, part(me), 0)
    })?
    .iter()
    .sum();
    let filled = start.elapsed().as_secs_f64();
    pause("filled")?;
    let start = Instant::now();
    wrong += cpus::on_each(&cpus[..1], |_| {
        let wrong = check(&memory, pulled.clone(), 0);
        write(&memory, pulled.clone(), 1);
        wrong
    })?
    .iter()
    .sum::<u64>();
    let pulled_s = start.elapsed().as_secs_f64();
    pause("pulled")?;
    wrong += cpus::on_each(&cpus, |me| match me {
        _ if cpus.len() == 1 => check(&memory, pulled.clone(), 1) + check(&memory, pulled.end..last.end, 0),
        0 => check(&memory, part(0), 0) + check(&memory, pulled.clone(), 1),
        _ if me + 1 == cpus.len() => check(&memory, pulled.end..last.end, 0),
        _ => check(&memory, part(me), 0),
    })?
    .iter()
    .sum::<u64>();
    let mut figures = Object::default();
    figures.add("cpus", cpus.len()).add("pages", memory.len()).add("pulled_pages", pulled.len());
    figures.add("wrong", wrong).float("pulled_s", pulled_s);
    Ok(Finding { figures, seconds: filled, ok: wrong == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_wrong_generation_is_wrong() {
        let memory = Pages::new(4).unwrap();
        write(&memory, 0..4, 0);
        assert_eq!(check(&memory, 0..4, 0), 0);
        write(&memory, 2..3, 1);
        assert_eq!(check(&memory, 0..4, 0), WORDS.len() as u64);
        assert_eq!(check(&memory, 2..3, 1), 0);
    }
}
