//! Sessions whose states have an end: positions and epochs are counted from the oldest that matter.

use super::super::{Epoch, Session, State};

impl Session {
    /// Up to where it has received.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Where the first byte is that the peer has not confirmed.
    pub(crate) fn first_unconfirmed(&self) -> u64 {
        self.unconfirmed.start()
    }

    /// Counts what this side sends from `own` on, what the peer sends from `others` on, and calls the link `epoch`. What makes no
    /// difference is forgotten: how much the peer was told (it matters only after many frames), what a link took that is no more, since
    /// when there is trouble.
    pub(crate) fn count_from(&mut self, own: u64, others: u64, epoch: Epoch) {
        self.unconfirmed.count_from(own);
        self.sent = match self.state {
            State::Open => self.sent.wrapping_sub(own),
            State::Down | State::Greeting => self.unconfirmed.start(),
        };
        self.received = self.received.wrapping_sub(others);
        self.told = self.received;
        (self.epoch, self.trouble) = (epoch, None);
    }
}
