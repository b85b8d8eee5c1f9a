//! The threads' part: pages into some state, then the code, on each instance at about the same time.
//!
//! The runner must get along where memory is broken, or nobody learns of it. So what it has to say it says on the page of
//! the barrier itself, and where a CPU comes to a page that it may have an old copy of, it makes the page its own first.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use payload_core::assignment::Assignment;
use payload_core::pace;
use payload_core::random::Random;
use tessera_litmus::table::{Record, ARG_ADDRESSES, ARG_BASE, ARG_LOG, ARG_STEP, ARG_WORDS, THREADS_MAX};
use tessera_litmus::value::{base, Alignment, BATCH_MAX, STEP};

use super::judge::{self, Tally};
use super::places::{Places, INSTANCES_MAX};
use crate::runtime::arena::Page;
use crate::runtime::clock;
use crate::runtime::exit::{fail, Status};
use crate::runtime::interrupts::FIRST_FREE_VECTOR;
use crate::runtime::machine::Blocks;
use crate::runtime::machine::Machine;
use crate::runtime::sync::{Barrier, Doze};

/// Words of a thread's log for each instance: at least as many as it may have loads.
const LOG_WORDS: usize = 8;
/// Pages of a thread's log.
const LOG_PAGES: usize = (INSTANCES_MAX * LOG_WORDS).div_ceil(512);

/// The timer that wakes a CPU which waits for others.
const DOZE_VECTOR: u8 = FIRST_FREE_VECTOR + 7;

/// Words of the barrier's board: when the batch begins; whether the turn is over; cycles between instances; cycles from
/// naming the beginning until then; the batch.
const START: usize = 1;
const STOP: usize = 2;
const GAP: usize = 3;
const LEAD: usize = 4;
const BATCH: usize = 5;
/// Words of a thread's page about a batch: how many instances began late; by how many cycles the first one did.
const LATE: usize = 0;
const LATE_BY: usize = 1;

/// What all tests of a run share.
#[derive(Clone, Copy)]
pub struct Stage {
    logs: &'static [Page],
    /// Per thread, how late it was in the last batch.
    late: &'static [Page],
    barrier: Barrier,
    blocks: Blocks,
    /// 0: it is found out.
    fixed_gap: u64,
    seed: u64,
}

impl Stage {
    /// Takes pages for it, and words of the command line.
    pub fn new(machine: &Machine) -> Self {
        let arena = &machine.arena;
        Self {
            logs: arena.pages(THREADS_MAX * LOG_PAGES),
            late: arena.pages(THREADS_MAX),
            barrier: Barrier::new(arena, THREADS_MAX),
            blocks: machine.blocks(),
            fixed_gap: machine.number("gap", 0),
            seed: machine.number("seed", 1),
        }
    }

    /// Before each test.
    pub fn begin(&self) {
        let gap = if self.fixed_gap == 0 { 2000 } else { self.fixed_gap };
        self.barrier.board().word(GAP).store(gap, Ordering::Relaxed);
        self.barrier.board().word(LEAD).store(pace::LEAD_MIN, Ordering::Relaxed);
        self.barrier.board().word(STOP).store(0, Ordering::Relaxed);
    }

    /// Cycles between instances, as they are now.
    pub fn gap(&self) -> u64 {
        self.barrier.board().word(GAP).load(Ordering::Relaxed)
    }

    /// Cycles from naming the beginning of a batch until then, as they are now.
    pub fn lead(&self) -> u64 {
        self.barrier.board().word(LEAD).load(Ordering::Relaxed)
    }

    /// A number below `bound` that differs from test to test.
    pub fn shift(&self, bound: u64) -> u64 {
        Random::new(self.seed ^ self.barrier.board().word(BATCH).load(Ordering::Relaxed)).below(bound)
    }

    /// What a load gave.
    pub fn logged(&self, thread: usize, instance: usize, load: usize) -> u64 {
        self.log(thread, instance, load).load(Ordering::Relaxed)
    }

