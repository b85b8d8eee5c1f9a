//! Litmus tests: the shapes of `payload_core::litmus`, many instances at a time.
//!
//! Each variable has `pages=` pages of its own with 256 instances a page, so that x and y of one instance travel
//! apart. A batch is: barrier, every thread does its operations on each instance, barrier, thread 0 looks at what
//! all have seen. `gap=` cycles pace the instances by the time-stamp counter: threads are at the same instance at
//! about the same time although pages keep some of them waiting, and a batch lasts long enough for pages to move
//! in its middle. Batches differ in the order of instances and in jitter; threads move on to other CPUs by turns.
//!
//! Words: `rounds=` instances in all, `pages=` 1..16, `gap=`, `layout=split|packed` (packed: all variables of an
//! instance in one page), `seed=`.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use payload_core::line::Line;
use payload_core::litmus::{seen, stored, Op, Shape, OUTCOMES, READS};
use payload_core::random::Random;

use crate::runtime::arena::Page;
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;
use crate::runtime::sync::Barrier;
use crate::runtime::{clock, console};

/// Instances a page.
const PER_PAGE: usize = 256;
/// Digit for a value that cannot have been there.
const CORRUPT: u8 = 3;
/// Words of the tally page after the histogram.
const TALLY_CORRUPT: usize = OUTCOMES;
const TALLY_SAMPLE: usize = OUTCOMES + 1;

