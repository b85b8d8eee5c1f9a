//! The machine itself: it prints, and all CPUs come up and know who they are.

use core::sync::atomic::Ordering;

use payload_core::line::Line;

use crate::runtime::machine::Machine;
use crate::runtime::{clock, console, gates};

/// x2APIC: this CPU's id.
const X2APIC_ID: u32 = 0x802;

/// Prints a line.
pub fn hello(machine: &Machine) -> bool {
    let mut line = Line::new("hello");
    line.text("cmdline", machine.cmdline.text())
        .number("cpus", machine.cpus() as u64)
        .number("pages_left", machine.arena.left());
    console::print(format_args!("{}", line.end(true)));
    true
}

/// Every CPU answers with the id that its APIC has; `rounds=` times over.
pub fn smp(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 10);
    let answers = machine.arena.pages(machine.cpus());
    let start = clock::now();
    let mut wrong = 0;
    for round in 1..=rounds {
        machine.run(move |cpu| {
            let answer = &answers[cpu];
            answer.word(1).store(gates::rdmsr(X2APIC_ID), Ordering::Relaxed);
            answer.word(0).store(round, Ordering::Release);
        });
        for (cpu, answer) in answers.iter().enumerate() {
            let right = answer.word(0).load(Ordering::Acquire) == round
                && answer.word(1).load(Ordering::Relaxed) == u64::from(machine.block(cpu).apic_id());
            wrong += u64::from(!right);
        }
    }
    let mut line = Line::new("smp");
    line.number("cpus", machine.cpus() as u64).number("rounds", rounds).number("wrong", wrong);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(wrong == 0)));
    wrong == 0
}
