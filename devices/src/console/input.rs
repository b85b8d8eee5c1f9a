//! What is typed, on its way to the guest.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::virtio::bell::Bell;

/// Most bytes of input that wait for the guest.
pub const INPUT_BYTES_MAX: usize = 64 << 10;

/// Input of a console. Offered by any thread, taken by the console's.
pub struct ConsoleInput {
    waiting: Mutex<VecDeque<u8>>,
    bell: Bell,
}

impl ConsoleInput {
    pub(super) fn new() -> io::Result<Self> {
        Ok(ConsoleInput { waiting: Mutex::default(), bell: Bell::new()? })
    }

    /// Offers bytes to the guest and says how many were taken; the rest does not fit into [`INPUT_BYTES_MAX`] and should
    /// be offered again later.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let mut waiting = self.waiting();
        let taken = bytes.len().min(INPUT_BYTES_MAX.saturating_sub(waiting.len()));
        waiting.extend(&bytes[..taken]);
        drop(waiting);
        self.bell.ring();
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// The next bytes, at most `most`.
    pub(super) fn take(&self, most: u64) -> Vec<u8> {
        let mut waiting = self.waiting();
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(waiting.len());
        waiting.drain(..count).collect()
    }

    pub(super) fn silence(&self) {
        self.bell.silence();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<u8>> {
        // Bytes are put in and taken out whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for ConsoleInput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
