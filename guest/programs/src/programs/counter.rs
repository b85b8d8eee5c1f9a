//! Locked additions by all CPUs to one word: each counts, also where the word lies across two pages (a split
//! lock: Linux may slow it down or warn, see `split_lock_detect=`; it must not get it wrong).

use std::arch::asm;
use std::time::Instant;

use super::Finding;
use crate::cpus;
use crate::json::Object;
use crate::memory::{Pages, PAGE_BYTES};
use crate::orders::Order;
use crate::trouble::Trouble;

/// `lock xadd`: adds one to the eight bytes at `address`, gives what was there.
///
/// # Safety
/// The bytes lie in memory that is only accessed this way.
unsafe fn add_one(address: usize) -> u64 {
    let mut value: u64 = 1;
    // SAFETY: the caller's promise.
    unsafe { asm!("lock xadd [{}], {}", in(reg) address, inout(reg) value, options(nostack)) };
    value
}

/// All CPUs add `rounds` times. Gives the sum, and how often a CPU got a value that was not greater than the
/// one before.
fn count(pages: &Pages, offset: usize, rounds: u64, cpus: &[usize]) -> Result<(u64, u64), Trouble> {
    let address = pages.address() + offset;
    let steps_back = cpus::on_each(cpus, |_| {
        let (mut last, mut steps_back) = (None, 0);
        for _ in 0..rounds {
            // SAFETY: eight bytes inside `pages`, used for nothing else.
            let before = unsafe { add_one(address) };
            steps_back += u64::from(last.is_some_and(|last| before <= last));
            last = Some(before);
        }
        steps_back
    })?;
    // SAFETY: as above, and all threads are done.
    let sum = unsafe { std::ptr::read_unaligned(address as *const u64) };
    Ok((sum, steps_back.iter().sum()))
}

/// Runs the program. Parameters: `rounds` for each CPU (100000), `split_rounds` (a hundredth of that),
/// `threads`.
///
/// # Errors
/// Parameters that make no sense, or no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["rounds", "split_rounds", "threads"])?;
    let rounds = order.number("rounds", 100_000, 1)?;
    let split_rounds = order.number("split_rounds", rounds / 100, 0)?;
    let cpus = cpus::spread(order.number("threads", 0, 0)?.min(1024) as usize);
    let start = Instant::now();
    let (sum, back) = count(&Pages::new(1)?, 64, rounds, &cpus)?;
    let seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let (split_sum, split_back) = count(&Pages::new(2)?, PAGE_BYTES - 4, split_rounds, &cpus)?;
    let split_seconds = start.elapsed().as_secs_f64();
    let (expected, split_expected) = (rounds * cpus.len() as u64, split_rounds * cpus.len() as u64);
    let mut figures = Object::default();
    figures.add("threads", cpus.len()).add("rounds", rounds).add("sum", sum).add("expected", expected);
    figures
        .add("split_sum", split_sum)
        .add("split_expected", split_expected)
        .float("split_seconds", split_seconds);
    figures.add("steps_back", back + split_back);
    let ok = sum == expected && split_sum == split_expected && back + split_back == 0;
    Ok(Finding { figures, seconds, ok })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_addition_counts_on_both_kinds_of_words() {
        let finding = run(&"counter:rounds=20000:split_rounds=200".parse().unwrap()).unwrap();
        assert!(finding.ok, "{}", finding.figures);
    }
}