    fn log(&self, thread: usize, instance: usize, load: usize) -> &'static AtomicU64 {
        let index = instance * LOG_WORDS + load;
        self.logs[thread * LOG_PAGES + index / 512].word(index % 512)
    }

    /// The number of the next batch, the same for all threads between two barriers.
    fn next_batch(&self) -> u64 {
        let batch = self.barrier.board().word(BATCH);
        take(batch.as_ptr() as u64);
        batch.load(Ordering::Relaxed) + 1
    }

    /// Makes the threads' logs this CPU's own.
    fn collect(&self, threads: usize) {
        self.logs[..threads * LOG_PAGES].iter().for_each(|page| take(page.address()));
    }

    /// After a batch: when the next one begins, and how fast it goes.
    fn adapt(&self, threads: usize, instances: usize) {
        let late = self.late[..threads].iter().map(|page| page.word(LATE).load(Ordering::Relaxed)).sum();
        let latest = self.late[..threads].iter().map(|page| page.word(LATE_BY).load(Ordering::Relaxed)).max();
        let lead = pace::next_lead(self.lead(), latest.unwrap_or(0));
        self.barrier.board().word(LEAD).store(lead, Ordering::Relaxed);
        if self.fixed_gap == 0 {
            let gap = pace::next_gap(self.gap(), late, (threads * instances) as u64);
            self.barrier.board().word(GAP).store(gap, Ordering::Relaxed);
        }
    }
}

/// A test in a placement.
#[derive(Clone, Copy)]
pub struct Run {
    /// The test.
    pub record: Record<'static>,
    /// Its variables.
    pub places: Places,
    /// What all tests share.
    pub stage: Stage,
    /// What was seen.
    pub tally: Tally,
}

/// The same threads on the same CPUs for some batches.
#[derive(Clone, Copy)]
pub struct Turn {
    /// The CPU of each thread.
    pub assignment: Assignment,
    /// How many batches.
    pub batches: u64,
    /// When it ends in any case, if it is limited.
    pub until: u64,
    /// Whether it is.
    pub limited: bool,
}

/// What CPU `cpu` does in a turn: nothing, unless it stands for a thread.
pub fn take_part(run: &Run, turn: &Turn, cpu: usize) {
    let threads = run.record.threads().len();
    let Some(thread) = turn.assignment[..threads].iter().position(|&assigned| assigned == cpu) else {
        return;
    };
    let (stage, control) = (&run.stage, run.stage.barrier.board());
    let doze = Doze::new(stage.blocks.get(cpu), DOZE_VECTOR);
    let first = stage.next_batch();
    for done in 0..turn.batches {
        let batch = first + done;
        if batch > u64::from(BATCH_MAX) {
            fail(Status::Usage, format_args!("more batches than there are values for"));
        }
        let mood = Mood::of(stage.seed, batch);
        mood.prepare(run, thread);
        stage.barrier.pass((thread, threads), 2 * batch, doze, || {
            let stop = turn.limited && done > 0 && clock::now() > turn.until;
            control.word(STOP).store(u64::from(stop), Ordering::Relaxed);
            control.word(START).store(clock::now() + stage.lead(), Ordering::Relaxed);
        });
        let stop = control.word(STOP).load(Ordering::Relaxed) != 0;
        if !stop {
            play(run, thread, batch as u32, &mood);
        }
        stage.barrier.pass((thread, threads), 2 * batch + 1, doze, || {
            control.word(BATCH).store(batch, Ordering::Relaxed);
            if !stop {
                stage.adapt(threads, run.places.instances);
            }
        });
        if stop {
            return;
        }
        if thread == 0 {
            stage.collect(threads);
            (0..run.places.instances).for_each(|instance| judge::instance(run, batch as u32, instance));
        }
    }
}

/// Runs one thread's code on every instance.
fn play(run: &Run, thread: usize, batch: u32, mood: &Mood) {
    let instances = run.places.instances;
    let (start, gap) = (run.stage.barrier.board().word(START).load(Ordering::Relaxed), run.stage.gap());
    let mut random = Random::new(run.stage.seed ^ u64::from(batch) << 8 ^ thread as u64);
    // From exactly together to apart by a whole gap.
    let jitter = 1 << random.below(u64::from(gap.ilog2()) + 1);
    let code = &run.record.threads()[thread];
    let mut arguments = [0; ARG_WORDS];
    arguments[ARG_BASE] = base(batch);
    arguments[ARG_STEP] = STEP;
    let (mut late, mut late_by) = (0, 0);
    for step in 0..instances {
        let instance = mood.instance(step, thread, instances);
        arguments[ARG_LOG] = run.stage.log(thread, instance, 0).as_ptr() as u64;
        for (word, &variable) in arguments[ARG_ADDRESSES..].iter_mut().zip(code.variables) {
            *word = run.places.address(usize::from(variable), instance);
        }
        if mood.paced || step == 0 {
            let due = start + step as u64 * gap + random.below(jitter);
            let by = clock::now().saturating_sub(due);
            late += u64::from(by > 0);
            late_by = if step == 0 { by } else { late_by };
            while clock::now() < due {
                core::hint::spin_loop();
            }
        }
        call(code.code, &arguments);
    }
    let page = &run.stage.late[thread];
    // What is not paced says nothing about the pace.
    page.word(LATE).store(if mood.paced { late } else { instances as u64 / 3 }, Ordering::Relaxed);
    page.word(LATE_BY).store(late_by, Ordering::Relaxed);
}

