//! Events to entries and back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{kind, Event, ENTRY_BYTES};
use crate::seqlock::WORD_BYTES;

/// An event as it lies in an entry, behind the entry's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// When it happened, in ticks.
    pub when: u64,
    /// [`kind`](super::kind).
    pub kind: u32,
    /// The host that it is about, or that a vCPU has come to.
    pub host: u32,
    /// The vCPU or segment that it is about.
    pub subject: u32,
    /// A reason, a state, an advice, or a frequency.
    pub code: u32,
    /// The host where a vCPU was, or a set of hosts.
    pub others: u64,
    /// A time, an address, or an amount.
    pub value: u64,
    /// Zero.
    pub zero: [u64; 2],
}

const _: () = assert!(size_of::<Entry>() + WORD_BYTES == ENTRY_BYTES);

impl Entry {
    /// An event that happened at `when`.
    pub fn new(when: u64, event: Event) -> Self {
        let entry = Entry { when, ..Entry::default() };
        match event {
            Event::VcpuMoved { vcpu, from, to, blackout_ns, reason } => Entry {
                kind: kind::VCPU_MOVED,
                host: to,
                subject: vcpu,
                code: reason,
                others: from.into(),
                value: blackout_ns,
                ..entry
            },
            Event::HostJoined { host } => Entry { kind: kind::HOST_JOINED, host, ..entry },
            Event::HostDraining { host } => Entry { kind: kind::HOST_DRAINING, host, ..entry },
            Event::HostLost { host, pages } => Entry { kind: kind::HOST_LOST, host, value: pages, ..entry },
            Event::MemoryLow { host, state, free } => {
                Entry { kind: kind::MEMORY_LOW, host, code: state, value: free, ..entry }
            }
            Event::HotPage { address, hosts, moves_per_second } => Entry {
                kind: kind::HOT_PAGE,
                code: moves_per_second,
                others: hosts.into(),
                value: address,
                ..entry
            },
            Event::Advice { advice, vcpu, host, value } => {
                Entry { kind: kind::ADVICE, host, subject: vcpu, code: advice, value, ..entry }
            }
            Event::SegmentBroken { segment } => {
                Entry { kind: kind::SEGMENT_BROKEN, subject: segment, ..entry }
            }
        }
    }

    /// The event; `None` if it is of a kind that this version does not know.
    pub fn event(&self) -> Option<Event> {
        let Entry { host, subject, code, others, value, .. } = *self;
        // Of the numbers of hosts only the lower half can be in use.
        let other = others as u32;
        match self.kind {
            kind::VCPU_MOVED => Some(Event::VcpuMoved {
                vcpu: subject,
                from: other,
                to: host,
                blackout_ns: value,
                reason: code,
            }),
            kind::HOST_JOINED => Some(Event::HostJoined { host }),
            kind::HOST_DRAINING => Some(Event::HostDraining { host }),
            kind::HOST_LOST => Some(Event::HostLost { host, pages: value }),
            kind::MEMORY_LOW => Some(Event::MemoryLow { host, state: code, free: value }),
            kind::HOT_PAGE => Some(Event::HotPage { address: value, hosts: other, moves_per_second: code }),
            kind::ADVICE => Some(Event::Advice { advice: code, vcpu: subject, host, value }),
            kind::SEGMENT_BROKEN => Some(Event::SegmentBroken { segment: subject }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{advice, move_reason};
    use super::*;

    #[test]
    fn every_event_survives_its_entry() {
        let events = [
            Event::VcpuMoved { vcpu: 7, from: 1, to: 2, blackout_ns: 1 << 40, reason: move_reason::MEMORY },
            Event::HostJoined { host: 3 },
            Event::HostDraining { host: 4 },
            Event::HostLost { host: 5, pages: 1 << 33 },
            Event::MemoryLow { host: 6, state: 2, free: 1 << 35 },
            Event::HotPage { address: 0x7000, hosts: 0x8000_0001, moves_per_second: 9 },
            Event::Advice { advice: advice::RUN_ON, vcpu: 1, host: 2, value: 900 },
            Event::SegmentBroken { segment: 11 },
        ];
        for (number, event) in events.into_iter().enumerate() {
            let entry = Entry::new(99, event);
            assert_eq!(entry.kind, number as u32 + 1, "each kind has the next number");
            assert_eq!((entry.when, entry.event()), (99, Some(event)));
        }
        assert_eq!(Entry { kind: 9, ..Entry::default() }.event(), None);
        assert_eq!(Entry::default().event(), None);
    }
}
