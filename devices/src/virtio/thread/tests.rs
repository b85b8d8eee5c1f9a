use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::super::engine::{Driver, EngineError, Interest, Reset, Watcher};
use super::super::model::{DeviceKind, Model};
use super::super::queue::{DeviceQueue, Limits};
use super::super::testing::{wait_until, Rig, BUFFERS, FIRST_VECTOR};
use super::super::Engine;
use crate::pci::PciFunction;
use crate::ram::GuestRam;
use crate::virtio::bell::Bell;
use crate::virtio::queue::{copy, Done};
use crate::virtio::{Device, Readiness};

/// Answers each chain with its own bytes.
struct Echo {
    queue: Option<DeviceQueue>,
    ram: Option<Arc<dyn GuestRam>>,
    /// Something is still under way.
    busy: Arc<AtomicBool>,
    event: Arc<Bell>,
}

impl Engine for Echo {
    fn begin(&mut self, watcher: &mut dyn Watcher) -> std::io::Result<()> {
        watcher.watch(self.event.as_fd(), 7, Interest::Read)
    }

    fn activate(&mut self, mut driver: Driver, _: &mut dyn Watcher) -> Result<(), EngineError> {
        self.queue = Some(driver.take_queue(0)?);
        self.ram = Some(driver.ram);
        Ok(())
    }

    fn kicked(&mut self, _: u16, _: &mut dyn Watcher) -> Result<(), EngineError> {
        let (Some(queue), Some(ram)) = (&mut self.queue, &self.ram) else { return Ok(()) };
        let taken = queue.take(&**ram, Limits { chains: 64, bytes: 1 << 20 })?;
        for chain in taken.chains {
            let bytes = copy::read_all(&**ram, chain.readable.clone())?;
            let written = bytes.len() as u32;
            queue.complete(&**ram, &[Done { chain, answers: vec![(0, bytes)], written }])?;
        }
        Ok(())
    }

    fn ready(&mut self, token: u32, ready: Readiness, _: &mut dyn Watcher) -> Result<(), EngineError> {
        assert!(token == 7 && ready.read);
        self.event.silence();
        Ok(())
    }

    fn reset(&mut self, _: &mut dyn Watcher) -> Reset {
        (self.queue, self.ram) = (None, None);
        if self.busy.load(Ordering::SeqCst) {
            Reset::Pending
        } else {
            Reset::Done
        }
    }
}

fn echo() -> (Rig, Arc<AtomicBool>, Arc<Bell>) {
    let model =
        Model { kind: DeviceKind::Entropy, features: 0, queue_sizes: vec![16, 16], config: vec![1, 2, 3] };
    let event = Arc::new(Bell::new().unwrap());
    let engine = Echo { queue: None, ram: None, busy: Arc::default(), event: event.clone() };
    let busy = engine.busy.clone();
    (Rig::new(Device { model, engine: Box::new(engine) }), busy, event)
}

#[test]
fn a_kick_is_answered_with_an_interrupt() {
    let (rig, ..) = echo();
    let mut queues = rig.start(0);
    queues[0].fill(BUFFERS, b"abc");
    let head = queues[0].offer(&[(BUFFERS, 3)], &[(BUFFERS + 0x1000, 3)]);
    rig.kick(0);
    assert_eq!(queues[0].wait_used(), (head.into(), 3));
    assert_eq!(queues[0].bytes(BUFFERS + 0x1000, 3), b"abc");
    rig.wait_for_queue(0);
}

#[test]
fn a_driver_that_breaks_the_ring_is_asked_to_reset_and_can_begin_again() {
    let (rig, ..) = echo();
    let mut queues = rig.start(0);
    queues[0].set_descriptor(0, BUFFERS, 0, 0, 0);
    queues[0].make_available(0);
    rig.kick(0);
    rig.wait_for_needs_reset();
    wait_until("the driver is told", || rig.sent.has(FIRST_VECTOR - 1));
    queues[0].offer(&[(BUFFERS, 3)], &[(BUFFERS, 3)]);
    rig.kick(0);
    rig.reset();
    assert_eq!(queues[0].take_used(), None, "a broken device does nothing");

    queues[0].clear();
    let mut queues = rig.start(0);
    queues[0].offer(&[(BUFFERS, 3)], &[(BUFFERS, 3)]);
    rig.kick(0);
    queues[0].wait_used();
    assert_eq!(rig.status(), 15);
}

#[test]
fn a_reset_is_over_only_when_nothing_is_under_way() {
    let (rig, busy, event) = echo();
    let mut queues = rig.start(0);
    busy.store(true, Ordering::SeqCst);
    rig.set_status(0);
    assert_ne!(rig.status(), 0);
    rig.set_status(1);
    rig.write(0x16, &1u16.to_le_bytes());
    assert_eq!(rig.read::<2>(0x16), [0, 0], "nothing is taken until then");
    // The engine is asked again after each event of its own.
    busy.store(false, Ordering::SeqCst);
    event.ring();
    wait_until("the reset", || rig.status() == 0);
    queues[0].clear();
    let mut queues = rig.start(0);
    queues[0].offer(&[(BUFFERS, 3)], &[(BUFFERS, 3)]);
    rig.kick(0);
    queues[0].wait_used();
}

#[test]
fn the_guests_end_breaks_nothing() {
    let (rig, ..) = echo();
    let mut queues = rig.start(0);
    rig.ram.stop();
    queues[0].offer(&[(BUFFERS, 3)], &[]);
    rig.kick(0);
    rig.device.quit();
    rig.device.join();
    assert_eq!(rig.status(), 15, "the driver is not blamed");
}
