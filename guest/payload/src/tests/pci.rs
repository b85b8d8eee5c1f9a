//! PCI from all CPUs: everybody finds the same devices, and a disk keeps what any CPU writes, whichever CPU its
//! interrupts go to.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;

use crate::runtime::arena::Page;
use crate::runtime::interrupts::FIRST_FREE_VECTOR;
use crate::runtime::machine::Machine;
use crate::runtime::sync::wait_until;
use crate::runtime::virtio::{self, Buffer, Driver};
use crate::runtime::{clock, console, pci};

/// Kind of a disk (virtio 1.2, 5).
const DISK: u32 = 2;
/// Bytes of a transfer.
const PAGE: u32 = 4096;
const SECTORS_OF_PAGE: u64 = 8;
/// The vector of the disk.
const VECTOR: u8 = FIRST_FREE_VECTOR + 9;
/// Where in the page of a request's head the status is.
const STATUS: usize = 64;

/// Every CPU in turn walks the bus by ports and by memory; `devices=` says how many there must be, the bridge included.
pub fn pci(machine: &Machine) -> bool {
    let expected = machine.number("devices", 1);
    let seen = machine.arena.pages(machine.cpus());
    let start = clock::now();
    for walker in 0..machine.cpus() {
        machine.run(move |cpu| {
            if cpu == walker {
                walk(&seen[cpu]);
            }
        });
    }
    let count = |page: &Page| page.word(0).load(Ordering::Acquire);
    let sum = |page: &Page| page.word(1).load(Ordering::Acquire);
    let alike = seen.iter().all(|page| count(page) == expected && sum(page) == sum(&seen[0]));
    let both = seen.iter().all(|page| page.word(2).load(Ordering::Acquire) == 0);
    let mut line = Line::new("pci");
    line.number("cpus", machine.cpus() as u64).number("devices", count(&seen[0]));
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(alike && both)));
    alike && both
}

/// Word 0: devices; word 1: a sum over their headers; word 2: registers that differ between ports and memory.
fn walk(seen: &Page) {
    let (mut devices, mut sum, mut differ) = (0, 0u64, 0);
    for place in (0..pci::DEVICES).filter(|&place| pci::read(place, 0) != pci::NOBODY) {
        devices += 1;
        for register in (0..0x40).step_by(4) {
            let value = pci::read(place, register);
            differ += u64::from(value != pci::read_by_memory(place, register));
            sum = sum.rotate_left(7) ^ u64::from(value);
        }
    }
    seen.word(1).store(sum, Ordering::Relaxed);
    seen.word(2).store(differ, Ordering::Relaxed);
    seen.word(0).store(devices, Ordering::Release);
}

/// What a round of [`disk`] works with.
#[derive(Clone, Copy)]
struct Round {
    driver: Driver,
    head: &'static Page,
    out: &'static Page,
    back: &'static Page,
    /// Word 0: wrong words; word 1: bad statuses.
    wrong: &'static Page,
    number: u64,
    sector: u64,
}

/// `rounds=` times over, the CPUs taking turns: a page goes to the disk and comes back into another page. The interrupts go
/// to the next CPU, and each request gives one.
pub fn disk(machine: &Machine) -> bool {
    let rounds = machine.number("rounds", 40);
    let driver = virtio::find(DISK).and_then(virtio::enable).and_then(|found| found.start(&machine.arena));
    let mut line = Line::new("disk");
    let Some(driver) = driver else {
        line.text("error", "there is no disk that works");
        console::print(format_args!("{}", line.end(false)));
        return false;
    };
    let capacity: u32 = pci::load(driver.registers.config);
    let places = (u64::from(capacity) / SECTORS_OF_PAGE).max(1);
    let (head, out, back) = (machine.arena.page(), machine.arena.page(), machine.arena.page());
    let (wrong, cpus, blocks) = (machine.arena.page(), machine.cpus(), machine.blocks());
    let start = clock::now();
    for number in 0..rounds {
        let sector = number % places * SECTORS_OF_PAGE;
        let round = Round { driver, head, out, back, wrong, number, sector };
        let (worker, hearer) = ((number as usize) % cpus, (number as usize + 1) % cpus);
        machine.run(move |cpu| {
            if cpu == worker {
                let target = blocks.get(hearer);
                let heard = target.count(VECTOR);
                driver.registers.interrupt(target.apic_id(), VECTOR);
                let before = heard.load(Ordering::Acquire);
                write_and_read(round, &|requests| {
                    wait_until("the disk's interrupt", || heard.load(Ordering::Acquire) == before + requests);
                });
            }
        });
    }
    let heard: u64 = (0..cpus).map(|cpu| blocks.get(cpu).count(VECTOR).load(Ordering::Acquire)).sum();
    let (words, statuses) = (wrong.word(0).load(Ordering::Acquire), wrong.word(1).load(Ordering::Acquire));
    let ok = words == 0 && statuses == 0 && heard == 2 * rounds && driver.registers.status() == 15;
    line.number("rounds", rounds).number("sectors", capacity.into()).number("wrong", words);
    line.number("failed", statuses).number("interrupts", heard);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    (0..cpus).for_each(|cpu| blocks.get(cpu).count(VECTOR).store(0, Ordering::Release));
    ok
}

/// One page to the disk and back; `heard` waits for so many interrupts.
fn write_and_read(round: Round, heard: &dyn Fn(u64)) {
    let mut random = Random::new(round.number);
    for word in &round.out.words {
        word.store(random.word(), Ordering::Relaxed);
    }
    round.back.clear();
    let data = |page: &Page, written| Buffer { address: page.address(), bytes: PAGE, written };
    ask(round, 1, data(round.out, false), 1);
    heard(1);
    ask(round, 0, data(round.back, true), PAGE + 1);
    heard(2);
    let differ = |(out, back): (&core::sync::atomic::AtomicU64, &core::sync::atomic::AtomicU64)| {
        out.load(Ordering::Relaxed) != back.load(Ordering::Relaxed)
    };
    let wrong = round.out.words.iter().zip(&round.back.words).filter(|pair| differ(*pair)).count();
    round.wrong.word(0).fetch_add(wrong as u64, Ordering::AcqRel);
}

/// One request, done when this returns.
fn ask(round: Round, kind: u64, data: Buffer, written: u32) {
    round.head.word(0).store(kind, Ordering::Relaxed);
    round.head.word(1).store(round.sector, Ordering::Relaxed);
    round.head.word(STATUS).store(0xff, Ordering::Relaxed);
    let head = Buffer { address: round.head.address(), bytes: 16, written: false };
    let status = Buffer { address: round.head.address() + 8 * STATUS as u64, bytes: 1, written: true };
    round.driver.request(&[head, data, status]);
    wait_until("the disk's answer", || round.driver.is_done());
    let fine = round.head.word(STATUS).load(Ordering::Acquire) == 0 && round.driver.written() == written;
    round.wrong.word(1).fetch_add(u64::from(!fine), Ordering::AcqRel);
}
