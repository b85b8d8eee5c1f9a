//! The tests. Each takes its words from the command line, prints one result line and says whether it passed.

mod atomics;
mod basic;
mod bench;
mod bench_bulk;
mod bench_fault;
mod bench_fill;
mod code;
mod hostile;
mod ipi;
mod latency;
mod litmus;
mod memory;
mod moves;
mod pci;
mod time;

use crate::runtime::exit::{fail, Status};
use crate::runtime::machine::Machine;

/// A test: whether it passed.
type Test = fn(&Machine) -> bool;

const TESTS: &[(&str, Test)] = &[
    ("hello", basic::hello),
    ("smp", basic::smp),
    ("xadd", atomics::xadd),
    ("xadd_straddle", atomics::xadd_straddle),
    ("cas16", atomics::cas16),
    ("ipi_count", ipi::ipi_count),
    ("ipi_all", ipi::ipi_all),
    ("nmi", ipi::nmi),
    ("initsipi", ipi::initsipi),
    ("move_bench", moves::move_bench),
    ("move_halt", moves::move_halt),
    ("tsc", time::tsc),
    ("timer", time::timer),
    ("mem_touch", memory::mem_touch),
    ("tablepage", memory::tablepage),
    ("latency", latency::latency),
    ("litmus", litmus::litmus),
    ("code", code::code),
    ("bench_fill", bench_fill::bench_fill),
    ("bench_fault", bench_fault::bench_fault),
    ("bench_touch", bench_fault::bench_touch),
    ("bench_pingpong", bench_fault::bench_pingpong),
    ("bench_scan", bench_bulk::bench_scan),
    ("bench_private", bench_bulk::bench_private),
    ("bench_rate", bench_bulk::bench_rate),
    ("pci", pci::pci),
    ("disk", pci::disk),
    ("registers", hostile::registers),
    ("rings", hostile::rings),
];

/// Runs the test of that name; an unknown name ends the run.
pub fn run(name: &str, machine: &Machine) -> bool {
    match TESTS.iter().find(|(known, _)| *known == name) {
        Some((_, test)) => test(machine),
        None => fail(Status::Usage, format_args!("there is no test {name}")),
    }
}
