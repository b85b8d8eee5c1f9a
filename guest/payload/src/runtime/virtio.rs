//! A driver for virtio over PCI (virtio 1.2, 4.1), as small as it can be: one queue, one request at a time. Its state
//! is in a page, so that any CPU can go on where another one stopped. Its parts serve drivers that mean harm, too.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::arena::{Arena, Page};
use super::pci;

/// PCI vendor of virtio devices; a device's number is behind 0x1040.
pub const VENDOR: u32 = 0x1af4;
const FIRST_DEVICE: u32 = 0x1040;
/// Where BARs are moved to: below 4 GiB, where the program reaches them.
const BARS: u64 = tessera_abi::mmio::PCI_LOW;
const BAR_BYTES: u64 = 0x1_0000;
/// In message control of MSI-X, as it stands in a capability's first word: interrupts are on.
const MSIX_ON: u32 = 1 << 31;
/// As above: all vectors are masked.
const MSIX_MASKED: u32 = 1 << 30;

const VENDOR_CAPABILITY: u8 = 0x09;
const MSIX_CAPABILITY: u8 = 0x11;
/// cfg_type of a capability (4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;

/// Common configuration (4.1.4.3).
mod common {
    pub const FEATURE_SELECT: u64 = 0x08;
    pub const FEATURE: u64 = 0x0c;
    pub const QUEUES: u64 = 0x12;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_ADDRESSES: u64 = 0x20;
}

/// VIRTIO_F_VERSION_1, in the upper half of the features.
const VERSION_1: u32 = 1;
/// Descriptors of the queue.
const SIZE: u16 = 8;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// In the status: the device asks for a reset.
pub const NEEDS_RESET: u8 = 0x40;

/// Addresses of a device's registers.
#[derive(Clone, Copy)]
pub struct Registers {
    place: u8,
    /// Where in configuration space the capability of MSI-X is.
    msix: u8,
    /// What all devices have in common.
    pub common: u64,
    notify: u64,
    /// What is this kind of device's own.
    pub config: u64,
    msix_table: u64,
}

/// A device that works.
#[derive(Clone, Copy)]
pub struct Driver {
    /// Its registers.
    pub registers: Registers,
    descriptors: &'static Page,
    available: &'static Page,
    used: &'static Page,
    /// Word 0: requests made.
    state: &'static Page,
}

/// A run of memory that the device reads or writes.
#[derive(Clone, Copy)]
pub struct Buffer {
    /// Where.
    pub address: u64,
    /// Bytes.
    pub bytes: u32,
    /// Whether the device writes it.
    pub written: bool,
}

/// The place on the bus of the first device of this kind (virtio 1.2, 5).
pub fn find(kind: u32) -> Option<u8> {
    (0..pci::DEVICES).find(|&place| pci::read(place, 0) == (FIRST_DEVICE + kind) << 16 | VENDOR)
}

/// Moves a device's BAR 0 to where it can be reached, lets it decode and do its work, and finds its registers. Its interrupts
/// are off.
pub fn enable(place: u8) -> Option<Registers> {
    let bar = BARS + u64::from(place) * BAR_BYTES;
    pci::write(place, 0x10, bar as u32);
    pci::write(place, 0x14, 0);
    pci::write(place, 0x04, 0b110);
    let mut registers = Registers { place, msix: 0, common: 0, notify: 0, config: 0, msix_table: 0 };
    let mut at = pci::read(place, 0x34) as u8;
    for _ in 0..48 {
        let head = pci::read(place, at).to_le_bytes();
        let offset = u64::from(pci::read(place, at.wrapping_add(8)));
        match (head[0], head[3]) {
            (VENDOR_CAPABILITY, COMMON) => registers.common = bar + offset,
            (VENDOR_CAPABILITY, NOTIFY) => registers.notify = bar + offset,
            (VENDOR_CAPABILITY, DEVICE) => registers.config = bar + offset,
            (MSIX_CAPABILITY, _) => {
                registers.msix = at;
                registers.msix_table = bar + u64::from(pci::read(place, at.wrapping_add(4)) & !7);
            }
            _ => {}
        }
        at = head[1];
        if at == 0 {
            break;
        }
    }
    let found = registers.common != 0 && registers.notify != 0 && registers.msix_table != 0;
    found.then_some(registers)
}

impl Registers {
    /// Resets the device and sets its queue 0 up, each part in a page of its own. `None` when it does not agree.
    pub fn start(self, arena: &Arena) -> Option<Driver> {
        let driver = Driver {
            registers: self,
            descriptors: arena.page(),
            available: arena.page(),
            used: arena.page(),
            state: arena.page(),
        };
        if !self.negotiate() {
            return None;
        }
        self.set_interrupts(MSIX_ON);
        let parts = [driver.descriptors, driver.available, driver.used].map(Page::address);
        self.set_queue(0, SIZE, parts);
        self.begin();
        (self.status() == 15).then_some(driver)
    }

    /// Resets the device and waits until it has let go of its driver. No interrupt comes any more.
    pub fn reset(self) {
        self.set_status(0);
        super::sync::wait_until("the reset of a device", || self.status() == 0);
        self.set_interrupts(MSIX_MASKED);
    }

