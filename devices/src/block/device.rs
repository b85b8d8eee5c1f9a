//! The engine between the queue and the disk's threads.

use std::io;
use std::sync::Arc;

use super::config::{self, QUEUE_SIZE, REQUEST_BYTES_MAX};
use super::disk::Disk;
use super::error::DiskError;
use super::pool::{DiskPool, Job, Outcome};
use super::request::{self, Status, ID_BYTES};
use crate::ram::GuestRam;
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Interest, Readiness, Reset, Watcher};
use crate::virtio::queue::{copy, Chain, DeviceQueue, Done, Limits};

/// Most bytes of guest memory copied for requests that are under way.
pub const IN_FLIGHT_BYTES_MAX: u64 = 16 << 20;
const _: () = assert!(IN_FLIGHT_BYTES_MAX > 2 * REQUEST_BYTES_MAX);

/// The token of the pool's bell.
const FINISHED: u32 = 0;

/// A disk with its driver's model. The serial number is cut to 20 bytes.
///
/// # Errors
/// When the host has no threads for it.
pub fn device(disk: Arc<dyn Disk>, serial: &str) -> Result<Device, DiskError> {
    let mut id = [0; ID_BYTES];
    id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
    let model = config::model(&*disk);
    let pool = DiskPool::start(disk.clone(), id).map_err(DiskError::Threads)?;
    Ok(Device { model, engine: Box::new(BlockEngine { disk, pool, driver: None, copied: 0 }) })
}

struct Active {
    queue: DeviceQueue,
    ram: Arc<dyn GuestRam>,
    features: u64,
}

struct BlockEngine {
    disk: Arc<dyn Disk>,
    pool: DiskPool,
    driver: Option<Active>,
    /// Bytes of guest memory copied for what is under way.
    copied: u64,
}

impl BlockEngine {
    /// Takes requests for as long as there are some and they may be under way.
    fn take(&mut self) -> Result<(), EngineError> {
        let Some(active) = &mut self.driver else { return Ok(()) };
        // One request always fits: what is left is never less than the biggest.
        while self.copied + REQUEST_BYTES_MAX < IN_FLIGHT_BYTES_MAX {
            let limits = Limits { chains: usize::from(QUEUE_SIZE), bytes: IN_FLIGHT_BYTES_MAX - self.copied };
            let taken = active.queue.take(&*active.ram, limits)?;
            let (chains, refused): (Vec<_>, Vec<_>) =
                taken.chains.into_iter().partition(|chain| request::copied_bytes(chain).is_some());
            let bytes = copy::read_chains(&*active.ram, &chains)?;
            let mut done: Vec<Done> = refused
                .into_iter()
                .map(|chain| answer(chain, Status::Failed, Vec::new()))
                .collect::<Result<_, _>>()?;
            for (chain, own) in chains.into_iter().zip(bytes.each()) {
                // Without the status, for which there must be room.
                let room = chain.writable_len().checked_sub(1).ok_or_else(|| no_answer(&chain))?;
                match request::parse(own, room, active.features, &*self.disk) {
                    Ok(operation) => {
                        self.copied += request::copied_bytes(&chain).unwrap_or(0);
                        self.pool.submit(Job { chain, operation });
                    }
                    Err(status) => done.push(answer(chain, status, Vec::new())?),
                }
            }
            active.queue.complete(&*active.ram, &done)?;
            if !taken.more {
                break;
            }
        }
        Ok(())
    }

    /// Answers what was done.
    fn answer(&mut self) -> Result<(), EngineError> {
        let outcomes = self.pool.finished();
        for outcome in &outcomes {
            self.copied -= request::copied_bytes(&outcome.chain).unwrap_or(0);
        }
        let Some(active) = &mut self.driver else { return Ok(()) };
        let done = outcomes.into_iter().map(|Outcome { chain, status, data }| answer(chain, status, data));
        let done: Vec<Done> = done.collect::<Result<_, _>>()?;
        active.queue.complete(&*active.ram, &done)?;
        Ok(())
    }
}

/// What a driver is told: data at the front of what it let be written, the status in its last byte.
fn answer(chain: Chain, status: Status, data: Vec<u8>) -> Result<Done, EngineError> {
    let len = chain.writable_len();
    let last = len.checked_sub(1).ok_or_else(|| no_answer(&chain))?;
    // Where all was written it may count on all of it, else on nothing in front of the status.
    let whole = data.len() as u64 == last;
    let written = if whole { u32::try_from(len).unwrap_or(0) } else { 0 };
    Ok(Done { chain, answers: vec![(0, data), (last, vec![status as u8])], written })
}

fn no_answer(chain: &Chain) -> EngineError {
    EngineError::Driver(format!("the request at descriptor {} has no room for its status", chain.head))
}

impl Engine for BlockEngine {
    fn begin(&mut self, watcher: &mut dyn Watcher) -> io::Result<()> {
        watcher.watch(self.pool.bell(), FINISHED, Interest::Read)
    }

    fn activate(&mut self, mut driver: Driver, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let queue = driver.take_queue(0)?;
        self.driver = Some(Active { queue, ram: driver.ram, features: driver.features });
        Ok(())
    }

    fn kicked(&mut self, _queue: u16, _: &mut dyn Watcher) -> Result<(), EngineError> {
        self.take()
    }

    fn ready(&mut self, _token: u32, _: Readiness, _: &mut dyn Watcher) -> Result<(), EngineError> {
        self.answer()?;
        // There was perhaps no room for more before.
        self.take()
    }

    fn reset(&mut self, _: &mut dyn Watcher) -> Reset {
        self.driver = None;
        // A write that is under way still reaches the disk: the next driver must not be overtaken by it.
        match self.pool.under_way() {
            0 => Reset::Done,
            _ => Reset::Pending,
        }
    }
}
