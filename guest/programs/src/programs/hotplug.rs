//! CPUs go offline and come back, through sysfs, while every CPU has something to do. For the machine below
//! this is INIT and start-up of a CPU that has run before, its timer, its interrupts.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::Finding;
use crate::cpus;
use crate::json::{float, Object};
use crate::orders::Order;
use crate::trouble::Trouble;

/// Brings CPU `cpu` online, or takes it offline.
///
/// # Errors
/// Where the kernel refuses, or there is no such CPU.
pub fn set_online(cpu: usize, online: bool) -> Result<(), Trouble> {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    let digit = if online { "1" } else { "0" };
    fs::write(&file, digit).map_err(Trouble::os(format!("writing {digit} to {file}")))
}

/// Takes a CPU away and back. Gives the seconds of both, and whether it did work afterwards.
fn cycle(cpu: usize) -> Result<(f64, f64, bool), Trouble> {
    let start = Instant::now();
    set_online(cpu, false)?;
    let down = start.elapsed().as_secs_f64();
    let gone = !cpus::usable().contains(&cpu);
    let start = Instant::now();
    set_online(cpu, true)?;
    let up = start.elapsed().as_secs_f64();
    let there = cpus::on_each(&[cpu], |_| cpus::current())? == [cpu];
    Ok((down, up, gone && there))
}

/// Runs the program. Parameters: `rounds` (3), in each of which every CPU but the first goes and comes.
///
/// # Errors
/// Parameters that make no sense, or a kernel that does not let CPUs go.
pub fn run(order: &Order) -> Result<Finding, Trouble> {
    order.only(&["rounds"])?;
    let rounds = order.number("rounds", 3, 1)?;
    let all = cpus::usable();
    let some: Vec<usize> = all.iter().copied().filter(|&cpu| cpu != 0).collect();
    if some.is_empty() {
        return Err(Trouble::Unfit("there is only one CPU".to_owned()));
    }
    let (over, work) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    let cycles = std::thread::scope(|scope| {
        for _ in &all {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    work.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        let cycles: Result<Vec<_>, _> =
            (0..rounds).flat_map(|_| some.iter()).map(|&cpu| cycle(cpu)).collect();
        over.store(true, Ordering::Relaxed);
        cycles
    })?;
    let back = cpus::usable() == all;
    let failed = cycles.iter().filter(|(_, _, worked)| !worked).count();
    let slowest = |pick: fn(&(f64, f64, bool)) -> f64| float(cycles.iter().map(pick).fold(0.0, f64::max));
    let mut figures = Object::default();
    figures.add("cpus", all.len()).add("cycles", cycles.len()).add("failed", failed).add("all_back", back);
    figures.add("max_offline_s", slowest(|cycle| cycle.0)).add("max_online_s", slowest(|cycle| cycle.1));
    figures.add("work", work.load(Ordering::Relaxed));
    Ok(Finding { figures, seconds: start.elapsed().as_secs_f64(), ok: failed == 0 && back })
}
