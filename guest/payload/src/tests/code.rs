//! Code that another CPU changes: who runs it runs what was written.
//!
//! By turns each CPU rewrites all routines and then sets a flag. The others wait for the flag, execute CPUID, which
//! serialises, and run every routine: what the SDM (volume 3, "Handling Self- and Cross-Modifying Code") asks for, after which
//! the new code must run. They ran the old one the round before, so every node has copies of it: a page that is left
//! behind shows. The writer runs its own code after nothing but a call, as the SDM allows.
//!
//! Words: `place=` as for litmus tests (default: all), `changes=` in each placement (100).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use payload_core::line::Line;
use tessera_litmus::placement::Placement;

use crate::runtime::arena::{Page, PAGE_BYTES, STRIPES};
use crate::runtime::interrupts::FIRST_FREE_VECTOR;
use crate::runtime::machine::Machine;
use crate::runtime::paging::Window;
use crate::runtime::sync::Doze;
use crate::runtime::{clock, console};

/// Routines that are rewritten each round.
const ROUTINES: usize = 8;
/// MOV EAX, imm32; RET: the number that it gives is at byte 1.
const ROUTINE: [u8; 6] = [0xb8, 0, 0, 0, 0, 0xc3];
/// Where a routine begins in its page, unless it straddles two.
const OFFSET: u64 = 64;
/// Where the flag is in a page that holds something else too.
const FLAG_WORD: usize = 256;
/// The timer that wakes a CPU which waits for others.
const DOZE_VECTOR: u8 = FIRST_FREE_VECTOR + 7;
/// The top-level entry of the next window; litmus tests use higher ones.
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(2);

/// Rewrites and runs code in each placement.
pub fn code(machine: &Machine) -> bool {
    let wanted = |placement: &Placement| {
        let list = machine.cmdline.word("place");
        list.is_none_or(|list| list.split(',').any(|word| word == placement.name()))
    };
    Placement::ALL.into_iter().filter(wanted).fold(true, |passed, placement| passed & one(machine, placement))
}

/// Where everything is.
#[derive(Clone, Copy)]
struct Site {
    routines: [u64; ROUTINES],
    /// Twice the round whose code is there: the lowest bit stays clear, for the flag may lie in a page-table entry.
    flag: &'static AtomicU64,
    /// Per CPU: the round it has come to the end of; runs of an older routine; of something else.
    done: &'static [Page],
}

impl Site {
    fn new(machine: &Machine, placement: Placement) -> Self {
        let arena = &machine.arena;
        let mut flag = arena.pages_of(STRIPES - 1, 1)[0].word(0);
        let routines = match placement {
            Placement::Apart => {
                let pages = arena.pages_of(STRIPES - 1, ROUTINES);
                core::array::from_fn(|index| pages[index].address() + OFFSET)
            }
            Placement::Homes => {
                core::array::from_fn(|index| arena.pages_of(index % STRIPES, 1)[0].address() + OFFSET)
            }
            Placement::Together => {
                let page = arena.page();
                flag = page.word(FLAG_WORD);
                core::array::from_fn(|index| page.address() + OFFSET * (1 + index as u64))
            }
            Placement::Straddle => {
                // The number itself lies across two pages.
                let pages = arena.pages(ROUTINES + 1);
                core::array::from_fn(|index| pages[index + 1].address() - 3)
            }
            Placement::Table => {
                let window = Window::new(arena, NEXT_SLOT.fetch_add(1, Ordering::Relaxed));
                flag = window.table.word(FLAG_WORD);
                core::array::from_fn(|index| {
                    window.map(index, arena.page());
                    window.start + index as u64 * PAGE_BYTES + OFFSET
                })
            }
        };
        for &routine in &routines {
            // SAFETY: six bytes of arena pages, which nobody runs yet.
            unsafe { core::ptr::write_unaligned(routine as *mut [u8; 6], ROUTINE) };
        }
        Self { routines, flag, done: arena.pages(machine.cpus()) }
    }

    fn rewrite(&self, round: u64) {
        for &routine in &self.routines {
            // SAFETY: the four bytes of the number, in arena pages; nobody runs the routine before the flag says so.
            unsafe { core::ptr::write_volatile((routine + 1) as *mut Unaligned, Unaligned(round as u32)) };
        }
        self.flag.store(2 * round, Ordering::Release);
    }

    /// Runs all routines, and counts those that are not of this round.
    fn run(&self, round: u64, found: &Page) {
        for &routine in &self.routines {
            // SAFETY: MOV EAX and RET: a function of this type, whatever its number.
            let gave = unsafe {
                let function: extern "sysv64" fn() -> u32 = core::mem::transmute(routine);
                function()
            };
            let wrong = u64::from(gave).cmp(&round);
            let word = if wrong.is_lt() { STALE } else { STRANGE };
            found.word(word).fetch_add(u64::from(wrong.is_ne()), Ordering::Relaxed);
        }
    }

    fn part(&self, cpu: usize, rounds: u64, doze: Doze) {
        let (cpus, found) = (self.done.len(), &self.done[cpu]);
        for round in 1..=rounds {
            if round as usize % cpus == cpu {
                for other in self.done {
                    doze.wait_until("the run of a routine", || {
                        other.word(DONE).load(Ordering::Acquire) >= round - 1
                    });
                }
                self.rewrite(round);
            } else {
                doze.wait_until("new code", || self.flag.load(Ordering::Acquire) >= 2 * round);
                serialise();
            }
            self.run(round, found);
            found.word(DONE).store(round, Ordering::Release);
        }
    }
}

/// CPUID: nothing after it is fetched before all is done that comes before it.
fn serialise() {
    // SAFETY: no effect but order; RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!("mov {saved:r}, rbx", "cpuid", "mov rbx, {saved:r}", saved = out(reg) _, inout("eax") 0 => _, out("ecx") _,
            out("edx") _, options(nostack));
    }
}

/// Four bytes anywhere.
#[repr(C, packed)]
struct Unaligned(u32);

/// Words of a CPU's page.
const DONE: usize = 0;
const STALE: usize = 1;
const STRANGE: usize = 2;

fn one(machine: &Machine, placement: Placement) -> bool {
    let rounds = machine.number("changes", 100).min(u64::from(u32::MAX));
    let (site, blocks, start) = (Site::new(machine, placement), machine.blocks(), clock::now());
    machine.run(move |cpu| site.part(cpu, rounds, Doze::new(blocks.get(cpu), DOZE_VECTOR)));
    let sum = |word: usize| site.done.iter().map(|page| page.word(word).load(Ordering::Acquire)).sum::<u64>();
    let (cpus, stale, strange) = (machine.cpus() as u64, sum(STALE), sum(STRANGE));
    let mut line = Line::new("code");
    line.text("place", placement.name()).number("cpus", cpus).number("changes", rounds);
    line.number("runs", cpus * rounds * ROUTINES as u64).number("stale", stale).number("strange", strange);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(stale + strange == 0)));
    stale + strange == 0
}
