//! Locked instructions on shared words: every increment counts, wherever the word lies.

use core::arch::asm;
use core::sync::atomic::Ordering;

use payload_core::line::Line;

use crate::runtime::arena::Page;
use crate::runtime::machine::Machine;
use crate::runtime::{clock, console};

/// `lock xadd` on an aligned word; `rounds=` for each CPU.
pub fn xadd(machine: &Machine) -> bool {
    let page = machine.arena.page();
    count(machine, "xadd", page.address() + 64)
}

/// The same on a word that straddles two pages: both must be here, exclusively, at once.
pub fn xadd_straddle(machine: &Machine) -> bool {
    let pages = machine.arena.pages(2);
    count(machine, "xadd_straddle", pages[1].address() - 4)
}

fn count(machine: &Machine, name: &str, address: u64) -> bool {
    let rounds = machine.number("rounds", 100_000);
    let cpus = machine.cpus();
    let backwards: &'static [Page] = machine.arena.pages(cpus);
    let start = clock::now();
    machine.run(move |cpu| {
        // What a CPU gets back must grow: an older value is one that was lost and found again.
        let (mut last, mut steps_back) = (None, 0);
        for _ in 0..rounds {
            let before = add_one(address);
            steps_back += u64::from(last.is_some_and(|last| before <= last));
            last = Some(before);
        }
        backwards[cpu].word(0).store(steps_back, Ordering::Release);
    });
    // SAFETY: the eight bytes lie in pages of the arena; all CPUs are done.
    let sum = unsafe { core::ptr::read_unaligned(address as *const u64) };
    let expected = rounds * cpus as u64;
    let steps_back: u64 = backwards.iter().map(|page| page.word(0).load(Ordering::Acquire)).sum();
    let ok = sum == expected && steps_back == 0;
    let mut line = Line::new(name);
    line.number("cpus", cpus as u64).number("rounds", rounds).number("sum", sum).number("expected", expected);
    line.number("steps_back", steps_back).thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    ok
}

fn add_one(address: u64) -> u64 {
    let mut value = 1;
    // SAFETY: a locked addition to eight bytes of arena pages.
    unsafe { asm!("lock xadd [{}], {}", in(reg) address, inout(reg) value, options(nostack)) };
    value
}

/// `lock cmpxchg16b`: pairs whose halves must always agree; `rounds=` successes for each CPU.
pub fn cas16(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 100_000);
    let cpus = machine.cpus();
    let page = machine.arena.page();
    let torn: &'static [Page] = machine.arena.pages(cpus);
    let start = clock::now();
    machine.run(move |cpu| {
        let (mut wrong, mut low, mut high) = (0, 0u64, 0u64);
        for _ in 0..rounds {
            loop {
                wrong += u64::from(high != low.wrapping_mul(3));
                let next = low + 1;
                match compare_exchange_pair(page.address(), (low, high), (next, next.wrapping_mul(3))) {
                    Ok(()) => break,
                    Err(now) => (low, high) = now,
                }
            }
        }
        torn[cpu].word(0).store(wrong, Ordering::Release);
    });
    let expected = rounds * cpus as u64;
    let sum = page.word(0).load(Ordering::Acquire);
    let wrong: u64 = torn.iter().map(|page| page.word(0).load(Ordering::Acquire)).sum();
    let ok = sum == expected && wrong == 0 && page.word(1).load(Ordering::Relaxed) == sum.wrapping_mul(3);
    let mut line = Line::new("cas16");
    line.number("cpus", cpus as u64).number("rounds", rounds).number("sum", sum).number("expected", expected);
    line.number("torn", wrong).thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    ok
}

fn compare_exchange_pair(address: u64, old: (u64, u64), new: (u64, u64)) -> Result<(), (u64, u64)> {
    let (low, high): (u64, u64);
    let equal: u8;
    // SAFETY: a locked compare-and-exchange of 16 aligned bytes of an arena page. RBX belongs to the
    // compiler, so it is swapped in and out.
    unsafe {
        asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [rdi]",
            "sete {equal}",
            "mov rbx, {new_low}",
            new_low = inout(reg) new.0 => _,
            equal = out(reg_byte) equal,
            in("rdi") address,
            in("rcx") new.1,
            inout("rax") old.0 => low,
            inout("rdx") old.1 => high,
            options(nostack)
        );
    }
    if equal != 0 {
        Ok(())
    } else {
        Err((low, high))
    }
}
