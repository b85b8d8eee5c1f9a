//! A driver for tests: sets a device up as a guest does, and sees what becomes of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::model::feature;
use super::queue::QueueSetup;
use super::transport::layout::BAR;
use super::{Device, VirtioParts, VirtioPci};
use crate::events::{Msi, MsiSink};
use crate::pci::PciFunction;
use crate::ram::fake::FakeRam;
use crate::ram::GuestRam;

/// A test that takes longer hangs.
pub(crate) const HANG: Duration = Duration::from_secs(60);
/// Where tests may put buffers: the queues are below.
pub(crate) const BUFFERS: u64 = 2 << 20;
/// The vector of queue 0; those of the others follow, and before it is the configuration's.
pub(crate) const FIRST_VECTOR: u8 = 0x41;

const COMMON: u64 = 0;
const DOORBELLS: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !holds() {
        assert!(Instant::now() < deadline, "hangs: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Hears interrupts.
#[derive(Default)]
pub(crate) struct Sent(Mutex<Vec<u8>>);

impl MsiSink for Sent {
    fn send(&self, msi: Msi) {
        self.0.lock().unwrap().push(msi.data as u8);
    }
}

impl Sent {
    /// The vectors since the last call.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap().drain(..).collect()
    }

    pub(crate) fn has(&self, vector: u8) -> bool {
        self.0.lock().unwrap().contains(&vector)
    }
}

/// A device, its memory and its interrupts.
pub(crate) struct Rig {
    pub(crate) ram: Arc<FakeRam>,
    pub(crate) device: Arc<VirtioPci>,
    pub(crate) sent: Arc<Sent>,
    queue_sizes: Vec<u16>,
}

impl Rig {
    pub(crate) fn new(device: Device) -> Self {
        let (ram, sent) = (FakeRam::new(), Arc::new(Sent::default()));
        let queue_sizes = device.model.queue_sizes.clone();
        let parts = VirtioParts { ram: ram.clone(), msi: sent.clone(), bar_address: 0x1_4000_0000 };
        let device = VirtioPci::new("test", device, parts).unwrap();
        Rig { ram, device, sent, queue_sizes }
    }

    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.device.read_memory(BAR, at, &mut data);
        data
    }

    pub(crate) fn write(&self, at: u64, data: &[u8]) {
        self.device.write_memory(BAR, at, data);
    }

    pub(crate) fn status(&self) -> u8 {
        self.read::<1>(COMMON + 0x14)[0]
    }

    pub(crate) fn set_status(&self, status: u8) {
        self.write(COMMON + 0x14, &[status]);
    }

    /// The features that the device offers.
    pub(crate) fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.write(COMMON, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read(COMMON + 4)))
        };
        half(0) | half(1) << 32
    }

    /// Accepts features; whether the device agrees.
    pub(crate) fn accept(&self, features: u64) -> bool {
        self.set_status(3);
        for select in 0..2u32 {
            self.write(COMMON + 8, &select.to_le_bytes());
            self.write(COMMON + 12, &((features >> (32 * select)) as u32).to_le_bytes());
        }
        self.set_status(11);
        self.status() & 8 != 0
    }

    /// Arms every MSI-X vector, and says which belongs to what.
    pub(crate) fn arm(&self) {
        let vectors = self.queue_sizes.len() as u64 + 1;
        let msix = self.capability(0x11).unwrap();
        self.device.write_config(msix + 2, &0x8000u16.to_le_bytes());
        for vector in 0..vectors {
            let entry = MSIX_TABLE + 16 * vector;
            self.write(entry, &0xfee0_0000u64.to_le_bytes());
            self.write(entry + 8, &(u64::from(FIRST_VECTOR) - 1 + vector).to_le_bytes());
        }
        self.write(COMMON + 0x10, &0u16.to_le_bytes());
        for queue in 0..self.queue_sizes.len() as u16 {
            self.write(COMMON + 0x16, &queue.to_le_bytes());
            self.write(COMMON + 0x1a, &(queue + 1).to_le_bytes());
        }
    }

    /// The offset of a capability.
    pub(crate) fn capability(&self, id: u8) -> Option<usize> {
        let byte = |at: usize| {
            let mut byte = [0];
            self.device.read_config(at, &mut byte);
            usize::from(byte[0])
        };
        let mut at = byte(0x34);
        while at != 0 && byte(at) != usize::from(id) {
            at = byte(at + 1);
        }
        (at != 0).then_some(at)
    }

    /// Sets a queue up and enables it.
    pub(crate) fn enable_queue(&self, index: u16, setup: &QueueSetup) {
        self.write(COMMON + 0x16, &index.to_le_bytes());
        self.write(COMMON + 0x18, &setup.size.to_le_bytes());
        for (at, address) in [(0x20, setup.descriptors), (0x28, setup.available), (0x30, setup.used)] {
            self.write(COMMON + at, &(address as u32).to_le_bytes());
            self.write(COMMON + at + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.write(COMMON + 0x1c, &1u16.to_le_bytes());
    }

    /// Brings the device up, with all its queues.
    pub(crate) fn start(&self, features: u64) -> Vec<DriverQueue> {
        assert!(self.accept(features | feature::VERSION_1), "features refused");
        self.arm();
        let queues = (0u16..).zip(&self.queue_sizes).map(|(index, &size)| {
            let queue = DriverQueue::new(self.ram.clone(), index, size);
            self.enable_queue(index, &queue.setup);
            queue
        });
        let queues = queues.collect();
        self.set_status(15);
        queues
    }

    pub(crate) fn kick(&self, queue: u16) {
        self.write(DOORBELLS + 4 * u64::from(queue), &queue.to_le_bytes());
    }

    /// Resets the device and waits until it says that it has let go.
    pub(crate) fn reset(&self) {
        self.set_status(0);
        wait_until("the reset", || self.status() == 0);
    }

    /// Waits until the device asks for a reset.
    pub(crate) fn wait_for_needs_reset(&self) {
        wait_until("the device asks for a reset", || self.status() & 0x40 != 0);
    }

    /// Waits for an interrupt of a queue.
    pub(crate) fn wait_for_queue(&self, queue: u8) {
        wait_until("an interrupt", || self.sent.has(FIRST_VECTOR + queue));
    }
}

/// A queue on the driver's side.
pub(crate) struct DriverQueue {
    ram: Arc<FakeRam>,
    pub(crate) setup: QueueSetup,
    next: u16,
    available: u16,
    used: u16,
}

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

impl DriverQueue {
    pub(crate) fn new(ram: Arc<FakeRam>, index: u16, size: u16) -> Self {
        let base = 0x10000 * (u64::from(index) + 1);
        let setup = QueueSetup { size, descriptors: base, available: base + 0x8000, used: base + 0xc000 };
        DriverQueue { ram, setup, next: 0, available: 0, used: 0 }
    }

    /// Begins again, with rings of zeros, as after a reset.
    pub(crate) fn clear(&mut self) {
        (self.next, self.available, self.used) = (0, 0, 0);
        self.ram.memory().write_slice(&[0; 0x10000], GuestAddress(self.setup.descriptors)).unwrap();
    }

    pub(crate) fn set_descriptor(&self, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let bytes = [
            &gpa.to_le_bytes()[..],
            &len.to_le_bytes()[..],
            &flags.to_le_bytes()[..],
            &next.to_le_bytes()[..],
        ];
        let at = GuestAddress(self.setup.descriptors + 16 * u64::from(index));
        self.ram.memory().write_slice(&bytes.concat(), at).unwrap();
    }

    /// Puts a chain's first descriptor into the available ring.
    pub(crate) fn make_available(&mut self, head: u16) {
        let slot = 4 + 2 * u64::from(self.available % self.setup.size);
        self.ram.memory().write_obj(head, GuestAddress(self.setup.available + slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available_index(self.available);
    }

    pub(crate) fn set_available_index(&self, index: u16) {
        self.ram.memory().write_obj(index, GuestAddress(self.setup.available + 2)).unwrap();
    }

    /// From which used index on the driver wants to be told.
    pub(crate) fn set_used_event(&self, index: u16) {
        let at = self.setup.available + 4 + 2 * u64::from(self.setup.size);
        self.ram.memory().write_obj(index, GuestAddress(at)).unwrap();
    }

    /// From which available index on the device wants to be told.
    pub(crate) fn avail_event(&self) -> u16 {
        let at = self.setup.used + 4 + 8 * u64::from(self.setup.size);
        self.ram.memory().read_obj(GuestAddress(at)).unwrap()
    }

    /// Offers a chain; gives its first descriptor.
    pub(crate) fn offer(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u16 {
        let head = self.next;
        let all: Vec<_> = readable
            .iter()
            .map(|buffer| (buffer, 0))
            .chain(writable.iter().map(|buffer| (buffer, WRITE)))
            .collect();
        for (position, &(&(gpa, len), flags)) in all.iter().enumerate() {
            let index = (head + position as u16) % self.setup.size;
            let next = (index + 1) % self.setup.size;
            let more = if position + 1 < all.len() { NEXT } else { 0 };
            self.set_descriptor(index, gpa, len, flags | more, next);
        }
        self.next = (head + all.len() as u16) % self.setup.size;
        self.make_available(head);
        head
    }

    /// The next chain that came back, and how many bytes were written.
    pub(crate) fn take_used(&mut self) -> Option<(u32, u32)> {
        let memory = self.ram.memory();
        let index: u16 = memory.read_obj(GuestAddress(self.setup.used + 2)).unwrap();
        if index == self.used {
            return None;
        }
        let slot = self.setup.used + 4 + 8 * u64::from(self.used % self.setup.size);
        self.used = self.used.wrapping_add(1);
        Some((memory.read_obj(GuestAddress(slot)).unwrap(), memory.read_obj(GuestAddress(slot + 4)).unwrap()))
    }

    /// Waits for the next chain that comes back.
    pub(crate) fn wait_used(&mut self) -> (u32, u32) {
        let mut used = None;
        wait_until("a chain comes back", || {
            used = self.take_used();
            used.is_some()
        });
        used.unwrap()
    }

    pub(crate) fn fill(&self, gpa: u64, bytes: &[u8]) {
        self.ram.memory().write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub(crate) fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }
}
