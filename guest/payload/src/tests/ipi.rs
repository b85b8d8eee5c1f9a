//! Interrupts between CPUs: none lost, none twice, none at the wrong place.

use core::sync::atomic::Ordering;

use payload_core::line::Line;

use crate::runtime::arena::Page;
use crate::runtime::block::Block;
use crate::runtime::interrupts::{self, To, What, FIRST_FREE_VECTOR, NMI_VECTOR};
use crate::runtime::machine::{Blocks, Machine};
use crate::runtime::sync::wait_until;
use crate::runtime::{clock, console, gates};

/// Distinct vectors on their way at once.
const WINDOW: u8 = 32;
/// First vector of the window.
const WINDOW_VECTOR: u8 = 0x40;
/// Tells the target that it is over.
const LAST: u8 = FIRST_FREE_VECTOR + 1;
/// Sent to all but self.
const SHORTHAND: u8 = FIRST_FREE_VECTOR + 2;
/// Sent to a logical id.
const LOGICAL: u8 = FIRST_FREE_VECTOR + 3;
/// How long after the last acknowledged interrupt a duplicate may still show up.
const SETTLE_US: u64 = 20_000;

/// One CPU (`from=`) sends `rounds=` fixed interrupts to another (`to=`): half of them one at a time, each
/// waiting for the count, half in windows of 32 vectors. The target spins for the first half of each and
/// halts for the second.
pub fn ipi_count(machine: &Machine) -> bool {
    let (from, to) = (machine.cpu("from", 0), machine.cpu("to", 1));
    let rounds = machine.number("rounds", 2000).max(4);
    let (sender, target) = (machine.block(from), machine.block(to));
    let state = machine.arena.pages(2);
    let start = clock::now();
    machine.run(move |cpu| {
        if cpu == from {
            for halting in [0, 1] {
                state[0].word(1).store(halting, Ordering::Release);
                one_by_one(target, rounds / 4, halting);
                in_windows(target, rounds / 4);
            }
            clock::spin(clock::us(SETTLE_US));
            state[0].word(0).store(1, Ordering::Release);
            // The target may be halted and must come to see that it is over.
            interrupts::send(To::Cpu(target.apic_id()), What::Fixed(LAST));
        } else if cpu == to {
            receive(
                target,
                || state[0].word(0).load(Ordering::Acquire) != 0,
                || state[0].word(1).load(Ordering::Acquire) != 0,
            );
        }
    });
    let windows = rounds / 4 / u64::from(WINDOW);
    let expected = |vector: u8| match vector {
        FIRST_FREE_VECTOR => rounds / 4 * 2,
        v if (WINDOW_VECTOR..WINDOW_VECTOR + WINDOW).contains(&v) => windows * 2,
        LAST => 1,
        _ => 0,
    };
    // 0x2f wakes idle CPUs and is not part of the test.
    let wrong: u64 = (FIRST_FREE_VECTOR..=0xfe)
        .map(|v| target.count(v).load(Ordering::Acquire).abs_diff(expected(v)))
        .sum();
    let astray: u64 = (FIRST_FREE_VECTOR..=0xfe).map(|v| sender.count(v).load(Ordering::Acquire)).sum();
    let sent = rounds / 4 * 2 + windows * u64::from(WINDOW) * 2;
    let ok = wrong == 0 && astray == 0;
    let mut line = Line::new("ipi_count");
    line.number("from", from as u64)
        .number("to", to as u64)
        .number("sent", sent)
        .number("wrong", wrong)
        .number("astray", astray);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    forget_counts(machine);
    ok
}

fn one_by_one(target: &'static Block, rounds: u64, phase: u64) {
    let count = target.count(FIRST_FREE_VECTOR);
    for round in 1..=rounds {
        interrupts::send(To::Cpu(target.apic_id()), What::Fixed(FIRST_FREE_VECTOR));
        wait_until("the arrival of an interrupt", || count.load(Ordering::Acquire) >= phase * rounds + round);
    }
}

fn in_windows(target: &'static Block, rounds: u64) {
    for _ in 0..rounds / u64::from(WINDOW) {
        let vectors = WINDOW_VECTOR..WINDOW_VECTOR + WINDOW;
        let before = target.count(WINDOW_VECTOR).load(Ordering::Acquire);
        for vector in vectors.clone() {
            interrupts::send(To::Cpu(target.apic_id()), What::Fixed(vector));
        }
        for vector in vectors {
            wait_until("the arrival of an interrupt of a window", || {
                target.count(vector).load(Ordering::Acquire) > before
            });
        }
    }
}

/// The target: spins or halts until told that it is over.
fn receive(me: &'static Block, over: impl Fn() -> bool, halting: impl Fn() -> bool) {
    let last = me.count(LAST);
    loop {
        // Read before looking whether it is over: an interrupt that comes after the look keeps the CPU from
        // halting.
        let seen = last.load(Ordering::Acquire);
        if over() {
            break;
        }
        if halting() {
            gates::wait_while(last, seen);
        } else {
            core::hint::spin_loop();
        }
    }
    wait_until("the last interrupt", || last.load(Ordering::Acquire) > 0);
}

