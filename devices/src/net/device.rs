//! The engine between the queues and the back end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tracing::warn;

use super::backend::{NetBackend, Sent, HEADER_BYTES};
use super::config::{
    self, MacAddress, PACKET_BYTES_MAX, RECEIVE, RECEIVE_LIMITS, SUMS, TRANSMIT, TRANSMIT_LIMITS,
};
use crate::ram::GuestRam;
use crate::virtio::engine::{Device, Driver, Engine, EngineError, Interest, Readiness, Reset, Watcher};
use crate::virtio::queue::{copy, Chain, DeviceQueue, Done};

/// The token of the back end's descriptor.
const NETWORK: u32 = 0;
/// Most frames that are passed on before others have their turn.
const FRAMES_AT_ONCE: usize = 64;

/// A network card with its driver's model.
pub fn device(address: MacAddress, backend: Box<dyn NetBackend>) -> Device {
    let model = config::model(address, backend.offload());
    let engine = NetEngine {
        backend: Some(backend),
        interest: Interest::None,
        driver: None,
        packet: vec![0; PACKET_BYTES_MAX],
    };
    Device { model, engine: Box::new(engine) }
}

struct Active {
    receive: DeviceQueue,
    transmit: DeviceQueue,
    ram: Arc<dyn GuestRam>,
    /// Sums may be left to the host, as a frame's header says.
    sums: bool,
    /// Memory of the guest for frames that have not come yet.
    room: VecDeque<Chain>,
    /// Frames of the guest that the network has not taken yet.
    unsent: VecDeque<Vec<u8>>,
}

impl Active {
    /// Takes memory for frames when there is none left.
    fn make_room(&mut self) -> Result<(), EngineError> {
        if self.room.is_empty() {
            self.room.extend(self.receive.take(&*self.ram, RECEIVE_LIMITS)?.chains);
        }
        Ok(())
    }
}

struct NetEngine {
    /// Gone when it has failed: then the card is like one without a wire.
    backend: Option<Box<dyn NetBackend>>,
    /// What is listened for.
    interest: Interest,
    driver: Option<Active>,
    /// Where a frame is read into.
    packet: Vec<u8>,
}

/// Whether the back end is as good as before.
type Wire = io::Result<()>;

impl NetEngine {
    /// Passes frames on to the guest as long as there are some and it has memory for them.
    fn receive(&mut self) -> Result<Wire, EngineError> {
        let (Some(active), Some(backend)) = (&mut self.driver, &mut self.backend) else { return Ok(Ok(())) };
        let (mut done, mut wire) = (Vec::new(), Ok(()));
        for _ in 0..FRAMES_AT_ONCE {
            active.make_room()?;
            let Some(chain) = active.room.pop_front() else { break };
            match backend.receive(&mut self.packet) {
                Ok(Some(bytes)) => {
                    let packet = &mut self.packet[..bytes];
                    done.extend(delivered(chain, packet).map_err(|chain| active.room.push_front(chain)));
                }
                none => {
                    active.room.push_front(chain);
                    wire = none.map(drop);
                    break;
                }
            }
        }
        // Without room nothing is listened for: what the driver offered before will not be told again.
        active.make_room()?;
        active.receive.complete(&*active.ram, &done)?;
        Ok(wire)
    }

