//! What a kernel does by interrupts between CPUs, again and again: memory barriers on all CPUs, translations
//! that must be gone everywhere before a call returns, threads that hop from CPU to CPU.

use std::ptr::NonNull;
use std::sync::atomic::{compiler_fence, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Finding;
use crate::cpus;
use crate::json::Object;
use crate::memory::{Pages, PAGE_BYTES};
use crate::orders::Order;
use crate::spin;
use crate::trouble::Trouble;

/// `membarrier(2)` commands.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// What a phase did, and what went wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    rounds: u64,
    wrong: u64,
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call has no memory arguments.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// The asymmetric store-buffer test. Heavy side: store round r, `membarrier`, read the light side's count b.
/// Light side: store count n, (nothing but a compiler barrier), read the round. After the barrier every count
/// from b + 1 on must see round r: otherwise a CPU went on without the barrier's interrupt.
fn barriers(cpus: &[usize], end: Instant) -> Result<Tally, Trouble> {
    if !membarrier(REGISTER_PRIVATE_EXPEDITED) {
        return Err(Trouble::last_os("membarrier, registering"));
    }
    // Page 0: the round. Page i of `counts`: the count of light thread i. Page i of `firsts`: the last round
    // that it has seen, and the count at which it saw it first.
    let (counts, firsts) = (Pages::new(cpus.len())?, Pages::new(cpus.len())?);
    let round = counts.lone(0);
    let tallies = cpus::on_each(cpus, |me| {
        if me == 0 {
            let tally = heavy_side(round, &counts, &firsts, end);
            round.store(u64::MAX, Ordering::Relaxed);
            return tally;
        }
        let (mut count, mut last) = (0, 0);
        while last != u64::MAX {
            count += 1;
            counts.lone(me).store(count, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            let seen = round.load(Ordering::Relaxed);
            if seen != last {
                last = seen;
                firsts.page(me)[1].store(count, Ordering::Relaxed);
                firsts.page(me)[0].store(seen, Ordering::Release);
            }
        }
        Tally::default()
    })?;
    Ok(tallies[0])
}

fn heavy_side(round: &AtomicU64, counts: &Pages, firsts: &Pages, end: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut before = vec![0; counts.len()];
    while Instant::now() < end {
        tally.rounds += 1;
        round.store(tally.rounds, Ordering::Relaxed);
        tally.wrong += u64::from(!membarrier(PRIVATE_EXPEDITED));
        for (light, before) in before.iter_mut().enumerate().skip(1) {
            *before = counts.lone(light).load(Ordering::Relaxed);
        }
        for (light, before) in before.iter().enumerate().skip(1) {
            spin::until(|| firsts.page(light)[0].load(Ordering::Acquire) >= tally.rounds);
            tally.wrong += u64::from(firsts.page(light)[1].load(Ordering::Relaxed) > before + 1);
        }
    }
    tally
}

/// A page of a file that is mapped twice: at an address of its own for writing, and by turns at the window's
/// address.
struct Window {
    file: libc::c_int,
    start: NonNull<AtomicU64>,
}

// SAFETY: the window is only read, as atomics.
unsafe impl Sync for Window {}

impl Window {
    /// Pages that the window shows by turns.
    const PAGES: usize = 2;

    fn new() -> Result<Self, Trouble> {
        // SAFETY: a valid name; the file is this value's own.
        let file = unsafe { libc::memfd_create(c"window".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: as above.
        if file < 0 || unsafe { libc::ftruncate(file, (Self::PAGES * PAGE_BYTES) as i64) } != 0 {
            return Err(Trouble::last_os("memfd_create of two pages"));
        }
        let start =
            Self::map(file, std::ptr::null_mut(), 0).ok_or_else(|| Trouble::last_os("mmap of the window"))?;
        Ok(Self { file, start })
    }

    fn map(file: libc::c_int, at: *mut libc::c_void, page: usize) -> Option<NonNull<AtomicU64>> {
        let fixed = if at.is_null() { 0 } else { libc::MAP_FIXED };
        // SAFETY: a new mapping, or one in the place of the window's own.
        let start = unsafe {
            libc::mmap(
                at,
                PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED | fixed,
                file,
                (page * PAGE_BYTES) as i64,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(start.cast())
    }

    /// Writes `value` to the page of the turn and makes the window show it.
    fn turn(&self, value: u64) -> bool {
        let page = (value as usize) % Self::PAGES;
        // SAFETY: writes eight bytes to the file.
        let written =
            unsafe { libc::pwrite(self.file, (&raw const value).cast(), 8, (page * PAGE_BYTES) as i64) };
        written == 8 && Self::map(self.file, self.start.as_ptr().cast(), page).is_some()
    }

    fn read(&self) -> u64 {
        // SAFETY: the window is always mapped to one page or the other.
        unsafe { self.start.as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping and file.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), PAGE_BYTES);
            libc::close(self.file);
        }
    }
}

/// One thread replaces what lies at an address, the others read there: once it has said that value n is
/// there, no CPU may see an older one by an old translation.
fn remapping(cpus: &[usize], end: Instant) -> Result<Tally, Trouble> {
    let window = Window::new()?;
    let said = Pages::new(1)?;
    let tallies = cpus::on_each(cpus, |me| {
        let mut tally = Tally::default();
        if me == 0 {
            while Instant::now() < end {
                tally.rounds += 1;
                tally.wrong += u64::from(!window.turn(tally.rounds));
                said.lone(0).store(tally.rounds, Ordering::Release);
            }
            said.lone(0).store(u64::MAX, Ordering::Release);
            return tally;
        }
        loop {
            let at_least = said.lone(0).load(Ordering::Acquire);
            if at_least == u64::MAX {
                return tally;
            }
            tally.wrong += u64::from(window.read() < at_least);
            tally.rounds += 1;
        }
    })?;
    Ok(Tally { rounds: tallies[0].rounds, wrong: tallies.iter().map(|tally| tally.wrong).sum() })
}

/// Each thread hops over all CPUs; after each hop it must be where it asked to be, with its memory.
fn hopping(cpus: &[usize], end: Instant) -> Result<Tally, Trouble> {
    let tallies = cpus::on_each(cpus, |me| {
        let mut tally = Tally::default();
        let mut next = me;
        let mut chain = me as u64;
        while Instant::now() < end {
            next = (next + 1) % cpus.len();
            let there = cpus::pin(cpus[next]).is_ok() && cpus::current() == cpus[next];
            chain = chain.wrapping_mul(3).wrapping_add(1);
            tally.wrong += u64::from(!there);
            tally.rounds += 1;
        }
        let expected = (0..tally.rounds).fold(me as u64, |chain, _| chain.wrapping_mul(3).wrapping_add(1));
        tally.wrong += u64::from(chain != expected);
        tally
    })?;
    Ok(Tally { rounds: tallies.iter().map(|t| t.rounds).sum(), wrong: tallies.iter().map(|t| t.wrong).sum() })
}

/// Runs the program. Parameters: `seconds` (3) for the three phases together.
///
/// # Errors
/// Parameters that make no sense, a kernel without membarrier, no memory.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["seconds"])?;
    let third = Duration::from_secs_f64(order.seconds("seconds", 3.0)? / 3.0);
    let cpus = cpus::usable();
    let start = Instant::now();
    let barriers = barriers(&cpus, Instant::now() + third)?;
    let remaps = remapping(&cpus, Instant::now() + third)?;
    let hops = hopping(&cpus, Instant::now() + third)?;
    let mut figures = Object::default();
    figures.add("cpus", cpus.len());
    figures.add("membarriers", barriers.rounds).add("membarrier_wrong", barriers.wrong);
    figures.add("remaps", remaps.rounds).add("stale_translations", remaps.wrong);
    figures.add("hops", hops.rounds).add("hops_wrong", hops.wrong);
    let ok = barriers.wrong + remaps.wrong + hops.wrong == 0;
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_shows_what_it_was_turned_to() {
        let window = Window::new().unwrap();
        for value in 1..10 {
            assert!(window.turn(value));
            assert_eq!(window.read(), value);
        }
    }

    #[test]
    fn nothing_goes_wrong_here() {
        let finding = run(&"ipi:seconds=0.3".parse().unwrap()).unwrap();
        assert!(finding.ok, "{}", finding.figures);
    }
}
