//! The best-known litmus tests by the million: the shapes of `payload_core::shapes`, many instances at a time. (All the
//! others, in every placement: `litmus`.)
//!
//! Each variable has `pages=` pages of its own with `per_page=` instances a page, so that x and y of one
//! instance travel apart. A batch is: barrier, every thread does its operations on each instance, barrier,
//! thread 0 looks at what all have seen. `gap=` cycles pace the instances by the time-stamp counter: threads
//! are at the same instance at about the same time although pages keep some of them waiting, and a batch lasts
//! long enough for pages to move in its middle. Batches differ in the order of instances and in jitter; threads
//! move on to other CPUs by turns.
//!
//! Instances that one thread has to itself teach nothing; `changes` in the result says how often the outcome
//! changed from one instance to the next, which is how often threads met. Few instances a page make more of
//! them, and make a run longer: `per_page=1` gives every instance pages of its own.
//!
//! Words: `rounds=` instances in all (100000), `pages=` up to 256 (32), `per_page=` up to 256 (16), `gap=`
//! (1000; 10000 for more than two threads, which seldom all have a host CPU at once: a batch must then last
//! longer than a time slice), `layout=split|packed` (packed: x and y of an instance in one page), `seed=`.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use payload_core::line::Line;
use payload_core::random::Random;
use payload_core::shapes::{seen, stored, Op, Shape, OUTCOMES, READS};

use crate::runtime::arena::Page;
use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;
use crate::runtime::sync::{Barrier, Wait};
use crate::runtime::{clock, console};

/// Slots of two words a page.
const SLOTS: usize = 256;
/// Digit for a value that cannot have been there.
const CORRUPT: u8 = 3;
/// Words of the tally page after the histogram.
const TALLY_CORRUPT: usize = OUTCOMES;
const TALLY_SAMPLE: usize = OUTCOMES + 1;
/// The outcome of the instance before, and how often the outcome changed from one instance to the next.
const TALLY_LAST: usize = OUTCOMES + 3;
const TALLY_CHANGES: usize = OUTCOMES + 4;
/// When the batch's pacing starts, in cycles.
const TALLY_START: usize = OUTCOMES + 2;
/// From the last arrival at the barrier to the first instance.
const LEAD_CYCLES: u64 = 2_000;

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
    per_page: usize,
    gap: u64,
    seed: u64,
}

impl Run {
    fn instances(&self) -> usize {
        self.pages * self.per_page
    }

    /// The word of a variable for an instance. The slots in use are spread evenly over the page.
    fn word(&self, variable: usize, instance: usize) -> &'static AtomicU64 {
        let (pages, first) = self.variables[variable];
        let slot = instance % self.per_page * (SLOTS / self.per_page);
        pages[instance / self.per_page].word(slot * 2 + first)
    }
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
    let instances = run.instances() as u64;
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
    let pages = machine.number("pages", 32).clamp(1, 256) as usize;
    let per_page = machine.number("per_page", 16).clamp(1, SLOTS as u64) as usize;
    let packed = match machine.cmdline.word("layout") {
        None | Some("split") => false,
        Some("packed") => true,
        Some(other) => fail(Status::Usage, format_args!("layout={other}: split or packed")),
    };
    let arena = &machine.arena;
    let first = arena.pages(pages);
    let threads = shape.threads.len();
    let seen_pages = (pages * per_page).div_ceil(4096);
    Run {
        shape,
        // Two words an instance: packed, x and y share them, and z has a page of its own.
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
        per_page,
        gap: machine.number("gap", if threads > 2 { 10_000 } else { 1000 }),
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
        run.barrier.pass((thread, threads), 2 * batch, Wait::Spin, || {
            run.tally.word(TALLY_START).store(clock::now() + LEAD_CYCLES, Ordering::Relaxed);
        });
        play(run, thread, batch, run.tally.word(TALLY_START).load(Ordering::Relaxed));
        run.barrier.pass((thread, threads), 2 * batch + 1, Wait::Spin, || ());
        if thread == 0 {
            (0..run.instances()).for_each(|instance| judge(run, batch, instance));
        }
    }
}

/// Runs one thread's operations on every instance of a batch.
fn play(run: &Run, thread: usize, batch: u64, start: u64) {
    let instances = run.instances();
    let mut random = Random::new(run.seed ^ batch << 8 ^ thread as u64);
    let order = Order::of(batch, thread);
    let rotation = random.below(instances as u64) as usize;
    for step in 0..instances {
        let instance = match order {
            Order::Forward => step,
            Order::Backward => instances - 1 - step,
            Order::PageByPage => step % run.pages * run.per_page + step / run.pages,
            Order::Rotated => (step + rotation) % instances,
        };
        if order != Order::Rotated && run.gap > 0 {
            let due = start + step as u64 * run.gap + random.below(run.gap / 4 + 1);
            while clock::now() < due {
                core::hint::spin_loop();
            }
        }
        let seen = operate(run, run.shape.threads[thread], batch, instance);
        set_byte(run, thread, instance, seen);
    }
}

/// In which order a thread visits the instances of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As they lie in memory.
    Forward,
    /// The other way round, against a thread that goes forward.
    Backward,
    /// The first of every page, the second of every page, ...: all pages are in use at once.
    PageByPage,
    /// From a random one on, as fast as possible.
    Rotated,
}

impl Order {
    fn of(batch: u64, thread: usize) -> Self {
        match batch % 4 {
            1 => Self::PageByPage,
            2 if thread % 2 == 1 => Self::Backward,
            3 => Self::Rotated,
            _ => Self::Forward,
        }
    }
}

/// One thread's operations on one instance; gives the digits of its reads.
fn operate(run: &Run, operations: &[Op], batch: u64, instance: usize) -> u8 {
    let word = |variable: usize| run.word(variable, instance).as_ptr();
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
        let value = run.word(variable, instance).load(Ordering::Relaxed);
        // A variable that is written in every batch cannot have its old value in the end.
        digits[count] = seen(batch, value).filter(|&digit| digit != 0).unwrap_or(CORRUPT);
        count += 1;
    }
    let place = match digits[..count].contains(&CORRUPT) {
        true => TALLY_CORRUPT,
        false => Shape::index(&digits[..count]),
    };
    let add = |index: usize, count: u64| {
        let word = run.tally.word(index);
        word.store(word.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    };
    add(place, 1);
    let last = run.tally.word(TALLY_LAST).swap(place as u64, Ordering::Relaxed);
    add(TALLY_CHANGES, u64::from(last != place as u64));
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
    line.number("changes", run.tally.word(TALLY_CHANGES).load(Ordering::Relaxed));
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
