//! KVM's paravirtual asynchronous page faults (Linux, `Documentation/virt/kvm/x86/msr.rst`): a CPU that is told that a page is
//! not there waits until it is told that it has come, and every one is.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;

use crate::runtime::arena::Page;
use crate::runtime::interrupts::ASYNC_VECTOR;
use crate::runtime::machine::Machine;
use crate::runtime::{clock, console, gates};

/// KVM's paravirtual features (CPUID), and the two of them that are needed.
const FEATURES: u32 = 0x4000_0001;
const NEEDED: u32 = 1 << 4 | 1 << 14;
/// MSR_KVM_ASYNC_PF_EN and its bits: enabled, pages that have come are told by an interrupt.
const ENABLE: u32 = 0x4b56_4d02;
const ENABLED: u64 = 1 | 1 << 3;
/// MSR_KVM_ASYNC_PF_INT.
const INTERRUPT: u32 = 0x4b56_4d06;
/// Pages that all CPUs want.
const PAGES: u64 = 64;

/// Every CPU adds to words of random pages, `rounds=` times, and never waits for a page but halted, with interrupts on, until
/// its token comes. All additions count.
pub fn async_faults(machine: &Machine) -> bool {
    let (rounds, seed) = (machine.number("rounds", 20_000), machine.number("seed", 1));
    let (cpus, blocks) = (machine.cpus(), machine.blocks());
    let pages: &'static [Page] = machine.arena.pages(PAGES as usize);
    let offered = gates::cpuid(FEATURES, 0)[0] & NEEDED == NEEDED;
    let start = clock::now();
    if offered {
        machine.run(move |cpu| {
            let data = core::ptr::from_ref(&blocks.get(cpu).async_faults) as u64;
            gates::wrmsr(INTERRUPT, u64::from(ASYNC_VECTOR));
            gates::wrmsr(ENABLE, data | ENABLED);
            let mut random = Random::new(seed + cpu as u64);
            for _ in 0..rounds {
                pages[random.below(PAGES) as usize].word(0).fetch_add(1, Ordering::Relaxed);
            }
            gates::wrmsr(ENABLE, 0);
        });
    }
    let sum: u64 = pages.iter().map(|page| page.word(0).load(Ordering::Acquire)).sum();
    let over_cpus = |figure: fn(&crate::runtime::block::Block) -> u64| -> u64 {
        (0..cpus).map(|cpu| figure(blocks.get(cpu))).sum()
    };
    let absent = over_cpus(|block| block.async_faults.absent.load(Ordering::Acquire));
    let woken_all = over_cpus(|block| block.async_faults.woken_all.load(Ordering::Acquire));
    let told = over_cpus(|block| block.count(ASYNC_VECTOR).load(Ordering::Acquire));
    let ok = offered && sum == rounds * cpus as u64;
    let mut line = Line::new("async_faults");
    line.number("cpus", cpus as u64).number("offered", offered.into()).number("sum", sum);
    line.number("absent", absent).number("told", told).number("woken_all", woken_all);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    ok
}
