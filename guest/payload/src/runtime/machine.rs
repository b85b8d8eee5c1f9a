//! All CPUs as one machine: start them, give them work.

use core::mem::{align_of, size_of};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use payload_core::cmdline::Cmdline;

use super::arena::{Arena, Page};
use super::block::Block;
use super::exit::{fail, Status};
use super::interrupts::{self, To, What};
use super::{clock, gates, sync};

/// CPUs that the AP table has room for.
pub const MAX_CPUS: usize = 256;
/// Bytes of a CPU's ring-3 stack.
const STACK_BYTES: u64 = 64 << 10;
/// Page of the real-mode trampoline; `ring0.s` gets it as `TRAMPOLINE_PAGE`.
pub const TRAMPOLINE_PAGE: u64 = 0x40000;
/// Wakes CPUs that idle in HLT.
const WAKE_VECTOR: u8 = 0x2f;
/// Where a job's captured values lie in the job page.
const JOB_OFFSET: usize = 64;

unsafe extern "C" {
    static boot_block: Block;
    static ap_table: [[AtomicU64; 2]; MAX_CPUS + 1];
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// The job page, and one page a CPU for the number of the last job done: what APs need to find.
static JOB: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());
static DONE: AtomicPtr<Page> = AtomicPtr::new(core::ptr::null_mut());
static IDLE_HALTS: AtomicU64 = AtomicU64::new(0);

/// How CPUs without work wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// They watch the job page.
    Spin,
    /// They halt and are woken by an interrupt.
    Halt,
}

/// The blocks of all CPUs, in a form that jobs can take along.
#[derive(Clone, Copy)]
pub struct Blocks(&'static Page);

impl Blocks {
    /// The block of CPU `index`, which must exist.
    pub fn get(self, index: usize) -> &'static Block {
        // SAFETY: the machine stored the addresses of blocks, which live for ever, for all its CPUs.
        unsafe { &*(self.0.word(index).load(Ordering::Relaxed) as *const Block) }
    }
}

/// The machine, in the hands of the boot CPU.
pub struct Machine {
    /// The command line.
    pub cmdline: Cmdline<'static>,
    /// Pages for tests.
    pub arena: Arena,
    blocks: Blocks,
    count: usize,
    job: &'static Page,
    done: &'static [Page],
}

impl Machine {
    /// Prepares blocks and stacks for CPUs with these x2APIC ids, the boot CPU first. Starts none.
    pub fn new(cmdline: Cmdline<'static>, arena: Arena, apic_ids: &[u64], idle: Idle) -> Self {
        // SAFETY: the boot CPU's block in the image.
        let boot: &'static Block = unsafe { &boot_block };
        // SAFETY: the table in the image; APs read it after they are started.
        let table = unsafe { &ap_table };
        let blocks = arena.page();
        blocks.word(0).store(boot.address(), Ordering::Relaxed);
        boot.identify(0, apic_ids[0] as u32);
        for (index, &id) in apic_ids.iter().enumerate().skip(1) {
            let memory = arena.aligned_block(size_of::<Block>() as u64);
            // SAFETY: 16 KiB of zeroed memory with the block's alignment, used as nothing else.
            let block: &'static Block = unsafe { &*memory.as_ptr().cast::<Block>() };
            let stack = arena.aligned_block(STACK_BYTES);
            block.prepare(index, id as u32, stack.as_ptr() as u64 + STACK_BYTES, ap_main);
            blocks.word(index).store(block.address(), Ordering::Relaxed);
            table[index - 1][0].store(id, Ordering::Relaxed);
            table[index - 1][1].store(block.address(), Ordering::Relaxed);
        }
        let job = arena.page();
        let done = arena.pages(apic_ids.len());
        JOB.store(core::ptr::from_ref(job).cast_mut(), Ordering::Relaxed);
        DONE.store(done.as_ptr().cast_mut(), Ordering::Relaxed);
        IDLE_HALTS.store(u64::from(idle == Idle::Halt), Ordering::Relaxed);
        install_trampoline();
        Self { cmdline, arena, blocks: Blocks(blocks), count: apic_ids.len(), job, done }
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> usize {
        self.count
    }

    /// The block of CPU `index`.
    pub fn block(&self, index: usize) -> &'static Block {
        self.blocks.get(index)
    }

