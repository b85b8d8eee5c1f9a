#![no_std]
#![no_main]
//! Tessera's bare-metal payload: tests of memory order, interrupts, time and moves that need no operating
//! system.
//!
//! It is a static ELF64 for 1 MiB, entered in long mode with RSI = Linux zero page. Ring 0 is a few
//! instructions (`runtime/ring0.s`); every test runs in ring 3. What to run comes from the command line: see
//! `docs/payloads.md`.

mod runtime;
mod tests;

use payload_core::cmdline::Cmdline;
use runtime::arena::{Arena, Homes};
use runtime::block::Block;
use runtime::boot::ZeroPage;
use runtime::exit::{exit, fail, Status};
use runtime::machine::{Idle, Machine, MAX_CPUS};
use runtime::{clock, interrupts, paging, sync};

core::arch::global_asm!(".set TRAMPOLINE_PAGE, 0x40000", include_str!("runtime/ring0.s"));
const _: () = assert!(runtime::machine::TRAMPOLINE_PAGE == 0x40000);

/// Where `ring0.s` leads the boot CPU.
#[unsafe(no_mangle)]
extern "C" fn boot_main(block: &'static Block) -> ! {
    interrupts::install();
    let zero_page = ZeroPage::new(block.boot_params());
    let cmdline = Cmdline::new(zero_page.command_line());
    let arena = Arena::new(zero_page);
    paging::map_high_memory(&arena, zero_page);

    let mut ids = [0; MAX_CPUS];
    let machine = Machine::new(cmdline, arena, apic_ids(cmdline, &mut ids), idle(cmdline));
    clock::set_khz(machine.number("tsc_khz", clock::khz()));
    sync::set_limit_s(machine.number("limit", 60));
    if cmdline.word("homes") == Some("low") {
        machine.arena.set_homes(Homes::Low);
    }
    machine.start_all();
    say!("TESSERA-READY {{\"cpus\":{},\"payload\":true}}", machine.cpus());

    let mut status = Status::Passed;
    for name in cmdline.word("test").unwrap_or("hello").split(',') {
        if !tests::run(name, &machine) {
            status = Status::Failed;
        }
    }
    exit(status)
}

/// The list under `apic=`, else 0..`cpus=`, else one CPU.
fn apic_ids<'a>(cmdline: Cmdline<'static>, room: &'a mut [u64; MAX_CPUS]) -> &'a [u64] {
    let listed = match cmdline.numbers("apic", room) {
        Ok(list) => list.len(),
        Err(bad) => fail(
            Status::Usage,
            format_args!("{}={} is no list of up to {MAX_CPUS} APIC ids", bad.key, bad.value),
        ),
    };
    if listed > 0 {
        return &room[..listed];
    }
    match cmdline.number("cpus", 1) {
        Ok(count @ 1..=256) => {
            room.iter_mut().zip(0..).for_each(|(id, index)| *id = index);
            &room[..count as usize]
        }
        _ => fail(Status::Usage, format_args!("cpus= is not between 1 and {MAX_CPUS}")),
    }
}

fn idle(cmdline: Cmdline<'static>) -> Idle {
    match cmdline.word("idle") {
        None | Some("halt") => Idle::Halt,
        Some("spin") => Idle::Spin,
        Some(other) => fail(Status::Usage, format_args!("idle={other}: spin or halt")),
    }
}
