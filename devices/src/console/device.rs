//! The engine between the two queues and the world.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::config::{self, RECEIVE, RECEIVE_LIMITS, TRANSMIT, TRANSMIT_LIMITS, WRITE_BYTES_MAX};
use super::error::ConsoleError;
use super::input::ConsoleInput;
use crate::ram::GuestRam;
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Interest, Readiness, Reset, Watcher};
use crate::virtio::queue::{copy, DeviceQueue, Done};

/// The token of the input's bell.
const INPUT: u32 = 0;

/// Takes what a guest writes. Called by the console's thread only.
pub trait ConsoleOutput: Send {
    /// Takes all of it; what cannot be taken is lost.
    fn write(&mut self, bytes: &[u8]);
}

/// A console with its driver's model, and where to offer input.
///
/// # Errors
/// When the system has no descriptor left.
pub fn device(output: Box<dyn ConsoleOutput>) -> Result<(Device, Arc<ConsoleInput>), ConsoleError> {
    let input = Arc::new(ConsoleInput::new()?);
    let engine = ConsoleEngine { output, input: input.clone(), driver: None };
    Ok((Device { model: config::model(), engine: Box::new(engine) }, input))
}

struct Active {
    receive: DeviceQueue,
    transmit: DeviceQueue,
    ram: Arc<dyn GuestRam>,
}

struct ConsoleEngine {
    output: Box<dyn ConsoleOutput>,
    input: Arc<ConsoleInput>,
    driver: Option<Active>,
}

impl ConsoleEngine {
    fn transmit(&mut self) -> Result<(), EngineError> {
        let Some(Active { transmit, ram, .. }) = &mut self.driver else { return Ok(()) };
        let mut more = true;
        while more {
            let taken = transmit.take(&**ram, TRANSMIT_LIMITS)?;
            more = taken.more;
            if taken.chains.iter().any(|chain| chain.readable_len() > WRITE_BYTES_MAX) {
                return Err(EngineError::Driver("the guest writes too much in one piece".into()));
            }
            let bytes = copy::read_chains(&**ram, &taken.chains)?;
            if !bytes.all().is_empty() {
                self.output.write(bytes.all());
            }
            transmit.give_back(&**ram, taken.chains)?;
        }
        Ok(())
    }

    /// Passes input on as far as the driver has offered memory.
    fn receive(&mut self) -> Result<(), EngineError> {
        let Some(Active { receive, ram, .. }) = &mut self.driver else { return Ok(()) };
        while !self.input.is_empty() {
            let mut taken = receive.take(&**ram, RECEIVE_LIMITS)?;
            // Without memory it waits for a kick, which announces some.
            let Some(chain) = taken.chains.pop() else { break };
            let bytes = self.input.take(chain.writable_len());
            // (No more than wait in the queue: the length fits.)
            let written = bytes.len() as u32;
            receive.complete(&**ram, &[Done { chain, answers: vec![(0, bytes)], written }])?;
        }
        Ok(())
    }
}

impl Engine for ConsoleEngine {
    fn begin(&mut self, watcher: &mut dyn Watcher) -> io::Result<()> {
        watcher.watch(self.input.as_fd(), INPUT, Interest::Read)
    }

    fn activate(&mut self, mut driver: Driver, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let (receive, transmit) = (driver.take_queue(RECEIVE)?, driver.take_queue(TRANSMIT)?);
        self.driver = Some(Active { receive, transmit, ram: driver.ram });
        self.receive()
    }

    fn kicked(&mut self, queue: u16, _: &mut dyn Watcher) -> Result<(), EngineError> {
        match queue {
            TRANSMIT => self.transmit(),
            _ => self.receive(),
        }
    }

    fn ready(&mut self, _token: u32, _: Readiness, _: &mut dyn Watcher) -> Result<(), EngineError> {
        self.input.silence();
        self.receive()
    }

    fn reset(&mut self, _: &mut dyn Watcher) -> Reset {
        self.driver = None;
        Reset::Done
    }
}
