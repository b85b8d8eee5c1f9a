//! The loop itself, on the event manager.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use tracing::{error, warn};
use vmm_sys_util::epoll::EventSet;

use super::inbox::{Inbox, Order};
use crate::virtio::engine::{Driver, Engine, EngineError, Interest, Readiness, Reset, Watcher};
use crate::virtio::interrupts::VirtioInterrupts;

/// The bell's token; engines have the others.
const BELL: u32 = u32::MAX;

/// What the engine is to its driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// There is no driver.
    Idle,
    /// It works.
    Active,
    /// It cannot go on until it is reset.
    Broken,
    /// The driver wants to be let go, and something is still under way.
    Resetting,
    /// The thread ends.
    Quitting,
}

struct DeviceLoop {
    name: String,
    engine: Box<dyn Engine>,
    inbox: Arc<Inbox>,
    interrupts: Arc<VirtioInterrupts>,
    state: State,
}

/// Sets the loop up; the result is what the thread runs.
pub(super) fn prepare(
    name: &str,
    engine: Box<dyn Engine>,
    inbox: Arc<Inbox>,
    interrupts: Arc<VirtioInterrupts>,
) -> io::Result<impl FnOnce()> {
    let mut manager = EventManager::<DeviceLoop>::new().map_err(io::Error::other)?;
    let name = name.to_owned();
    let device = DeviceLoop { name, engine, inbox, interrupts, state: State::Idle };
    let id = manager.add_subscriber(device);
    // The manager tells a subscriber to begin, and cannot be told that it failed.
    if manager.subscriber_mut(id).is_ok_and(|device| device.state == State::Quitting) {
        return Err(io::Error::other("the device cannot listen to its descriptors"));
    }
    Ok(move || {
        while manager.subscriber_mut(id).is_ok_and(|device| device.state != State::Quitting) {
            if let Err(error) = manager.run() {
                error!("a device cannot wait for events any more: {error:?}");
                return;
            }
        }
    })
}

impl DeviceLoop {
    fn obey(&mut self, ops: &mut EventOps<'_>) {
        self.inbox.bell().silence();
        while let Some(order) = self.inbox.next_order() {
            match order {
                Order::Activate(driver) => self.activate(*driver, ops),
                Order::Reset => {
                    self.state = State::Resetting;
                    self.go_on_resetting(ops);
                }
                Order::Quit => {
                    // The driver's buffers are not touched any more, whatever is still under way.
                    self.engine.reset(&mut Listener(ops));
                    self.state = State::Quitting;
                    return;
                }
            }
        }
        for queue in self.inbox.take_kicks() {
            if self.state == State::Active {
                let result = self.engine.kicked(queue, &mut Listener(ops));
                self.judge(result, ops);
            }
        }
    }

    fn activate(&mut self, driver: Driver, ops: &mut EventOps<'_>) {
        self.state = State::Active;
        let result = self.engine.activate(driver, &mut Listener(ops));
        self.judge(result, ops);
    }

    /// A device that cannot go on asks its driver for a reset.
    fn judge(&mut self, result: Result<(), EngineError>, ops: &mut EventOps<'_>) {
        let Err(error) = result else { return };
        self.state = State::Broken;
        // Its queues are not touched any more; what is under way ends by itself.
        self.engine.reset(&mut Listener(ops));
        match &error {
            EngineError::Queue(queue) if queue.is_end() => return,
            error => {
                warn!("virtio device {}: it cannot go on until its driver resets it: {error}", self.name);
            }
        }
        self.inbox.set_needs_reset();
        self.interrupts.config_changed();
    }

    fn go_on_resetting(&mut self, ops: &mut EventOps<'_>) {
        if self.engine.reset(&mut Listener(ops)) == Reset::Done {
            self.state = State::Idle;
            // A kick that the old driver left behind is not the new one's.
            self.inbox.take_kicks().for_each(drop);
            self.inbox.end_reset();
        }
    }
}

impl MutEventSubscriber for DeviceLoop {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let bell = ops.add(Events::with_data(self.inbox.bell(), BELL, EventSet::IN));
        let begun = self.engine.begin(&mut Listener(ops));
        if let Err(error) = bell.map_err(io::Error::other).and(begun) {
            error!("virtio device {}: {error}", self.name);
            self.state = State::Quitting;
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.data() == BELL {
            return self.obey(ops);
        }
        let set = events.event_set();
        let readiness = Readiness {
            read: set.contains(EventSet::IN),
            write: set.contains(EventSet::OUT),
            closed: set.intersects(EventSet::HANG_UP | EventSet::ERROR | EventSet::READ_HANG_UP),
        };
        // Without a driver too: what is ready has to be taken away, or it is ready for ever.
        let result = self.engine.ready(events.data(), readiness, &mut Listener(ops));
        if self.state == State::Active {
            self.judge(result, ops);
        }
        if self.state == State::Resetting {
            self.go_on_resetting(ops);
        }
    }
}

/// The event manager as engines see it.
struct Listener<'a, 'b>(&'a mut EventOps<'b>);

fn events(descriptor: BorrowedFd<'_>, token: u32, interest: Interest) -> Events {
    let set = match interest {
        Interest::Read => EventSet::IN,
        Interest::Write => EventSet::OUT,
        Interest::Both => EventSet::IN | EventSet::OUT,
        Interest::None => EventSet::empty(),
    };
    Events::with_data_raw(descriptor.as_raw_fd(), token, set)
}

impl Watcher for Listener<'_, '_> {
    fn watch(&mut self, descriptor: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.0.add(events(descriptor, token, interest)).map_err(io::Error::other)
    }

    fn change(&mut self, descriptor: BorrowedFd<'_>, token: u32, interest: Interest) -> io::Result<()> {
        self.0.modify(events(descriptor, token, interest)).map_err(io::Error::other)
    }

    fn forget(&mut self, descriptor: BorrowedFd<'_>) {
        // It fails only for a descriptor that is not watched.
        let _ = self.0.remove(events(descriptor, 0, Interest::None));
    }
}