    /// Resets the device and agrees on features; whether it does, too.
    pub fn negotiate(self) -> bool {
        self.reset();
        self.set_status(3);
        for (select, features) in [(0u32, 0u32), (1, VERSION_1)] {
            pci::store(self.common + common::FEATURE_SELECT, select);
            pci::store(self.common + common::FEATURE, features);
        }
        self.set_status(11);
        self.status() == 11
    }

    /// How many queues the device has.
    pub fn queues(self) -> u16 {
        pci::load(self.common + common::QUEUES)
    }

    /// Sets a queue up: its size, and where its descriptors, its available ring and its used ring are. It has vector 1.
    pub fn set_queue(self, index: u16, size: u16, parts: [u64; 3]) {
        pci::store(self.common + common::QUEUE_SELECT, index);
        pci::store(self.common + common::QUEUE_SIZE, size);
        pci::store(self.common + common::QUEUE_VECTOR, 1u16);
        for (part, address) in (0u64..).zip(parts) {
            let register = self.common + common::QUEUE_ADDRESSES + 8 * part;
            pci::store(register, address as u32);
            pci::store(register + 4, (address >> 32) as u32);
        }
        pci::store(self.common + common::QUEUE_ENABLE, 1u16);
    }

    /// Says that the driver is ready.
    pub fn begin(self) {
        self.set_status(15);
    }

    /// Says that there is news in a queue.
    pub fn kick(self, queue: u16) {
        pci::store(self.notify + 4 * u64::from(queue), queue);
    }

    /// Where in configuration space the capability of MSI-X is.
    pub fn msix(self) -> u8 {
        self.msix
    }

    fn set_interrupts(self, control: u32) {
        let others = pci::read(self.place, self.msix) & !(MSIX_ON | MSIX_MASKED);
        pci::write(self.place, self.msix, others | control);
    }

    /// The device's status.
    pub fn status(self) -> u8 {
        pci::load(self.common + common::STATUS)
    }

    fn set_status(self, status: u8) {
        pci::store(self.common + common::STATUS, status);
    }

    /// Has the queue's interrupts go to the CPU with this APIC id.
    pub fn interrupt(self, apic_id: u32, vector: u8) {
        let entry = self.msix_table + 16;
        pci::store(entry + 12, 1u32);
        // Bits 14:8 of the id stand in bits 11:5 of the address.
        let address = 0xfee0_0000 | (apic_id & 0xff) << 12 | (apic_id >> 8 & 0x7f) << 5;
        pci::store(entry, address);
        pci::store(entry + 4, 0u32);
        pci::store(entry + 8, u32::from(vector));
        pci::store(entry + 12, 0u32);
        // It has arrived when something could be read behind it.
        let _: u32 = pci::load(entry + 12);
    }
}

impl Driver {
    /// Makes a request of up to four buffers and kicks; [`Driver::is_done`] says when it is done. The last one must be.
    pub fn request(&self, buffers: &[Buffer]) {
        for (index, buffer) in (0u16..).zip(buffers) {
            let more = if usize::from(index) + 1 < buffers.len() { NEXT } else { 0 };
            let flags = if buffer.written { WRITE } else { 0 } | more;
            let at = 2 * usize::from(index);
            self.descriptors.word(at).store(buffer.address, Ordering::Relaxed);
            let rest = u64::from(buffer.bytes) | u64::from(flags) << 32 | u64::from(index + 1) << 48;
            self.descriptors.word(at + 1).store(rest, Ordering::Relaxed);
        }
        let made = self.state.word(0).load(Ordering::Relaxed);
        half(self.available, 2 + (made % u64::from(SIZE)) as usize).store(0, Ordering::Relaxed);
        half(self.available, 1).store(made as u16 + 1, Ordering::Release);
        self.state.word(0).store(made + 1, Ordering::Relaxed);
        super::sync::fence();
        self.registers.kick(0);
    }

    /// Whether all requests are done.
    pub fn is_done(&self) -> bool {
        half(self.used, 1).load(Ordering::Acquire) == self.state.word(0).load(Ordering::Relaxed) as u16
    }

    /// How many bytes the device says that it wrote for the last request.
    pub fn written(&self) -> u32 {
        let last = self.state.word(0).load(Ordering::Relaxed) - 1;
        // The ring begins at byte 4: each element's id, then its length.
        word(self.used, 1 + 2 * (last % u64::from(SIZE)) as usize + 1).load(Ordering::Relaxed)
    }
}

/// The 16-bit word at `index` of a page.
fn half(page: &'static Page, index: usize) -> &'static AtomicU16 {
    let words: &'static [AtomicU64; 512] = &page.words;
    // SAFETY: the index is checked by the slice; atomics of the page's bytes, which are only ever used atomically.
    unsafe { &core::slice::from_raw_parts(words.as_ptr().cast::<AtomicU16>(), 2048)[index] }
}

/// The 32-bit word at `index` of a page.
fn word(page: &'static Page, index: usize) -> &'static AtomicU32 {
    let words: &'static [AtomicU64; 512] = &page.words;
    // SAFETY: as above.
    unsafe { &core::slice::from_raw_parts(words.as_ptr().cast::<AtomicU32>(), 1024)[index] }
}
