//! What does a device's work, and what it is given for it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use thiserror::Error;

use super::model::Model;
use super::queue::{DeviceQueue, QueueError};
use crate::ram::GuestRam;

/// A driver that is ready: what it has accepted and set up.
pub struct Driver {
    /// The features that both sides have.
    pub features: u64,
    /// All queues of the device by index; `None` where the driver has not enabled one.
    pub queues: Vec<Option<DeviceQueue>>,
    /// Guest memory.
    pub ram: Arc<dyn GuestRam>,
}

impl Driver {
    /// Takes a queue that the device cannot do without.
    ///
    /// # Errors
    /// [`EngineError::Driver`] when the driver has not enabled it.
    pub fn take_queue(&mut self, index: u16) -> Result<DeviceQueue, EngineError> {
        let queue = self.queues.get_mut(usize::from(index)).and_then(Option::take);
        queue.ok_or_else(|| EngineError::Driver(format!("queue {index} is not enabled")))
    }
}

/// Why a device cannot go on until it is reset.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A queue is not as it must be.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The driver did not set up what the device needs, or asked for what makes no sense.
    #[error("{0}")]
    Driver(String),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// What to listen for on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Bytes to read, or the end.
    Read,
    /// Room to write.
    Write,
    /// Both.
    Both,
    /// Nothing for now, but for errors.
    None,
}

/// What a descriptor has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// Reading will not wait.
    pub read: bool,
    /// Writing will not wait.
    pub write: bool,
    /// The other end is gone, or the descriptor is in error.
    pub closed: bool,
}

/// Where a device says to which descriptors it listens.
pub trait Watcher {
    /// Listens to a descriptor; `token` comes back with each event.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn watch(&mut self, descriptor: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;

    /// Listens for something else from now on.
    ///
    /// # Errors
    /// When the descriptor is not watched.
    fn change(&mut self, descriptor: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()>;

    /// Listens no more. Before the descriptor is closed.
    fn forget(&mut self, descriptor: BorrowedFd<'_>);
}

/// Whether a device has let go of its driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// It has: nothing that the driver asked for is under way any more.
    Done,
    /// Not yet: ask again after the next event.
    Pending,
}

/// A device without a bus: what its driver is told, and what does its work.
pub struct Device {
    /// What it is to its driver.
    pub model: Model,
    /// What does its work.
    pub engine: Box<dyn Engine>,
}

/// What does a device's work, on a thread of its own. It may wait for guest memory, and must not wait for anything
/// that a guest or a peer can withhold.
pub trait Engine: Send {
    /// Before anything else: listens to descriptors that are there with or without a driver.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn begin(&mut self, _watcher: &mut dyn Watcher) -> io::Result<()> {
        Ok(())
    }

    /// A driver is ready. An error makes the device ask for a reset.
    ///
    /// # Errors
    /// When the device cannot work with it.
    fn activate(&mut self, driver: Driver, watcher: &mut dyn Watcher) -> Result<(), EngineError>;

    /// The driver says that there is news in a queue.
    ///
    /// # Errors
    /// When the device cannot go on.
    fn kicked(&mut self, queue: u16, watcher: &mut dyn Watcher) -> Result<(), EngineError>;

    /// A descriptor is ready.
    ///
    /// # Errors
    /// When the device cannot go on.
    fn ready(
        &mut self,
        token: u32,
        readiness: Readiness,
        watcher: &mut dyn Watcher,
    ) -> Result<(), EngineError>;

    /// The driver is gone: its queues must not be touched any more. Called again after each event until it is done.
    fn reset(&mut self, watcher: &mut dyn Watcher) -> Reset;
}
