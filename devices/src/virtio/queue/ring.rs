//! One queue on the device's side.

use std::sync::Arc;

use tessera_dsm::pager::{PageSet, Wanted};
use tessera_dsm::protocol::Access;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use super::chain::Chain;
use super::copy;
use super::error::QueueError;
use crate::ram::{GuestRam, Loan};
use crate::virtio::interrupts::VirtioInterrupts;

/// Where the driver has put a queue, and how long it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueSetup {
    /// How many descriptors it has.
    pub size: u16,
    /// The descriptor table (virtio 1.2, 2.7.5).
    pub descriptors: u64,
    /// The available ring, the driver's (2.7.6).
    pub available: u64,
    /// The used ring, the device's (2.7.8).
    pub used: u64,
}

/// How much to take at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most chains.
    pub chains: usize,
    /// Most bytes in the buffers of all of them; a single chain may have more, and is then taken alone.
    pub bytes: u64,
}

/// What was taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// The chains, in the order in which the driver offered them.
    pub chains: Vec<Chain>,
    /// The driver may have offered more: it does not kick for those. Otherwise it kicks for the next.
    pub more: bool,
}

/// A chain that the device has done with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// The chain.
    pub chain: Chain,
    /// What goes into its writable buffers, and at which offset of them.
    pub answers: Vec<(u64, Vec<u8>)>,
    /// How many bytes the driver is told that were written, from the start of the writable buffers.
    pub written: u32,
}

/// A queue that a driver has made ready.
pub struct DeviceQueue {
    index: u16,
    queue: Queue,
    /// The three parts of the ring.
    parts: [Wanted; 3],
    /// Chains taken and not yet completed.
    outstanding: u16,
    interrupts: Arc<VirtioInterrupts>,
}

impl DeviceQueue {
    /// The queue `index` of a device that allows `max_size` descriptors, as the driver has set it up. With `event_idx`
    /// both sides say when they want to be told of news (VIRTIO_F_EVENT_IDX).
    ///
    /// # Errors
    /// [`QueueError::Ring`] when its size or the alignment of its parts is not as it must be.
    pub fn new(
        index: u16,
        max_size: u16,
        setup: &QueueSetup,
        event_idx: EventIdx,
        interrupts: Arc<VirtioInterrupts>,
    ) -> Result<Self, QueueError> {
        let ring = |source| QueueError::Ring { queue: index, source };
        let mut queue = Queue::new(max_size).map_err(ring)?;
        queue.try_set_size(setup.size).map_err(ring)?;
        queue.try_set_desc_table_address(GuestAddress(setup.descriptors)).map_err(ring)?;
        queue.try_set_avail_ring_address(GuestAddress(setup.available)).map_err(ring)?;
        queue.try_set_used_ring_address(GuestAddress(setup.used)).map_err(ring)?;
        queue.set_event_idx(event_idx == EventIdx::On);
        queue.set_ready(true);
        let size = u64::from(setup.size);
        // With their headers, and the event fields behind them.
        let parts = [
            Wanted { gpa: setup.descriptors, len: 16 * size, access: Access::Read },
            Wanted { gpa: setup.available, len: 6 + 2 * size, access: Access::Read },
            Wanted { gpa: setup.used, len: 6 + 8 * size, access: Access::Write },
        ];
        Ok(DeviceQueue { index, queue, parts, outstanding: 0, interrupts })
    }

    /// Its index.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Takes what the driver offers, within the limits.
    ///
    /// # Errors
    /// When the ring or a chain is not as it must be, or guest memory is not lent.
    pub fn take(&mut self, ram: &dyn GuestRam, limits: Limits) -> Result<Taken, QueueError> {
        let loan = ram.borrow(PageSet::covering(self.parts)?)?;
        self.check(&loan)?;
        let (mut chains, mut bytes) = (Vec::new(), 0);
        loop {
            if let Stopped::AtLimit = self.take_from(&loan, ram, limits, (&mut chains, &mut bytes))? {
                return Ok(Taken { chains, more: true });
            }
            // What came before the driver knew that it has to kick is taken too.
            let more = self.queue.enable_notification(&loan).map_err(|source| self.ring(source))?;
            if !more {
                return Ok(Taken { chains, more: false });
            }
        }
    }

