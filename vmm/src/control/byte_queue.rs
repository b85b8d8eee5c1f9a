//! A bounded queue of bytes between a producer that must not wait and a consumer that may be slow: a guest's
//! console and whoever reads it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most bytes that are taken at a time.
const TAKEN_BYTES_MAX: usize = 32 << 10;

/// A bounded queue of bytes. Putting never blocks; taking does, until there is something or the queue is
/// closed.
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
    /// The consumer has not come back for more: it may still be at work on what it took.
    in_hand: bool,
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
    /// An empty queue for up to `most` bytes; what comes on top is lost, and counted.
    pub fn new(most: usize) -> Self {
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

    /// Waits for the next bytes; `None` when the queue is closed and empty. Says with it that those before
    /// are dealt with.
    pub fn take(&self) -> Option<Taken> {
        self.state().in_hand = false;
        self.changed.notify_all();
        let empty = |state: &mut State| state.bytes.is_empty() && state.lost == 0 && !state.closed;
        let waited = self.changed.wait_while(self.state(), empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let count = state.bytes.len().min(TAKEN_BYTES_MAX);
        let bytes: Vec<u8> = state.bytes.drain(..count).collect();
        // The loss is behind everything that is still in the queue.
        let lost = if state.bytes.is_empty() { std::mem::take(&mut state.lost) } else { 0 };
        state.in_hand = !bytes.is_empty() || lost > 0;
        drop(state);
        self.changed.notify_all();
        (!bytes.is_empty() || lost > 0).then_some(Taken { bytes, lost })
    }

    /// Takes nothing more in. What is in can still be taken out.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Takes nothing more in, and drops what is in: there is no consumer any more.
    pub fn abandon(&self) {
        *self.state() = State { closed: true, ..State::default() };
        self.changed.notify_all();
    }

    /// Waits until everything is taken and dealt with, or the time is over.
    pub fn await_empty(&self, limit: Duration) {
        let busy = |state: &mut State| !state.bytes.is_empty() || state.lost > 0 || state.in_hand;
        let _either = self.changed.wait_timeout_while(self.state(), limit, busy);
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
    fn emptiness_means_that_the_consumer_has_come_back() {
        let queue = ByteQueue::new(4);
        queue.put(b"ab");
        assert!(queue.take().is_some());
        assert!(queue.state().in_hand);
        queue.close();
        assert_eq!(queue.take(), None);
        queue.await_empty(Duration::from_secs(60));
        let queue = ByteQueue::new(4);
        queue.put(b"ab");
        queue.abandon();
        queue.await_empty(Duration::from_secs(60));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn closing_wakes_who_waits() {
        let queue = std::sync::Arc::new(ByteQueue::new(1));
        let waiting = queue.clone();
        let thread = std::thread::spawn(move || waiting.take());
        queue.close();
        assert_eq!(thread.join().expect("no panic"), None);
    }
}
