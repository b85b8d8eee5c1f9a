//! Drivers that mean harm: whatever they do to a device's registers and queues, it answers to the next driver, and no byte of
//! memory changes that they have not lent to it.

use core::sync::atomic::Ordering;

use payload_core::line::Line;
use payload_core::random::Random;

use crate::runtime::arena::{Page, PAGE_BYTES};
use crate::runtime::machine::Machine;
use crate::runtime::virtio::{self, Registers, NEEDS_RESET};
use crate::runtime::{clock, console, pci};

/// Bytes of configuration space that are tried: more than there are registers in.
const SPACE_BYTES: u64 = 0x200;
/// Bytes of a BAR.
const BAR_BYTES: u64 = 0x8000;
/// Where in the BAR the status is, and the bit that would set the device to work.
const STATUS: u64 = 0x14;
const DRIVER_OK: u64 = 4;
/// Descriptors of a queue.
const SIZE: u16 = 16;
/// What is in memory that no device may write.
const GUARD: u64 = 0x5a5a_a5a5_0ff0_f00f;
/// For how long a device may work on a queue before the next one is tried, in microseconds.
const PATIENCE_US: u64 = 5_000;

/// An access of random size and value to a random place of `base..base + bytes`; a write of `value` where `writes` allows it.
fn poke(random: &mut Random, base: u64, bytes: u64, writes: impl Fn(u64, u64, u64) -> Option<u64>) {
    let size = 1 << random.below(4);
    let at = random.below(bytes / size) * size;
    let value = match random.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        _ => random.word(),
    };
    let value = if random.below(2) == 0 { None } else { writes(at, size, value) };
    match (size, value) {
        (1, Some(value)) => pci::store(base + at, value as u8),
        (2, Some(value)) => pci::store(base + at, value as u16),
        (4, Some(value)) => pci::store(base + at, value as u32),
        (_, Some(value)) => pci::store(base + at, value),
        (1, None) => drop(pci::load::<u8>(base + at)),
        (2, None) => drop(pci::load::<u16>(base + at)),
        (4, None) => drop(pci::load::<u32>(base + at)),
        (_, None) => drop(pci::load::<u64>(base + at)),
    }
}

/// `rounds=` random accesses to the configuration space of each device, and as many to each virtio device's BAR. They leave
/// out what would set a device to work on queues at random addresses or let it send random interrupts: both are allowed to
/// a guest and would end this one.
pub fn registers(machine: &Machine) -> bool {
    let (rounds, seed) = (machine.number("rounds", 2000), machine.number("seed", 1));
    let mut random = Random::new(seed);
    let (mut devices, mut alive) = (0, 0);
    let start = clock::now();
    for place in (0..pci::DEVICES).filter(|&place| pci::read(place, 0) != pci::NOBODY) {
        let identity = pci::read(place, 0);
        devices += 1;
        let is_virtio = identity & 0xffff == virtio::VENDOR;
        if let Some(registers) = is_virtio.then(|| virtio::enable(place)).flatten() {
            registers.reset();
            let control = u64::from(registers.msix());
            for _ in 0..rounds {
                poke(&mut random, pci::space(place), SPACE_BYTES, |at, size, value| {
                    (at + size <= control || at >= control + 4).then_some(value)
                });
            }
            virtio::enable(place);
            for _ in 0..rounds {
                // Half of them where most registers are.
                let bytes = if random.below(2) == 0 { 0x40 } else { BAR_BYTES };
                poke(&mut random, registers.common, bytes, |at, size, value| {
                    let status = at <= STATUS && STATUS < at + size;
                    Some(if status { value & !(DRIVER_OK << (8 * (STATUS - at))) } else { value })
                });
            }
            alive += u64::from(registers.negotiate() && pci::read(place, 0) == identity);
            registers.reset();
        } else {
            for _ in 0..rounds {
                poke(&mut random, pci::space(place), SPACE_BYTES, |_, _, value| Some(value));
            }
            alive += u64::from(!is_virtio && pci::read(place, 0) == identity);
        }
    }
    let ok = alive == devices && devices > 0;
    let mut line = Line::new("registers");
    line.number("seed", seed).number("rounds", rounds).number("devices", devices).number("alive", alive);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    ok
}

/// Memory of one hostile driver: every second page is a guard.
#[derive(Clone, Copy)]
struct Memory {
    pages: &'static [Page],
}

/// Pages of [`Memory`].
const DESCRIPTORS: usize = 1;
const AVAILABLE: usize = 3;
const USED: usize = 5;
const LENT: usize = 7;
const PAGES: usize = 9;
/// Words of the used ring that a device may write: its head, its elements, the event index, wherever it is told to begin.
const USED_WORDS: usize = (6 + 8 * SIZE as usize + 16).div_ceil(8);

impl Memory {
    fn address(self, page: usize) -> u64 {
        self.pages[page].address()
    }

