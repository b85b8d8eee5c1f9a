//! Memory in use from end to end, before something else is measured.

use core::sync::atomic::Ordering;

use payload_core::line::Line;

use crate::runtime::arena::STRIPES;
use crate::runtime::machine::Machine;
use crate::runtime::{clock, console};

/// Pages that are left in each stripe for what comes after.
const LEFT: u64 = 256;

/// Every CPU stores a word into every page of its share of memory, in address order: with as many nodes as CPUs each
/// node's memory is used by a CPU of its own.
pub fn bench_fill(machine: &Machine) -> bool {
    let cpus = machine.cpus();
    let each = machine.arena.left().saturating_sub(LEFT) as usize;
    let pieces = machine.arena.each_stripe(each);
    let start = clock::now();
    machine.run(move |cpu| {
        let mine = cpu * STRIPES / cpus..(cpu + 1) * STRIPES / cpus;
        let pages = pieces[mine].iter().flat_map(|piece| piece.iter());
        pages.for_each(|page| page.word(0).store(1, Ordering::Relaxed));
    });
    let mut line = Line::new("bench_fill");
    line.number("cpus", cpus as u64).number("pages", (each * STRIPES) as u64);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(true)));
    true
}
