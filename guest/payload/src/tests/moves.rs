//! A CPU that may be moved at any moment notices nothing: not in its registers, not in its memory, not in its
//! clock, not while it halts.
//!
//! `move_bench`: every CPU counts in ring 3 with all registers full. `move_halt`: all but the first halt with
//! all registers full, and the first wakes them. Both run for `seconds=`; moving the CPUs meanwhile is the
//! host's business.

use core::arch::asm;
use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;

use crate::runtime::arena::Page;
use crate::runtime::block::Block;
use crate::runtime::exit::{fail, Status};
use crate::runtime::gates::{self, Keeper};
use crate::runtime::interrupts::{self, To, What, FIRST_FREE_VECTOR};
use crate::runtime::machine::{Blocks, Machine};
use crate::runtime::registers::{Hold, Passing};
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console};

/// Rounds between looks at what only ring 0 can see.
const PRIVILEGED_EVERY: u64 = 64;
/// Longest counting loop: some 50 us.
const LONGEST_COUNT: u64 = 1 << 17;
/// Wakes a halted CPU.
const WAKE: u8 = FIRST_FREE_VECTOR + 4;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const TSC_AUX: u32 = 0xc000_0103;
/// Model-specific and APIC registers that a payload may fill as it likes, with a mask of the bits it may.
const REGISTERS: &[(u32, u64)] = &[
    (0xc000_0081, 0xffff_ffff_0000_0000), // STAR
    (0xc000_0082, 0x3fff_ffff_ffff),      // LSTAR
    (0xc000_0084, 0x3f_7fd5),             // SFMASK
    (0xc000_0102, 0x3fff_ffff_ffff),      // KERNEL_GS_BASE
    (0x174, 0xffff),                      // SYSENTER_CS
    (0x175, 0x3fff_ffff_ffff),            // SYSENTER_ESP
    (0x176, 0x3fff_ffff_ffff),            // SYSENTER_EIP
    (0x808, 0x10),                        // TPR, below all vectors in use
    (0x83e, 0xb),                         // timer divide configuration
];

/// What a CPU keeps to itself and checks.
struct Witness {
    page: &'static Page,
    filled: [u64; REGISTERS.len()],
    kept: [u64; 2],
    aux: Option<u64>,
    rounds: u64,
    last: u64,
}

/// See the module.
pub fn move_bench(machine: &Machine) -> bool {
    let pages = machine.arena.pages(machine.cpus());
    let seconds = machine.number("seconds", 2);
    let seed = machine.number("seed", 1);
    let avx = enable_avx(machine);
    let start = clock::now();
    let end = start + clock::us(seconds * 1_000_000);
    machine.run(move |cpu| {
        let mut random = Random::new(seed << 8 | cpu as u64);
        let mut witness = Witness::new(&pages[cpu], &mut random);
        while witness.last < end {
            let mut hold = Hold::random(&mut random, avx);
            let changed = hold.pass(Passing::Counting(1 + random.below(LONGEST_COUNT)));
            witness.check(cpu, changed);
        }
        witness.quiet();
    });
    report(machine, "move_bench", pages, avx, 0, start)
}

/// See the module.
pub fn move_halt(machine: &Machine) -> bool {
    let cpus = machine.cpus();
    if cpus < 2 {
        fail(Status::Usage, format_args!("move_halt needs two CPUs"));
    }
    let pages = machine.arena.pages(cpus);
    let over = machine.arena.page().word(0);
    let seconds = machine.number("seconds", 2);
    let seed = machine.number("seed", 1);
    let avx = enable_avx(machine);
    let blocks = machine.blocks();
    let start = clock::now();
    let end = start + clock::us(seconds * 1_000_000);
    machine.run(move |cpu| {
        let mut random = Random::new(seed << 8 | cpu as u64);
        let mut witness = Witness::new(&pages[cpu], &mut random);
        if cpu == 0 {
            while clock::now() < end {
                let sent = wake(blocks, 1 + random.below(cpus as u64 - 1) as usize);
                pages[0].word(2).fetch_add(sent, Ordering::Relaxed);
                clock::spin(random.below(clock::us(1000)));
                witness.check(cpu, None);
            }
            over.store(1, Ordering::Release);
            (1..cpus)
                .for_each(|other| interrupts::send(To::Cpu(blocks.get(other).apic_id()), What::Fixed(WAKE)));
        } else {
            let wakes = blocks.get(cpu).count(WAKE);
            loop {
                let seen = wakes.load(Ordering::Acquire);
                if over.load(Ordering::Acquire) != 0 {
                    break;
                }
                let mut hold = Hold::random(&mut random, avx);
                let changed = hold.pass(Passing::Halted(wakes, seen));
                witness.check(cpu, changed);
            }
        }
        witness.quiet();
    });
    clock::spin(clock::us(20_000));
    let wakes: u64 = (1..cpus).map(|cpu| machine.block(cpu).count(WAKE).swap(0, Ordering::AcqRel)).sum();
    // The last one to each CPU ends it.
    let wrong = wakes.abs_diff(pages[0].word(2).load(Ordering::Acquire) + cpus as u64 - 1);
    report(machine, "move_halt", pages, avx, wrong, start)
}

