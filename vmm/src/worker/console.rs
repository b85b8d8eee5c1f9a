//! The guest's console on its way to and from the launcher. The guest never waits for it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::control::orders::INPUT_BYTES_MAX;

/// Most bytes of output that wait for the launcher; what comes on top is lost, and counted.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Most bytes of output in one frame.
const OUTPUT_CHUNK_BYTES: usize = 32 << 10;

/// A bounded queue of bytes. Putting never blocks; taking does, until there is something or the queue is closed.
#[derive(Debug)]
pub struct ByteQueue {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    lost: u64,
    closed: bool,
}

/// What is taken from a queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes, in order.
    pub bytes: Vec<u8>,
    /// How many were lost behind them.
    pub lost: u64,
}

impl ByteQueue {
    /// A queue for console output.
    pub fn output() -> Self {
        ByteQueue::new(OUTPUT_BYTES_MAX)
    }

    /// A queue for console input.
    pub fn input() -> Self {
        ByteQueue::new(INPUT_BYTES_MAX)
    }

    fn new(most: usize) -> Self {
        ByteQueue { most, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `bytes` in, or counts them as lost when they do not fit.
    pub fn put(&self, bytes: &[u8]) {
        let mut state = self.state();
        if state.closed || state.bytes.len() + bytes.len() > self.most {
            state.lost += bytes.len() as u64;
        } else {
            state.bytes.extend(bytes);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the next bytes; `None` when the queue is closed and empty.
    pub fn take(&self) -> Option<Taken> {
        let empty = |state: &mut State| state.bytes.is_empty() && state.lost == 0 && !state.closed;
        let waited = self.changed.wait_while(self.state(), empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let count = state.bytes.len().min(OUTPUT_CHUNK_BYTES);
        let bytes: Vec<u8> = state.bytes.drain(..count).collect();
        // The loss is behind everything that is still in the queue.
        let lost = if state.bytes.is_empty() { std::mem::take(&mut state.lost) } else { 0 };
        drop(state);
        self.changed.notify_all();
        (!bytes.is_empty() || lost > 0).then_some(Taken { bytes, lost })
    }

    /// Takes nothing more in. What is in can still be taken out.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Waits until the queue is empty or the time is over.
    pub fn await_empty(&self, limit: Duration) {
        let _either = self.changed.wait_timeout_while(self.state(), limit, |state| !state.bytes.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_losses_are_counted_behind_them() {
        let queue = ByteQueue::new(4);
        queue.put(b"ab");
        queue.put(b"cd");
        queue.put(b"xyz");
        assert_eq!(queue.take(), Some(Taken { bytes: b"abcd".to_vec(), lost: 3 }));
        queue.put(b"e");
        queue.close();
        queue.put(b"f");
        assert_eq!(queue.take(), Some(Taken { bytes: b"e".to_vec(), lost: 1 }));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn closing_wakes_who_waits() {
        let queue = std::sync::Arc::new(ByteQueue::output());
        let waiting = queue.clone();
        let thread = std::thread::spawn(move || waiting.take());
        queue.close();
        assert_eq!(thread.join().expect("no panic"), None);
    }
}
