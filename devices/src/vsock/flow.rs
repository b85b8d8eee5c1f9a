//! How much each side of a connection may still send (virtio 1.2, 5.10.6.3).
//!
//! All counters go round at 2^32, as those in the packets do.

use std::num::Wrapping;

use super::config::BUFFER_BYTES;

/// A guest sent more than there was room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Overrun;

/// The counters of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Flow {
    /// What the guest has room for, and how much of what it got it has taken out.
    guest_room: u32,
    guest_taken: Wrapping<u32>,
    /// What the guest was sent.
    sent: Wrapping<u32>,
    /// What came from the guest, how much of it went on to the host's socket, and how much of that the guest knows of.
    received: Wrapping<u32>,
    taken: Wrapping<u32>,
    told: Wrapping<u32>,
}

impl Flow {
    /// Every packet of the guest says these.
    pub(super) fn heard(&mut self, room: u32, taken: u32) {
        (self.guest_room, self.guest_taken) = (room, Wrapping(taken));
    }

    /// How many bytes the guest may be sent now. A guest that claims to have taken what it never got gets nothing.
    pub(super) fn may_send(self) -> u32 {
        self.guest_room.saturating_sub((self.sent - self.guest_taken).0)
    }

    /// So many bytes were sent, no more than [`Flow::may_send`] said.
    pub(super) fn sent(&mut self, bytes: u32) {
        self.sent += bytes;
    }

    /// So many bytes came from the guest.
    pub(super) fn receive(&mut self, bytes: u32) -> Result<(), Overrun> {
        let waiting = (self.received - self.taken).0;
        if bytes > BUFFER_BYTES - waiting {
            return Err(Overrun);
        }
        self.received += bytes;
        Ok(())
    }

    /// So many of them went on to the host's socket.
    pub(super) fn pass_on(&mut self, bytes: u32) {
        self.taken += bytes;
    }

    /// Whether the guest should be told what went on: it may believe that there is little room left.
    pub(super) fn has_news(self) -> bool {
        (self.taken - self.told).0 >= BUFFER_BYTES / 4
    }

    /// What a packet to the guest says: our room, and how much went on. From then on the guest knows.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.taken;
        (BUFFER_BYTES, self.taken.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_sent_what_it_has_room_for() {
        let mut flow = Flow::default();
        assert_eq!(flow.may_send(), 0, "it has not said anything yet");
        flow.heard(100, 0);
        flow.sent(60);
        assert_eq!(flow.may_send(), 40);
        flow.heard(100, 50);
        assert_eq!(flow.may_send(), 90);
        flow.heard(5, 50);
        assert_eq!(flow.may_send(), 0, "it has less room than before");
        flow.heard(100, 61);
        assert_eq!(flow.may_send(), 0, "it took more than it got");
    }

    #[test]
    fn the_guest_sends_what_there_is_room_for() {
        let mut flow = Flow::default();
        assert_eq!(flow.receive(BUFFER_BYTES + 1), Err(Overrun));
        flow.receive(BUFFER_BYTES).unwrap();
        assert_eq!(flow.receive(1), Err(Overrun));
        flow.pass_on(BUFFER_BYTES / 4);
        assert!(flow.has_news());
        assert_eq!(flow.tell(), (BUFFER_BYTES, BUFFER_BYTES / 4));
        assert!(!flow.has_news());
        flow.receive(BUFFER_BYTES / 4).unwrap();
    }

    #[test]
    fn counters_go_round() {
        let mut flow = Flow::default();
        for _ in 0..100_000 {
            flow.heard(65536, flow.sent.0);
            flow.sent(65536);
            flow.receive(65536).unwrap();
            flow.pass_on(65536);
        }
        assert_eq!((flow.may_send(), flow.received), (0, flow.taken));
    }
}