fn call(code: &[u8], arguments: &[u64; ARG_WORDS]) {
    // SAFETY: the code is a function of this type, made by the encoder; it touches its stack, and the variables and
    // the log that the arguments lead to, which are words of arena pages.
    unsafe {
        let function: extern "sysv64" fn(*const u64) = core::mem::transmute(code.as_ptr());
        function(arguments.as_ptr());
    }
}

/// How the threads meet in a batch, the same for all of them.
struct Mood {
    pages: Pages,
    order: Order,
    /// Whether the clock says when an instance begins.
    paced: bool,
    random: Random,
}

/// Who has which page at first.
#[derive(Clone, Copy)]
enum Pages {
    /// As the last batch left them.
    AsTheyAre,
    /// All threads read all of them.
    Shared,
    /// Each belongs to one of the threads.
    Owned,
    /// Each thread reads or owns some of them.
    Mixed,
}

/// In which order a thread visits the instances.
#[derive(Clone, Copy)]
enum Order {
    /// All threads in the same one.
    Same,
    /// Each thread one instance behind the next.
    Staggered,
    /// Every second thread the other way round.
    Crossing,
}

impl Mood {
    fn of(seed: u64, batch: u64) -> Self {
        let mut random = Random::new(seed.rotate_left(32) ^ batch);
        let pages = [Pages::AsTheyAre, Pages::Shared, Pages::Owned, Pages::Mixed][random.below(4) as usize];
        let order = match random.below(8) {
            0 => Order::Crossing,
            1 | 2 => Order::Staggered,
            _ => Order::Same,
        };
        Self { pages, order, paced: random.below(4) > 0, random }
    }

    /// The instance that a thread visits at `step`.
    fn instance(&self, step: usize, thread: usize, instances: usize) -> usize {
        let first = self.random.clone().below(instances as u64) as usize;
        let step = match self.order {
            Order::Same => step,
            Order::Staggered => step + thread,
            Order::Crossing if thread % 2 == 1 => instances - 1 - step,
            Order::Crossing => step,
        };
        (first + step) % instances
    }

    /// A thread's part in bringing the pages into their state.
    fn prepare(&self, run: &Run, thread: usize) {
        let threads = run.record.threads().len();
        let (mut common, mut own) = (self.random, self.random);
        (0..thread + 1).for_each(|_| own = Random::new(own.word()));
        for instance in 0..run.places.instances {
            for variable in 0..run.record.variables() {
                let touch = match self.pages {
                    Pages::AsTheyAre => return,
                    Pages::Shared => Some(read as fn(u64)),
                    Pages::Owned => {
                        (common.below(threads as u64) as usize == thread).then_some(take as fn(u64))
                    }
                    Pages::Mixed => match own.below(8) {
                        0 => Some(take as fn(u64)),
                        1..=3 => Some(read as fn(u64)),
                        _ => None,
                    },
                };
                let address = run.places.address(variable, instance);
                if let Some(touch) = touch {
                    touch(address);
                    if run.record.alignment == Alignment::Straddling {
                        touch(address + 4);
                    }
                }
            }
        }
    }
}

fn read(address: u64) {
    // SAFETY: four bytes of an arena page.
    unsafe { asm!("mov {:e}, [{}]", out(reg) _, in(reg) address, options(nostack, preserves_flags)) };
}

/// Makes the page this CPU's own, and changes nothing in it.
fn take(address: u64) {
    // SAFETY: a locked operation that leaves four bytes of an arena page as they are.
    unsafe { asm!("lock or dword ptr [{}], 0", in(reg) address, options(nostack)) };
}