    /// All blocks.
    pub fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// Starts (or restarts) CPU `index` by INIT and two SIPIs, as the MP specification and Linux do, and
    /// waits until it is in ring 3.
    pub fn start(&self, index: usize) {
        let block = self.block(index);
        let starts = block.starts.load(Ordering::Acquire);
        let to = To::Cpu(block.apic_id());
        interrupts::send(to, What::Init);
        clock::spin(clock::us(200));
        for _ in 0..2 {
            interrupts::send(to, What::Startup((TRAMPOLINE_PAGE >> 12) as u8));
            clock::spin(clock::us(300));
        }
        sync::wait_until("the start of an AP", || block.starts.load(Ordering::Acquire) > starts);
    }

    /// Starts all APs, one after another.
    pub fn start_all(&self) {
        (1..self.count).for_each(|index| self.start(index));
    }

    /// Runs `job` on every CPU, the argument being the CPU's index, and returns when all have done it. The
    /// job is copied into its own page: nothing of the boot CPU's stack is shared.
    pub fn run<F: Fn(usize) + Copy + Send + Sync + 'static>(&self, job: F) {
        const { assert!(size_of::<F>() <= 2048 && align_of::<F>() <= JOB_OFFSET, "a job captures too much") };
        let number = self.job.word(0).load(Ordering::Relaxed) + 1;
        // SAFETY: no CPU reads the job page's body between the last job's end and the new number.
        unsafe {
            core::ptr::write((self.job.address() as *mut u8).add(JOB_OFFSET).cast::<F>(), job);
        }
        self.job.word(1).store(call::<F> as *const () as u64, Ordering::Relaxed);
        self.job.word(0).store(number, Ordering::Release);
        if IDLE_HALTS.load(Ordering::Relaxed) != 0 && self.count > 1 {
            interrupts::send(To::AllButSelf, What::Fixed(WAKE_VECTOR));
        }
        job(0);
        for done in &self.done[1..self.count] {
            sync::wait_until("the end of a job on an AP", || done.word(0).load(Ordering::Acquire) >= number);
        }
    }

    /// The number under `key`, or `default`; a bad one ends the run.
    pub fn number(&self, key: &'static str, default: u64) -> u64 {
        self.cmdline
            .number(key, default)
            .unwrap_or_else(|bad| fail(Status::Usage, format_args!("{}={} is no number", bad.key, bad.value)))
    }

    /// The index of a CPU under `key`, or `default`; one that does not exist ends the run.
    pub fn cpu(&self, key: &'static str, default: usize) -> usize {
        let index = self.number(key, default as u64) as usize;
        if index >= self.count {
            fail(Status::Usage, format_args!("{key}={index}: there are {} CPUs", self.count));
        }
        index
    }
}

/// Calls the job at `data`.
///
/// # Safety
/// `data` points to a valid `F`.
unsafe fn call<F: Fn(usize)>(data: *const u8, index: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*data.cast::<F>())(index) };
}

fn install_trampoline() {
    let (start, end) = ((&raw const trampoline_start) as u64, (&raw const trampoline_end) as u64);
    // SAFETY: the trampoline's bytes are part of the image; its page below 1 MiB is usable memory that
    // nothing else uses (the loader's own data lie below 0x21000 and from 0x9fc00 on).
    unsafe {
        core::ptr::copy_nonoverlapping(
            start as *const u8,
            TRAMPOLINE_PAGE as *mut u8,
            (end - start) as usize,
        );
    }
}

/// Where `ring0.s` leads an AP, after every start.
extern "C" fn ap_main(block: &'static Block) -> ! {
    let index = block.index();
    // SAFETY: both were set before any AP was started and are never freed.
    let (job, done) = unsafe { (&*JOB.load(Ordering::Relaxed), &*DONE.load(Ordering::Relaxed).add(index)) };
    let done = done.word(0);
    // A CPU that was restarted does not do over what it was doing.
    let mut last = job.word(0).load(Ordering::Acquire);
    done.store(last, Ordering::Release);
    // Only now may the boot CPU go on: a job that it publishes must find this CPU waiting for it.
    block.starts.fetch_add(1, Ordering::AcqRel);
    loop {
        let wakes = block.count(WAKE_VECTOR).load(Ordering::Acquire);
        let number = job.word(0).load(Ordering::Acquire);
        if number == last {
            if IDLE_HALTS.load(Ordering::Relaxed) != 0 {
                gates::wait_while(block.count(WAKE_VECTOR), wakes);
            }
            core::hint::spin_loop();
            continue;
        }
        // SAFETY: `run` wrote the pointer and the captured values before the number, and leaves them until
        // all are done.
        unsafe {
            let call: unsafe fn(*const u8, usize) = core::mem::transmute(job.word(1).load(Ordering::Relaxed));
            call((job.address() as *const u8).add(JOB_OFFSET), index);
        }
        last = number;
        done.store(number, Ordering::Release);
    }
}
