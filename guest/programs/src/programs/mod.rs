//! The programs, and how one is run: each prints exactly one line `TESSERA-RESULT {json}`.

pub mod clocks;
pub mod counter;
pub mod disk;
pub mod haul;
pub mod hotplug;
pub mod hvc;
pub mod hwrng;
pub mod ipi;
pub mod mgs;
pub mod numa;
pub mod overlap;
pub mod spawn;
pub mod stamps;
pub mod touch;

use std::io::Write;
use std::time::Instant;

use crate::json::Object;
use crate::orders::Order;
use crate::trouble::Trouble;

/// What a program found.
#[derive(Debug)]
pub struct Finding {
    /// Its own figures.
    pub figures: Object,
    /// The time of the part that counts, in seconds.
    pub seconds: f64,
    /// Whether everything was as it must be.
    pub ok: bool,
}

/// A program.
pub struct Program {
    /// The name in orders.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Runs it.
    pub run: fn(&Order) -> Result<Finding, Trouble>,
}

/// All programs.
pub const ALL: &[Program] = &[
    Program {
        name: "mgs",
        help: "modified Gram-Schmidt on all CPUs: m= n= seed= threads= block= repeat=",
        run: mgs::run,
    },
    Program { name: "clocks", help: "no CPU sees time go back: seconds=", run: clocks::run },
    Program {
        name: "stamps",
        help: "shared and private memory keeps what was written: mb= seconds=",
        run: stamps::run,
    },
    Program {
        name: "counter",
        help: "locked additions all count, aligned and across pages: rounds=",
        run: counter::run,
    },
    Program { name: "hotplug", help: "CPUs go offline and come back under load: rounds=", run: hotplug::run },
    Program {
        name: "numa",
        help: "sysfs shows the machine that it should: nodes= cpus= mb=",
        run: numa::run,
    },
    Program {
        name: "haul",
        help: "memory moves to the first CPU, step by step: mb= pull_mb=; a line of input after each step",
        run: haul::run,
    },
    Program {
        name: "ipi",
        help: "membarrier, thread moves and remapping under fire: seconds=",
        run: ipi::run,
    },
    Program {
        name: "touch",
        help: "memory first touched by all CPUs, checked by others: mb=",
        run: touch::run,
    },
    Program {
        name: "overlap",
        help: "shared pages are touched while other threads compute: kind=add|read|feed kib= seconds=",
        run: overlap::run,
    },
    Program {
        name: "disk",
        help: "a disk keeps what all CPUs write: dev= mb= kib= seed= mode=both|check",
        run: disk::run,
    },
    Program { name: "hwrng", help: "the source of random numbers gives some: bytes=", run: hwrng::run },
    Program { name: "hvc", help: "lines for the virtio console: lines= dev= word=", run: hvc::run },
    Program { name: "spawn", help: "processes, pipes and signals: seconds=", run: spawn::run },
];

/// Runs an order in this process and prints its result line. Gives whether all was well; trouble prints a
/// result that is not ok and says why.
pub fn run_here(order: &Order) -> bool {
    let start = Instant::now();
    let finding = ALL
        .iter()
        .find(|program| program.name == order.program)
        .ok_or_else(|| Trouble::order(&order.program, "there is no such program"))
        .and_then(|program| (program.run)(order));
    match finding {
        Ok(Finding { figures, seconds, ok }) => print_result(&order.program, &figures, seconds, ok),
        Err(trouble) => print_trouble(&order.program, &trouble.to_string(), start.elapsed().as_secs_f64()),
    }
}

/// Prints the result of a program that could not do its work.
pub fn print_trouble(program: &str, why: &str, seconds: f64) -> bool {
    let mut figures = Object::default();
    figures.text("error", why);
    print_result(program, &figures, seconds, false)
}

fn print_result(program: &str, figures: &Object, seconds: f64, ok: bool) -> bool {
    let mut result = Object::default();
    result.text("program", program);
    let mut tail = Object::default();
    tail.float("seconds", seconds).add("ok", ok);
    let figures = figures.to_string();
    let parts =
        [result.to_string(), figures, tail.to_string()].map(|part| part[1..part.len() - 1].to_owned());
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let line = format!("TESSERA-RESULT {{{}}}\n", parts.join(","));
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_not_ok() {
        assert!(!run_here(&"nonsense".parse().unwrap()));
        assert!(!run_here(&"mgs:m=0".parse().unwrap()));
        assert!(!run_here(&"mgs:misspelt=1".parse().unwrap()));
    }
}
