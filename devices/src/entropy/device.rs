//! The engine: fills what the driver offers.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::config::{self, LIMITS, REQUEST_BYTES_MAX};
use super::error::EntropyError;
use crate::ram::GuestRam;
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Readiness, Reset, Watcher};
use crate::virtio::queue::{Chain, DeviceQueue, Done};

/// Where random numbers come from. Reading may wait a moment, as a generator in hardware does.
pub struct EntropySource(Box<dyn Read + Send>);

impl EntropySource {
    /// A file such as `/dev/urandom`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, EntropyError> {
        match File::open(path) {
            Ok(file) => Ok(EntropySource(Box::new(file))),
            Err(source) => Err(EntropyError::Open { path: path.into(), source }),
        }
    }

    /// Anything that can be read.
    pub fn new(source: impl Read + Send + 'static) -> Self {
        EntropySource(Box::new(source))
    }
}

/// A source of random numbers with its driver's model.
pub fn device(source: EntropySource) -> Device {
    Device { model: config::model(), engine: Box::new(EntropyEngine { source, driver: None }) }
}

struct EntropyEngine {
    source: EntropySource,
    driver: Option<(DeviceQueue, Arc<dyn GuestRam>)>,
}

impl EntropyEngine {
    fn fill(&mut self, chain: Chain) -> Result<Done, EngineError> {
        let mut bytes = vec![0; chain.writable_len().min(REQUEST_BYTES_MAX) as usize];
        let read = self.source.0.read_exact(&mut bytes);
        read.map_err(|source| EngineError::Host { what: "reading random numbers", source })?;
        // (A few KiB: the length fits.)
        let written = bytes.len() as u32;
        Ok(Done { chain, answers: vec![(0, bytes)], written })
    }
}

impl Engine for EntropyEngine {
    fn activate(&mut self, mut driver: Driver, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let queue = driver.take_queue(0)?;
        self.driver = Some((queue, driver.ram));
        Ok(())
    }

    fn kicked(&mut self, _queue: u16, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let mut more = true;
        while more {
            let Some((queue, ram)) = &mut self.driver else { return Ok(()) };
            let taken = queue.take(&**ram, LIMITS)?;
            more = taken.more;
            let done: Vec<Done> =
                taken.chains.into_iter().map(|chain| self.fill(chain)).collect::<Result<_, _>>()?;
            let Some((queue, ram)) = &mut self.driver else { return Ok(()) };
            queue.complete(&**ram, &done)?;
        }
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Readiness, _: &mut dyn Watcher) -> Result<(), EngineError> {
        Ok(())
    }

    fn reset(&mut self, _: &mut dyn Watcher) -> Reset {
        self.driver = None;
        Reset::Done
    }
}