/// Wakes a CPU and waits until it has taken the interrupt.
fn wake(blocks: Blocks, cpu: usize) -> u64 {
    let block: &Block = blocks.get(cpu);
    let before = block.count(WAKE).load(Ordering::Acquire);
    interrupts::send(To::Cpu(block.apic_id()), What::Fixed(WAKE));
    wait_until("the waking of a halted CPU", || block.count(WAKE).load(Ordering::Acquire) > before);
    1
}

/// Enables AVX on all CPUs where CPUID has it.
fn enable_avx(machine: &Machine) -> bool {
    let features = gates::cpuid(1, 0)[2];
    let avx = features >> 26 & features >> 28 & 1 != 0;
    if avx {
        machine.run(|_| gates::xsetbv(7));
    }
    avx
}

impl Witness {
    /// Fills what only ring 0 can fill. `page`: word 0 rounds, word 1 moves of the clock, words 16.. the
    /// segment bases' targets, words 32.. a chain of values.
    fn new(page: &'static Page, random: &mut Random) -> Self {
        let filled = core::array::from_fn(|i| random.word() & REGISTERS[i].1);
        for (&(register, _), &value) in REGISTERS.iter().zip(&filled) {
            gates::wrmsr(register, value);
        }
        let kept = [random.word() >> 20, random.word() >> 20];
        gates::keep(Keeper::Cr2, kept[0]);
        gates::keep(Keeper::Dr0, kept[1]);
        gates::wrmsr(FS_BASE, page.word(16).as_ptr() as u64);
        gates::wrmsr(GS_BASE, page.word(17).as_ptr() as u64);
        page.word(16).store(random.word(), Ordering::Relaxed);
        page.word(17).store(random.word(), Ordering::Relaxed);
        let has_aux = gates::cpuid(0x8000_0001, 0)[3] >> 27 & 1 != 0;
        let aux = has_aux.then(|| random.word() & 0xffff_ffff);
        if let Some(aux) = aux {
            gates::wrmsr(TSC_AUX, aux);
        }
        Self { page, filled, kept, aux, rounds: 0, last: clock::now() }
    }

    /// One more round is over; ends the run if anything is not as it was left.
    fn check(&mut self, cpu: usize, changed: Option<&str>) {
        if let Some(register) = changed {
            self.lost(cpu, register);
        }
        let now = clock::now();
        if now < self.last {
            self.lost(cpu, "the time-stamp counter's direction");
        }
        self.last = now;
        // The count in this CPU's registers and stack against the one in memory: neither may be older than
        // the other.
        let count = self.page.word(0);
        if count.load(Ordering::Relaxed) != self.rounds {
            self.lost(cpu, "the agreement of state and memory");
        }
        let place = 32 + (self.rounds % 256) as usize;
        let expected =
            self.rounds.checked_sub(256).map_or(0, |round| round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if self.page.word(place).load(Ordering::Relaxed) != expected {
            self.lost(cpu, "memory");
        }
        self.page.word(place).store(self.rounds.wrapping_mul(0x9e37_79b9_7f4a_7c15), Ordering::Relaxed);
        self.rounds += 1;
        count.store(self.rounds, Ordering::Relaxed);
        let (fs, gs) = segment_words();
        if fs != self.page.word(16).load(Ordering::Relaxed)
            || gs != self.page.word(17).load(Ordering::Relaxed)
        {
            self.lost(cpu, "a segment base");
        }
        if self.rounds % PRIVILEGED_EVERY == 0 {
            self.check_privileged(cpu);
        }
    }

    fn check_privileged(&self, cpu: usize) {
        for (&(register, _), &value) in REGISTERS.iter().zip(&self.filled) {
            let found = gates::rdmsr(register);
            if found != value {
                fail(
                    Status::Failed,
                    format_args!(
                        "cpu {cpu}: register {register:#x} holds {found:#x}, not {value:#x}, after {} rounds",
                        self.rounds
                    ),
                );
            }
        }
        if self.aux.is_some_and(|aux| gates::rdmsr(TSC_AUX) != aux) {
            self.lost(cpu, "TSC_AUX");
        }
        if gates::kept(Keeper::Cr2) != self.kept[0] {
            self.lost(cpu, "cr2");
        }
        if gates::kept(Keeper::Dr0) != self.kept[1] {
            self.lost(cpu, "dr0");
        }
    }

    /// Leaves the CPU fit for other tests.
    fn quiet(&self) {
        gates::wrmsr(0x808, 0);
    }

    fn lost(&self, cpu: usize, what: &str) -> ! {
        fail(Status::Failed, format_args!("cpu {cpu}: {what} was lost after {} rounds", self.rounds))
    }
}

/// The words that FS and GS lead to.
fn segment_words() -> (u64, u64) {
    let (fs, gs);
    // SAFETY: both bases were set to words of the CPU's own page.
    unsafe { asm!("mov {}, fs:[0]", "mov {}, gs:[0]", out(reg) fs, out(reg) gs, options(nostack, readonly)) };
    (fs, gs)
}

fn report(machine: &Machine, name: &str, pages: &'static [Page], avx: bool, wrong: u64, start: u64) -> bool {
    let rounds = || pages.iter().map(|page| page.word(0).load(Ordering::Acquire));
    let mut line = Line::new(name);
    line.number("cpus", machine.cpus() as u64)
        .number("rounds", rounds().sum())
        .number("fewest", rounds().min().unwrap_or(0));
    line.text("vectors", if avx { "avx" } else { "sse" })
        .number("wrong", wrong)
        .thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(wrong == 0)));
    wrong == 0
}