/// All that the threads of a run share; only pages behind it change.
#[derive(Clone, Copy)]
struct Run {
    shape: &'static Shape,
    /// Each variable's pages, and the first word of its instances within a page.
    variables: [(&'static [Page], usize); 3],
    /// Per thread, one byte an instance: its reads' digits, two bits each.
    seen: &'static [Page],
    seen_pages: usize,
    tally: &'static Page,
    barrier: Barrier,
    pages: usize,
    gap: u64,
    seed: u64,
}

/// One go: the same threads on the same CPUs for some batches.
#[derive(Clone, Copy)]
struct Turn {
    first_batch: u64,
    batches: u64,
    shift: usize,
    cpus: usize,
}

/// Runs the litmus test `name`, if there is one.
pub fn run(name: &str, machine: &Machine) -> Option<bool> {
    let shape = Shape::named(name)?;
    let cpus = machine.cpus();
    if cpus < shape.threads.len() {
        fail(Status::Usage, format_args!("{name} needs {} CPUs, there are {cpus}", shape.threads.len()));
    }
    let run = prepare(shape, machine);
    let rounds = machine.number("rounds", 100_000);
    let instances = (run.pages * PER_PAGE) as u64;
    let batches = rounds.div_ceil(instances).max(1);
    let start = clock::now();
    // Few turns, many batches each; every CPU gets every part.
    let turns = (cpus as u64).min(batches);
    let mut first_batch = 1;
    for turn in 0..turns {
        let count = batches / turns + u64::from(turn < batches % turns);
        let turn = Turn { first_batch, batches: count, shift: turn as usize, cpus };
        machine.run(move |cpu| take_part(&run, turn, cpu));
        first_batch += count;
    }
    Some(report(&run, machine, batches * instances, clock::ms_since(start)))
}

fn prepare(shape: &'static Shape, machine: &Machine) -> Run {
    let pages = machine.number("pages", 4).clamp(1, 16) as usize;
    let packed = match machine.cmdline.word("layout") {
        None | Some("split") => false,
        Some("packed") => true,
        Some(other) => fail(Status::Usage, format_args!("layout={other}: split or packed")),
    };
    let arena = &machine.arena;
    let first = arena.pages(pages);
    let threads = shape.threads.len();
    let seen_pages = (pages * PER_PAGE).div_ceil(4096);
    Run {
        shape,
        // Two words an instance: packed, x and y share a 16-byte slot, and z sits in the second half page's slots of y.
        variables: if packed {
            [(first, 0), (first, 1), (arena.pages(pages), 0)]
        } else {
            [(first, 0), (arena.pages(pages), 0), (arena.pages(pages), 0)]
        },
        seen: arena.pages(threads * seen_pages),
        seen_pages,
        tally: arena.page(),
        barrier: Barrier::new(arena, threads),
        pages,
        gap: machine.number("gap", 1000),
        seed: machine.number("seed", 1),
    }
}

/// What CPU `cpu` does in a turn: nothing, unless it stands for a thread.
fn take_part(run: &Run, turn: Turn, cpu: usize) {
    let threads = run.shape.threads.len();
    let thread = (cpu + turn.cpus - turn.shift) % turn.cpus;
    if thread >= threads {
        return;
    }
    for batch in turn.first_batch..turn.first_batch + turn.batches {
        run.barrier.pass(thread, threads, 2 * batch, || {
            run.tally.word(500).store(clock::now() + 2_000, Ordering::Relaxed)
        });
        play(run, thread, batch, run.tally.word(500).load(Ordering::Relaxed));
        run.barrier.pass(thread, threads, 2 * batch + 1, || ());
        if thread == 0 {
            (0..run.pages * PER_PAGE).for_each(|instance| judge(run, batch, instance));
        }
    }
}

/// Runs one thread's operations on every instance of a batch.
fn play(run: &Run, thread: usize, batch: u64, start: u64) {
    let instances = run.pages * PER_PAGE;
    let mut random = Random::new(run.seed ^ batch << 8 ^ thread as u64);
    let (backwards, paced) = (batch % 4 == 2 && thread % 2 == 1, batch % 4 != 3);
    let rotated = if batch % 4 == 3 { random.below(instances as u64) as usize } else { 0 };
    for step in 0..instances {
        let instance = match backwards {
            true => instances - 1 - step,
            false => (step + rotated) % instances,
        };
        if paced && run.gap > 0 {
            let due = start + step as u64 * run.gap + random.below(run.gap / 4 + 1);
            while clock::now() < due {
                core::hint::spin_loop();
            }
        }
        let seen = operate(run, run.shape.threads[thread], batch, instance);
        set_byte(run, thread, instance, seen);
    }
}

/// One thread's operations on one instance; gives the digits of its reads.
fn operate(run: &Run, operations: &[Op], batch: u64, instance: usize) -> u8 {
    let word = |variable: usize| {
        let (pages, first) = run.variables[variable];
        pages[instance / PER_PAGE].word(instance % PER_PAGE * 2 + first).as_ptr()
    };
    let mut values = [0; READS];
    let mut reads = 0;
    for operation in operations {
        match *operation {
            Op::Write(variable, value) => store(word(variable), stored(batch, value)),
            Op::Swap(variable) => swap(word(variable), stored(batch, 1)),
            Op::Fence => fence(),
            Op::Read(variable) => {
                values[reads] = load(word(variable));
                reads += 1;
            }
        }
    }
    let digit = |value| seen(batch, value).unwrap_or(CORRUPT);
    (0..reads).fold(0, |byte, read| byte | digit(values[read]) << (2 * read))
}

/// Thread 0, after the batch: which outcome an instance had.
fn judge(run: &Run, batch: u64, instance: usize) {
    let shape = run.shape;
    let mut digits = [0; 8];
    let mut count = 0;
    for thread in 0..shape.threads.len() {
        let byte = byte(run, thread, instance);
        for read in 0..shape.reads(thread) {
            digits[count] = byte >> (2 * read) & 3;
            count += 1;
        }
    }
    for &variable in shape.finals {
        let (pages, first) = run.variables[variable];
        let value = pages[instance / PER_PAGE].word(instance % PER_PAGE * 2 + first).load(Ordering::Relaxed);
        // A variable that is written in every batch cannot have its old value in the end.
        digits[count] = seen(batch, value).filter(|&digit| digit != 0).unwrap_or(CORRUPT);
        count += 1;
    }
    let place = match digits[..count].contains(&CORRUPT) {
        true => TALLY_CORRUPT,
        false => Shape::index(&digits[..count]),
    };
    let tally = run.tally.word(place);
    tally.store(tally.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    if place == TALLY_CORRUPT {
        run.tally.word(TALLY_SAMPLE).store(batch, Ordering::Relaxed);
    }
}

fn set_byte(run: &Run, thread: usize, instance: usize, byte: u8) {
    let page = &run.seen[thread * run.seen_pages + instance / 4096];
    // SAFETY: a byte of this thread's own page; nobody else accesses it between the barriers.
    unsafe { (page.address() as *mut u8).add(instance % 4096).write_volatile(byte) };
}

fn byte(run: &Run, thread: usize, instance: usize) -> u8 {
    let page = &run.seen[thread * run.seen_pages + instance / 4096];
    // SAFETY: the writer has passed the barrier, and writes again only after the next.
    unsafe { (page.address() as *const u8).add(instance % 4096).read_volatile() }
}

fn store(word: *mut u64, value: u64) {
    // SAFETY: one plain store to a word of a shared page; the compiler keeps the order of volatile assembly.
    unsafe { asm!("mov [{}], {}", in(reg) word, in(reg) value, options(nostack, preserves_flags)) };
}

fn swap(word: *mut u64, value: u64) {
    // SAFETY: one locked exchange on a word of a shared page.
    unsafe { asm!("xchg [{}], {}", in(reg) word, inout(reg) value => _, options(nostack, preserves_flags)) };
}

fn load(word: *mut u64) -> u64 {
    let value;
    // SAFETY: one plain load of a word of a shared page.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) word, options(nostack, preserves_flags)) };
    value
}

fn fence() {
    // SAFETY: no effect but order.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// The outcomes that were seen, as a JSON object.
struct Histogram<'a>(&'a Shape, &'a [AtomicU64]);

impl fmt::Display for Histogram<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.digits();
        let mut comma = "";
        f.write_str("{")?;
        for (index, count) in
            self.1.iter().map(|word| word.load(Ordering::Relaxed)).enumerate().filter(|&(_, n)| n > 0)
        {
            write!(f, "{comma}\"")?;
            for place in 0..digits {
                write!(f, "{}", Shape::digit(index, place, digits))?;
            }
            write!(f, "\":{count}")?;
            comma = ",";
        }
        f.write_str("}")
    }
}

fn report(run: &Run, machine: &Machine, instances: u64, ms: u64) -> bool {
    let target = run.tally.word(Shape::index(run.shape.outcome)).load(Ordering::Relaxed);
    let corrupt = run.tally.word(TALLY_CORRUPT).load(Ordering::Relaxed);
    let forbidden = if run.shape.forbidden { target } else { 0 };
    let ok = forbidden == 0 && corrupt == 0;
    let mut line = Line::new(run.shape.name);
    line.number("rounds", instances)
        .number("cpus", machine.cpus() as u64)
        .number("threads", run.shape.threads.len() as u64);
    line.number("forbidden", forbidden).number("corrupt", corrupt);
    if !run.shape.forbidden {
        line.number("relaxed", target);
    }
    if corrupt > 0 {
        line.number("corrupt_batch", run.tally.word(TALLY_SAMPLE).load(Ordering::Relaxed));
    }
    line.raw("histogram", format_args!("{}", Histogram(run.shape, &run.tally.words[..OUTCOMES])))
        .thousandths("seconds", ms);
    console::print(format_args!("{}", line.end(ok)));
    ok
}
