//! The engine: answers the messages that the driver puts into the queue.

use std::sync::Arc;

use super::config::{self, LIMITS, MESSAGE_BYTES_MAX, TAG_BYTES_MAX};
use super::error::P9Error;
use super::folder::Folder;
use super::server::Server;
use crate::ram::GuestRam;
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Readiness, Reset, Watcher};
use crate::virtio::queue::{copy, Chain, DeviceQueue, Done};

/// A folder that a guest mounts under the name `tag`.
///
/// # Errors
/// When the tag is empty or too long.
pub fn device(folder: Folder, tag: &str) -> Result<Device, P9Error> {
    match tag.len() {
        1..=TAG_BYTES_MAX => {}
        bytes => return Err(P9Error::Tag(bytes)),
    }
    let engine = Box::new(P9Engine { server: Server::new(folder), driver: None });
    Ok(Device { model: config::model(tag), engine })
}

struct P9Engine {
    server: Server,
    driver: Option<(DeviceQueue, Arc<dyn GuestRam>)>,
}

impl P9Engine {
    fn answer(&mut self, chain: Chain, message: &[u8]) -> Result<Done, EngineError> {
        let answer = self.server.serve(message, chain.writable_len());
        let answer = answer.ok_or_else(|| refused(&chain, "has no tag, or no room for an answer"))?;
        // (An answer is no longer than a message.)
        let written = answer.len() as u32;
        Ok(Done { chain, answers: vec![(0, answer)], written })
    }
}

fn refused(chain: &Chain, why: &str) -> EngineError {
    EngineError::Driver(format!("the message at descriptor {} {why}", chain.head))
}

impl Engine for P9Engine {
    fn activate(&mut self, mut driver: Driver, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let queue = driver.take_queue(0)?;
        self.driver = Some((queue, driver.ram));
        Ok(())
    }

    fn kicked(&mut self, _queue: u16, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let mut more = true;
        while more {
            let Some((queue, ram)) = &mut self.driver else { return Ok(()) };
            let ram = ram.clone();
            let taken = queue.take(&*ram, LIMITS)?;
            more = taken.more;
            let is_long = |chain: &&Chain| chain.readable_len() > MESSAGE_BYTES_MAX.into();
            if let Some(chain) = taken.chains.iter().find(is_long) {
                return Err(refused(chain, "is too long"));
            }
            let bytes = copy::read_chains(&*ram, &taken.chains)?;
            let chains = taken.chains.into_iter().zip(bytes.each());
            let done: Vec<Done> =
                chains.map(|(chain, message)| self.answer(chain, message)).collect::<Result<_, _>>()?;
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
        self.server.forget();
        Reset::Done
    }
}
