//! The ports, and the thread that waits for the countdown's end.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tessera_abi::port::watchdog as at;
use tracing::warn;

use super::countdown::Countdown;
use crate::bus::BusDevice;
use crate::events::{GuestEnd, PlatformEvents};

#[derive(Default)]
struct State {
    countdown: Countdown,
    /// The guest stands still, and its watchdog with it.
    is_held: bool,
    /// The thread is to end.
    quits: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    begun: Instant,
    events: Arc<dyn PlatformEvents>,
}

/// The watchdog.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watchdog {
    /// A watchdog that does not run, which resets the guest through `events`.
    pub fn new(events: Arc<dyn PlatformEvents>) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { state, changed, begun: Instant::now(), events });
        Watchdog { shared, thread: Mutex::default() }
    }

    /// Makes the thread, if there is none yet: most guests never start their watchdog.
    fn ensure_thread(&self) -> io::Result<()> {
        let mut thread = self.thread();
        if thread.is_none() {
            let waiter = self.shared.clone();
            let made = std::thread::Builder::new().name("watchdog".into()).spawn(move || waiter.wait());
            *thread = Some(made?);
        }
        Ok(())
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        // It is there or it is not.
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does not run down until [`Watchdog::go_on`]: the guest cannot do anything about it.
    pub fn hold(&self) {
        self.shared.lock().is_held = true;
        self.shared.changed.notify_all();
    }

    /// Counts on, from the start of the time-out.
    pub fn go_on(&self) {
        let now = self.shared.now_ms();
        let mut state = self.shared.lock();
        state.is_held = false;
        state.countdown.write(at::KICK, 0, now);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Tells the thread to end.
    pub fn quit(&self) {
        self.shared.lock().quits = true;
        self.shared.changed.notify_all();
    }

    /// Waits for its end; after [`Watchdog::quit`].
    pub fn join(&self) {
        let thread = self.thread().take();
        // A thread that panicked has said so.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.quit();
        self.join();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        // (An u64 of milliseconds outlives the host.)
        self.begun.elapsed().as_millis() as u64
    }

    /// Waits until it has run down, over and over.
    fn wait(&self) {
        let mut state = self.lock();
        while !state.quits {
            let now = self.now_ms();
            let expires = state.countdown.expires_ms().filter(|_| !state.is_held);
            state = match expires {
                Some(expires) if expires <= now => {
                    state.countdown = Countdown::default();
                    // It is not called with the lock held.
                    drop(state);
                    warn!("the guest's watchdog has run down: the guest is reset");
                    self.events.guest_end(GuestEnd::Reset);
                    self.lock()
                }
                Some(expires) => {
                    let left = Duration::from_millis(expires - now);
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Bytes of a register.
const REGISTER_BYTES: u64 = 4;

/// The register of an access, if it is a whole one.
fn register(offset: u64, bytes: usize) -> Option<u16> {
    (offset.is_multiple_of(REGISTER_BYTES) && bytes as u64 == REGISTER_BYTES)
        .then(|| u16::try_from(offset).ok())
        .flatten()
}

impl BusDevice for Watchdog {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = register(offset, data.len())
            .map_or(u32::MAX, |register| self.shared.lock().countdown.read(register, self.shared.now_ms()));
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Some(register), Ok(value)) = (register(offset, data.len()), data.try_into()) {
            let value = u32::from_le_bytes(value);
            if register == at::CONTROL && value & 1 != 0 {
                if let Err(error) = self.ensure_thread() {
                    return warn!("the guest's watchdog cannot be started: no thread: {error}");
                }
            }
            self.shared.lock().countdown.write(register, value, self.shared.now_ms());
            self.shared.changed.notify_all();
        }
    }
}