    /// Passes frames of the guest on as long as there are some and the network takes them.
    fn transmit(&mut self) -> Result<Wire, EngineError> {
        let Some(active) = &mut self.driver else { return Ok(Ok(())) };
        let mut more = true;
        loop {
            if let Some(backend) = &mut self.backend {
                match send_all(&mut **backend, &mut active.unsent) {
                    Ok(Sent::Later) => return Ok(Ok(())),
                    Ok(Sent::Done) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
            active.unsent.clear();
            if !more {
                return Ok(Ok(()));
            }
            let taken = active.transmit.take(&*active.ram, TRANSMIT_LIMITS)?;
            more = taken.more;
            if let Some(chain) = taken.chains.iter().find(|chain| !is_packet(chain)) {
                return Err(EngineError::Driver(format!("a frame of {} bytes", chain.readable_len())));
            }
            let buffers = taken.chains.iter().flat_map(|chain| chain.readable.iter().copied());
            let bytes = copy::read_all(&*active.ram, buffers)?;
            let mut rest = bytes.as_slice();
            for chain in &taken.chains {
                let (packet, behind) = rest.split_at(chain.readable_len() as usize);
                rest = behind;
                active.unsent.push_back(checked(packet, active.sums));
            }
            // Their bytes are ours now.
            let back = |chain| Done { chain, answers: Vec::new(), written: 0 };
            let done: Vec<Done> = taken.chains.into_iter().map(back).collect();
            active.transmit.complete(&*active.ram, &done)?;
        }
    }

    /// A back end that has failed is given up.
    fn judge(&mut self, wire: Wire, watcher: &mut dyn Watcher) {
        let Err(error) = wire else { return };
        warn!("a network card has lost its network: {error}");
        if let Some(backend) = self.backend.take() {
            watcher.forget(backend.descriptor());
        }
    }

    /// Listens for what can be done something about.
    fn listen(&mut self, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        let Some(backend) = &self.backend else { return Ok(()) };
        let (reads, writes) = match &self.driver {
            None => (false, false),
            Some(active) => (!active.room.is_empty(), backend.has_unsent() || !active.unsent.is_empty()),
        };
        let wanted = match (reads, writes) {
            (false, false) => Interest::None,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (true, true) => Interest::Both,
        };
        if wanted != self.interest {
            let changed = watcher.change(backend.descriptor(), NETWORK, wanted);
            changed.map_err(|source| EngineError::Host { what: "listening to a network", source })?;
            self.interest = wanted;
        }
        Ok(())
    }

    fn work(&mut self, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        let wire = self.transmit()?;
        self.judge(wire, watcher);
        let wire = self.receive()?;
        self.judge(wire, watcher);
        self.listen(watcher)
    }
}

/// Whether a chain can be a frame with its header.
fn is_packet(chain: &Chain) -> bool {
    let bytes = chain.readable_len();
    bytes > HEADER_BYTES as u64 && bytes <= PACKET_BYTES_MAX as u64
}

/// A guest's packet; without what its header asks for if that was not agreed on.
fn checked(packet: &[u8], sums: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if !sums {
        packet.iter_mut().take(HEADER_BYTES).for_each(|byte| *byte = 0);
    }
    packet
}

/// A frame in a guest's memory. One that does not fit is lost, and the memory comes back.
fn delivered(chain: Chain, packet: &mut [u8]) -> Result<Done, Chain> {
    if packet.len() < HEADER_BYTES || packet.len() as u64 > chain.writable_len() {
        return Err(chain);
    }
    // The last field of the header: the frame is in one buffer (virtio 1.2, 5.1.6.4.1).
    packet[HEADER_BYTES - 2..HEADER_BYTES].copy_from_slice(&1u16.to_le_bytes());
    let written = packet.len() as u32;
    Ok(Done { chain, answers: vec![(0, packet.to_vec())], written })
}

fn send_all(backend: &mut dyn NetBackend, unsent: &mut VecDeque<Vec<u8>>) -> io::Result<Sent> {
    while let Some(packet) = unsent.front() {
        if backend.send(packet)? == Sent::Later {
            return Ok(Sent::Later);
        }
        unsent.pop_front();
    }
    Ok(Sent::Done)
}

impl Engine for NetEngine {
    fn begin(&mut self, watcher: &mut dyn Watcher) -> io::Result<()> {
        match &self.backend {
            Some(backend) => watcher.watch(backend.descriptor(), NETWORK, Interest::None),
            None => Ok(()),
        }
    }

    fn activate(&mut self, mut driver: Driver, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        let (receive, transmit) = (driver.take_queue(RECEIVE)?, driver.take_queue(TRANSMIT)?);
        let sums = driver.features & SUMS != 0;
        let (room, unsent) = (VecDeque::new(), VecDeque::new());
        self.driver = Some(Active { receive, transmit, ram: driver.ram, sums, room, unsent });
        self.work(watcher)
    }

    fn kicked(&mut self, _queue: u16, watcher: &mut dyn Watcher) -> Result<(), EngineError> {
        self.work(watcher)
    }

    fn ready(
        &mut self,
        _token: u32,
        readiness: Readiness,
        watcher: &mut dyn Watcher,
    ) -> Result<(), EngineError> {
        if readiness.write {
            let flushed = self.backend.as_mut().map_or(Ok(Sent::Done), |backend| backend.flush());
            self.judge(flushed.map(drop), watcher);
        }
        self.work(watcher)?;
        if readiness.closed && self.backend.is_some() {
            // Whatever could still be read has been.
            self.judge(Err(io::ErrorKind::ConnectionAborted.into()), watcher);
        }
        Ok(())
    }

    fn reset(&mut self, watcher: &mut dyn Watcher) -> Reset {
        self.driver = None;
        // It fails only for a descriptor that is not watched.
        let _ = self.listen(watcher);
        Reset::Done
    }
}