/// Lets each later test start from counts of zero.
fn forget_counts(machine: &Machine) {
    for cpu in 0..machine.cpus() {
        (FIRST_FREE_VECTOR..=0xfe)
            .for_each(|vector| machine.block(cpu).count(vector).store(0, Ordering::Release));
    }
}

/// Every CPU in turn sends `rounds=` times to all but itself, and as often to the logical id of each other;
/// each interrupt arrives once.
pub fn ipi_all(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 500);
    let cpus = machine.cpus();
    let blocks = machine.blocks();
    let ids = machine.arena.pages(cpus);
    let start = clock::now();
    machine.run(move |cpu| ids[cpu].word(0).store(u64::from(interrupts::logical_id()), Ordering::Release));
    for sender in 0..cpus {
        machine.run(move |cpu| {
            if cpu == sender {
                send_to_others(blocks, ids, sender, rounds);
            }
        });
    }
    clock::spin(clock::us(SETTLE_US));
    let expected = rounds * (cpus as u64 - 1);
    let count = |cpu: usize, vector| blocks.get(cpu).count(vector).load(Ordering::Acquire);
    let wrong: u64 = (0..cpus)
        .map(|cpu| count(cpu, SHORTHAND).abs_diff(expected) + count(cpu, LOGICAL).abs_diff(expected))
        .sum();
    let mut line = Line::new("ipi_all");
    line.number("cpus", cpus as u64).number("rounds", rounds).number("wrong", wrong);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(wrong == 0)));
    forget_counts(machine);
    wrong == 0
}

fn send_to_others(blocks: Blocks, ids: &'static [Page], sender: usize, rounds: u64) {
    let others = || (0..ids.len()).filter(|&other| other != sender);
    // All senders before this one have reached everybody but themselves.
    let before = |other: usize| (sender - usize::from(other < sender)) as u64 * rounds;
    let arrived = |vector: u8, round: u64| {
        others().all(|other| blocks.get(other).count(vector).load(Ordering::Acquire) >= before(other) + round)
    };
    for round in 1..=rounds {
        interrupts::send(To::AllButSelf, What::Fixed(SHORTHAND));
        wait_until("an interrupt to all but self", || arrived(SHORTHAND, round));
        for other in others() {
            let id = ids[other].word(0).load(Ordering::Acquire) as u32;
            interrupts::send(To::Logical(id), What::Fixed(LOGICAL));
        }
        wait_until("an interrupt to a logical id", || arrived(LOGICAL, round));
    }
}

/// NMIs from one CPU (`from=`) to another (`to=`), one at a time, `rounds=` of them: half while the target
/// spins, half while it halts.
pub fn nmi(machine: &Machine) -> bool {
    let (from, to) = (machine.cpu("from", 0), machine.cpu("to", 1));
    let rounds = machine.number("rounds", 1000).max(2);
    let target = machine.block(to);
    let state = machine.arena.page();
    let count = target.count(NMI_VECTOR);
    let before = count.load(Ordering::Acquire);
    let start = clock::now();
    machine.run(move |cpu| {
        if cpu == from {
            for round in 1..=rounds {
                state.word(1).store(u64::from(round > rounds / 2), Ordering::Release);
                interrupts::send(To::Cpu(target.apic_id()), What::Nmi);
                wait_until("the arrival of an NMI", || count.load(Ordering::Acquire) >= before + round);
            }
            clock::spin(clock::us(SETTLE_US));
            state.word(0).store(1, Ordering::Release);
            interrupts::send(To::Cpu(target.apic_id()), What::Fixed(LAST));
        } else if cpu == to {
            receive(
                target,
                || state.word(0).load(Ordering::Acquire) != 0,
                || state.word(1).load(Ordering::Acquire) != 0,
            );
        }
    });
    let wrong = (count.load(Ordering::Acquire) - before).abs_diff(rounds);
    let mut line = Line::new("nmi");
    line.number("from", from as u64).number("to", to as u64).number("sent", rounds).number("wrong", wrong);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(wrong == 0)));
    forget_counts(machine);
    wrong == 0
}

/// Restarts a CPU (`to=`) by INIT and SIPI `rounds=` times; after each it works again.
pub fn initsipi(machine: &Machine) -> bool {
    let to = machine.cpu("to", 1).max(1);
    let rounds = machine.number("rounds", 20);
    let answer = machine.arena.page().word(0);
    let block = machine.block(to);
    let before = block.starts.load(Ordering::Acquire);
    let start = clock::now();
    for _ in 0..rounds {
        machine.start(to);
        machine.run(move |cpu| {
            if cpu == to {
                answer.fetch_add(1, Ordering::AcqRel);
            }
        });
    }
    let starts = block.starts.load(Ordering::Acquire) - before;
    let answers = answer.load(Ordering::Acquire);
    let ok = starts == rounds && answers == rounds;
    let mut line = Line::new("initsipi");
    line.number("to", to as u64).number("rounds", rounds).number("starts", starts).number("answers", answers);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    ok
}