    /// Fills the rings with what makes no sense, or little.
    fn fill(self, random: &mut Random) {
        for page in self.pages {
            page.words.iter().for_each(|word| word.store(GUARD, Ordering::Relaxed));
        }
        for index in 0..usize::from(SIZE) {
            let (address, bytes) = self.buffer(random);
            // Flags: next, write, indirect. A next one that leads back, or out of the table.
            let flags = if random.below(8) == 0 { random.below(8) } else { random.below(4) };
            let next =
                if random.below(8) == 0 { random.below(1 << 16) } else { random.below(u64::from(SIZE)) };
            let words = &self.pages[DESCRIPTORS].words;
            words[2 * index].store(address, Ordering::Relaxed);
            words[2 * index + 1].store(bytes | flags << 32 | next << 48, Ordering::Relaxed);
        }
        // Flags, index, then the ring.
        let offered = if random.below(4) == 0 { random.below(1 << 16) } else { 1 + random.below(4) };
        let mut word = offered << 16;
        for slot in 2..usize::from(SIZE) + 4 {
            let head =
                if random.below(8) == 0 { random.below(1 << 16) } else { random.below(u64::from(SIZE)) };
            word |= head << (16 * (slot % 4));
            if slot % 4 == 3 {
                self.pages[AVAILABLE].word(slot / 4).store(word, Ordering::Relaxed);
                word = 0;
            }
        }
        self.pages[USED].words[..USED_WORDS].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Memory that is lent, or that is not there.
    fn buffer(self, random: &mut Random) -> (u64, u64) {
        let offset = random.below(PAGE_BYTES);
        let bytes = match random.below(4) {
            0 => random.below(u64::from(u32::MAX)),
            1 => random.below(16),
            _ => random.below(2 * PAGE_BYTES),
        };
        match random.below(8) {
            0 => (u64::MAX - offset, bytes),
            1 => (random.word() | 1 << 50, bytes),
            2 => (tessera_abi::mmio::HOLE + offset, bytes),
            3 => (tessera_abi::mmio::IOAPIC + offset, bytes),
            _ => (self.address(LENT) + offset, bytes.min(PAGE_BYTES - offset)),
        }
    }

    /// Where a queue is: in this memory, but for some parts.
    fn parts(self, random: &mut Random) -> [u64; 3] {
        let mut parts = [DESCRIPTORS, AVAILABLE, USED].map(|page| self.address(page));
        match random.below(16) {
            0 => parts[random.below(3) as usize] |= 1 << 50,
            1 => parts[random.below(3) as usize] = tessera_abi::mmio::HOLE,
            2 => parts[random.below(3) as usize] += random.below(16),
            3 => parts[random.below(3) as usize] = u64::MAX - random.below(64),
            _ => {}
        }
        parts
    }

    /// A sum over what no device may write, the lent page apart.
    fn sum(self) -> u64 {
        let kept = self.pages.iter().enumerate().filter(|(index, _)| *index != LENT);
        let words = kept.flat_map(|(index, page)| &page.words[if index == USED { USED_WORDS } else { 0 }..]);
        words.fold(0, |sum, word| sum.rotate_left(5) ^ word.load(Ordering::Relaxed))
    }
}

/// What a round of [`rings`] works with.
#[derive(Clone, Copy)]
struct Round {
    registers: Registers,
    memory: Memory,
    seed: u64,
    /// Word 0: rounds after which memory had changed; word 1: in which the device asked for a reset.
    seen: &'static Page,
}

/// `rounds=` times over each virtio device is given queues full of nonsense, the CPUs taking turns: loops, lengths that cannot
/// be, addresses outside memory.
pub fn rings(machine: &Machine) -> bool {
    let (rounds, seed) = (machine.number("rounds", 60), machine.number("seed", 1));
    let memory = Memory { pages: machine.arena.pages(PAGES) };
    let (seen, cpus) = (machine.arena.page(), machine.cpus());
    let (mut devices, mut alive) = (0, 0);
    let start = clock::now();
    for place in (0..pci::DEVICES).filter(|&place| pci::read(place, 0) & 0xffff == virtio::VENDOR) {
        let Some(registers) = virtio::enable(place) else { continue };
        devices += 1;
        for number in 0..rounds {
            let round = Round { registers, memory, seed: seed << 32 | u64::from(place) << 24 | number, seen };
            let worker = number as usize % cpus;
            machine.run(move |cpu| {
                if cpu == worker {
                    play(round);
                }
            });
        }
        alive += u64::from(registers.negotiate());
        registers.reset();
    }
    let (changed, gave_up) = (seen.word(0).load(Ordering::Acquire), seen.word(1).load(Ordering::Acquire));
    let ok = changed == 0 && gave_up > 0 && alive == devices && devices > 0;
    let mut line = Line::new("rings");
    line.number("seed", seed).number("rounds", rounds).number("devices", devices).number("alive", alive);
    line.number("changed", changed).number("asked_for_reset", gave_up);
    line.thousandths("seconds", clock::ms_since(start));
    console::print(format_args!("{}", line.end(ok)));
    ok
}

fn play(round: Round) {
    let Round { registers, memory, .. } = round;
    let mut random = Random::new(round.seed);
    if !registers.negotiate() {
        return;
    }
    memory.fill(&mut random);
    let before = memory.sum();
    let nonsense = random.below(u64::from(registers.queues())) as u16;
    registers.set_queue(nonsense, SIZE, memory.parts(&mut random));
    // All queues are the same one at times.
    if random.below(2) == 0 {
        (0..registers.queues()).for_each(|queue| registers.set_queue(queue, SIZE, memory.parts(&mut random)));
    }
    registers.begin();
    (0..registers.queues()).for_each(|queue| registers.kick(queue));
    let begun = clock::now();
    while registers.status() & NEEDS_RESET == 0 && clock::now() - begun < clock::us(PATIENCE_US) {
        core::hint::spin_loop();
    }
    let gave_up = registers.status() & NEEDS_RESET != 0;
    registers.reset();
    round.seen.word(0).fetch_add(u64::from(memory.sum() != before), Ordering::AcqRel);
    round.seen.word(1).fetch_add(u64::from(gave_up), Ordering::AcqRel);
}
