//! The engine between the queues and the switch.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::config::{self, OUTBOX_MAX, RECEIVE, RECEIVE_LIMITS, TRANSMIT, TRANSMIT_LIMITS};
use super::host::HostSockets;
use super::packet::{Head, HEAD_BYTES};
use super::switch::{Switch, LISTENER};
use crate::ram::GuestRam;
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Interest, Readiness, Reset, Watcher};
use crate::virtio::queue::{copy, Chain, DeviceQueue, Done};

/// Most packets that are passed on before others have their turn.
const PACKETS_AT_ONCE: usize = 64;

/// Sockets between the host and a guest of this address, from [`CID_MIN`](super::CID_MIN) to [`CID_MAX`](super::CID_MAX).
pub fn device(cid: u32, host: HostSockets) -> Device {
    let engine = VsockEngine { switch: Switch::new(cid, host), driver: None };
    Device { model: config::model(cid), engine: Box::new(engine) }
}

struct Active {
    receive: DeviceQueue,
    transmit: DeviceQueue,
    ram: Arc<dyn GuestRam>,
    /// Memory of the guest for packets that have not come yet.
    room: VecDeque<Chain>,
    /// The guest may have sent packets that were not taken yet.
    more: bool,
}

struct VsockEngine {
    switch: Switch,
    driver: Option<Active>,
}

impl VsockEngine {
    /// Takes packets of the guest as long as there are some, and room for answers.
    fn transmit(&mut self, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        let Some(active) = &mut self.driver else { return Ok(()) };
        while active.more && self.switch.waiting() < OUTBOX_MAX {
            let taken = active.transmit.take(&*active.ram, TRANSMIT_LIMITS)?;
            active.more = taken.more;
            if let Some(chain) =
                taken.chains.iter().find(|chain| chain.readable_len() > TRANSMIT_LIMITS.bytes)
            {
                return Err(EngineError::Driver(format!("a packet of {} bytes", chain.readable_len())));
            }
            let buffers = taken.chains.iter().flat_map(|chain| chain.readable.iter().copied());
            let bytes = copy::read_all(&*active.ram, buffers)?;
            let mut rest = bytes.as_slice();
            for chain in &taken.chains {
                let (packet, behind) = rest.split_at(chain.readable_len() as usize);
                rest = behind;
                let (head, data) = parse(packet)?;
                self.switch.take(&head, data, watcher);
            }
            let back = |chain| Done { chain, answers: Vec::new(), written: 0 };
            let done: Vec<Done> = taken.chains.into_iter().map(back).collect();
            active.transmit.complete(&*active.ram, &done)?;
        }
        Ok(())
    }

    /// Passes packets on to the guest as long as there are some and it has memory for them. `true` if there are more.
    fn receive(&mut self, watcher: &mut dyn Watcher) -> Result<bool, EngineError> {
        let Some(active) = &mut self.driver else { return Ok(false) };
        let mut done = Vec::new();
        while done.len() < PACKETS_AT_ONCE {
            // What the driver offered while there was room left will not be told again.
            if active.room.is_empty() {
                active.room.extend(active.receive.take(&*active.ram, RECEIVE_LIMITS)?.chains);
            }
            let Some(chain) = active.room.pop_front() else { break };
            let room = chain.writable_len().checked_sub(HEAD_BYTES as u64);
            let room = room.ok_or_else(|| EngineError::Driver("memory too small for a packet".into()))?;
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            match self.switch.next_packet(room, watcher) {
                Some((head, data)) => {
                    let packet = [head.as_bytes(), &data].concat();
                    let written = packet.len() as u32;
                    done.push(Done { chain, answers: vec![(0, packet)], written });
                }
                None => {
                    active.room.push_front(chain);
                    break;
                }
            }
        }
        active.receive.complete(&*active.ram, &done)?;
        Ok(done.len() == PACKETS_AT_ONCE)
    }

    /// Both ways, until neither has anything to do now: answers make room for packets.
    fn work(&mut self, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        loop {
            let before = self.switch.waiting();
            self.transmit(watcher)?;
            let more = self.receive(watcher)?;
            let stuck = self.driver.as_ref().is_none_or(|active| !active.more);
            if !more && (stuck || self.switch.waiting() >= before.max(OUTBOX_MAX)) {
                return Ok(());
            }
        }
    }
}

/// A packet's head and its data.
fn parse(packet: &[u8]) -> Result<(Head, &[u8]), EngineError> {
    let wrong = || EngineError::Driver(format!("a packet of {} bytes that is none", packet.len()));
    let (head, data) = Head::read_from_prefix(packet).map_err(|_| wrong())?;
    // There may be more memory than packet.
    let data = data.get(..head.len.get() as usize).ok_or_else(wrong)?;
    Ok((head, data))
}

impl Engine for VsockEngine {
    fn begin(&mut self, watcher: &mut dyn Watcher) -> io::Result<()> {
        watcher.watch(self.switch.host().listener().as_fd(), LISTENER, Interest::None)
    }

    fn activate(&mut self, mut driver: Driver, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        let (receive, transmit) = (driver.take_queue(RECEIVE)?, driver.take_queue(TRANSMIT)?);
        let room = VecDeque::new();
        self.driver = Some(Active { receive, transmit, ram: driver.ram, room, more: true });
        // Callers wait until there is somebody to answer.
        let listened = watcher.change(self.switch.host().listener().as_fd(), LISTENER, Interest::Read);
        listened.map_err(|source| EngineError::Host { what: "listening for callers", source })?;
        self.work(watcher)
    }

    fn kicked(&mut self, queue: u16, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        if let (TRANSMIT, Some(active)) = (queue, &mut self.driver) {
            active.more = true;
        }
        self.work(watcher)
    }

    fn ready(
        &mut self,
        token: u32,
        readiness: Readiness,
        watcher: &mut dyn Watcher,
    ) -> Result<(), EngineError> {
        self.switch.event(token, readiness, watcher);
        self.work(watcher)
    }

    fn reset(&mut self, watcher: &mut dyn Watcher) -> Reset {
        self.driver = None;
        self.switch.clear(watcher);
        // It fails only for a descriptor that is not watched.
        let _ = watcher.change(self.switch.host().listener().as_fd(), LISTENER, Interest::None);
        Reset::Done
    }
}
