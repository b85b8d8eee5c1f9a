//! A device's own thread: one event loop for its kicks, its orders and its descriptors.

mod event_loop;
mod inbox;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::engine::{Driver, Engine};
use super::interrupts::VirtioInterrupts;
use inbox::{Inbox, Order};

/// A device's thread, as its registers see it. None of these waits but [`DeviceThread::join`].
pub struct DeviceThread {
    inbox: Arc<Inbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl DeviceThread {
    /// Starts the thread, named `name`, on which `engine` works. `interrupts` tell the driver when it has to reset the
    /// device.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub fn start(
        name: &str,
        engine: Box<dyn Engine>,
        interrupts: Arc<VirtioInterrupts>,
    ) -> io::Result<DeviceThread> {
        let inbox = Arc::new(Inbox::new()?);
        let run = event_loop::prepare(name, engine, inbox.clone(), interrupts)?;
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(DeviceThread { inbox, thread: Mutex::new(Some(thread)) })
    }

    /// A driver is ready.
    pub fn activate(&self, driver: Driver) {
        self.inbox.order(Order::Activate(Box::new(driver)));
    }

    /// A driver is ready with which the device cannot work: it has to reset the device.
    pub fn refuse(&self) {
        self.inbox.set_needs_reset();
    }

    /// The driver says that there is news in a queue.
    pub fn kick(&self, queue: u16) {
        self.inbox.kick(queue);
    }

    /// The driver is to be let go; see [`DeviceThread::is_resetting`].
    pub fn reset(&self) {
        self.inbox.begin_reset();
    }

    /// Whether a reset is under way.
    pub fn is_resetting(&self) -> bool {
        self.inbox.is_resetting()
    }

    /// Whether the device cannot go on until it is reset.
    pub fn needs_reset(&self) -> bool {
        self.inbox.needs_reset()
    }

    /// Tells the thread to end.
    pub fn quit(&self) {
        self.inbox.order(Order::Quit);
    }

    /// Waits for the thread's end; after [`DeviceThread::quit`]. A thread that waits for guest memory ends when that is
    /// not served any more.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked has said so; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.quit();
        self.join();
    }
}