    fn take_from(
        &mut self,
        loan: &Loan<'_>,
        ram: &dyn GuestRam,
        limits: Limits,
        (taken, bytes): (&mut Vec<Chain>, &mut u64),
    ) -> Result<Stopped, QueueError> {
        let (queue, size) = (self.index, self.queue.size());
        let ring = |source| QueueError::Ring { queue, source };
        let mut offered = self.queue.iter(loan).map_err(ring)?;
        while taken.len() < limits.chains {
            let Some(chain) = offered.next() else { return Ok(Stopped::AtEnd) };
            if self.outstanding >= size {
                return Err(QueueError::Flooded { queue, size });
            }
            let head = chain.head_index();
            let chain = Chain::walk(chain, ram.memory());
            let chain = chain.map_err(|fault| QueueError::Chain { queue, head, fault })?;
            *bytes += chain.readable_len() + chain.writable_len();
            if *bytes > limits.bytes && !taken.is_empty() {
                offered.go_to_previous_position();
                return Ok(Stopped::AtLimit);
            }
            self.outstanding += 1;
            taken.push(chain);
        }
        Ok(Stopped::AtLimit)
    }

    /// Gives chains back into which nothing was written.
    ///
    /// # Errors
    /// As [`DeviceQueue::complete`].
    pub fn give_back(&mut self, ram: &dyn GuestRam, chains: Vec<Chain>) -> Result<(), QueueError> {
        let back = |chain| Done { chain, answers: Vec::new(), written: 0 };
        let done: Vec<Done> = chains.into_iter().map(back).collect();
        self.complete(ram, &done)
    }

    /// Writes the answers, gives the chains back to the driver, and interrupts it if it wants to be told.
    ///
    /// # Errors
    /// When the ring is not as it must be, or guest memory is not lent.
    pub fn complete(&mut self, ram: &dyn GuestRam, done: &[Done]) -> Result<(), QueueError> {
        if done.is_empty() {
            return Ok(());
        }
        let answers = done.iter().flat_map(|done| {
            done.answers.iter().flat_map(|(offset, bytes)| done.chain.writes(*offset, bytes))
        });
        let parts = self.parts;
        let interrupt = copy::write_all_and(ram, answers, &parts, |loan| {
            self.check(loan)?;
            for done in done {
                let added = self.queue.add_used(loan, done.chain.head, done.written);
                added.map_err(|source| self.ring(source))?;
                self.outstanding = self.outstanding.saturating_sub(1);
            }
            self.queue.needs_notification(loan).map_err(|source| self.ring(source))
        })?;
        // The pages have gone back: who is told can get at them at once.
        if interrupt {
            self.interrupts.queue(self.index);
        }
        Ok(())
    }

    /// Chains taken and not yet completed.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// That the whole ring is lent.
    fn check(&self, loan: &Loan<'_>) -> Result<(), QueueError> {
        let lent = |part: &Wanted| {
            let access = if part.access == Access::Write { Permissions::Write } else { Permissions::Read };
            loan.check_range(GuestAddress(part.gpa), part.len as usize, access)
        };
        match self.parts.iter().all(lent) {
            true => Ok(()),
            false => Err(self.ring(virtio_queue::Error::AddressOverflow)),
        }
    }

    fn ring(&self, source: virtio_queue::Error) -> QueueError {
        QueueError::Ring { queue: self.index, source }
    }
}

/// Whether driver and device say when they want to be told of news (VIRTIO_F_EVENT_IDX).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventIdx {
    /// Each is told of everything.
    Off,
    /// Each says from which index on it wants to be told.
    On,
}

/// Why no more chains were taken.
enum Stopped {
    /// There are none.
    AtEnd,
    /// There are enough.
    AtLimit,
}
