//! The ring: one writes events over the oldest, many follow.

use core::sync::atomic::{fence, AtomicU64, Ordering};

use super::{Entry, Event, Header, ENTRY_BYTES, EVENTS_MAGIC, HEADER_BYTES};
use crate::paravirt::Version;
use crate::seqlock;

const ENTRY_WORDS: usize = ENTRY_BYTES / seqlock::WORD_BYTES;
const HEADER_WORDS: usize = HEADER_BYTES / seqlock::WORD_BYTES;
const WRITTEN_WORD: usize = 2;
const MARKER_WORD: usize = 3;
const REASON_WORD: usize = 4;

/// The one who writes events.
#[derive(Debug)]
pub struct EventWriter<'a> {
    area: &'a [AtomicU64],
    capacity: u64,
}

impl<'a> EventWriter<'a> {
    /// Makes an area of zeros, or one that an earlier writer left, ready; `None` if there is not one entry's room.
    /// The capacity is the greatest power of two that fits.
    pub fn new(area: &'a [AtomicU64]) -> Option<Self> {
        let entries = area.len().checked_sub(HEADER_WORDS)? / ENTRY_WORDS;
        let capacity = 1u32.checked_shl(entries.min(1 << 20).checked_ilog2()?)?;
        let header = Header {
            magic: EVENTS_MAGIC,
            version: Version::CURRENT.to_bits(),
            capacity,
            ..seqlock::load::<Header>(area)
        };
        seqlock::store(&area[..HEADER_WORDS], &header);
        Some(EventWriter { area, capacity: capacity.into() })
    }

    /// Writes an event that happened at `when`.
    pub fn write(&mut self, when: u64, event: Event) {
        let number = self.area[WRITTEN_WORD].load(Ordering::Relaxed);
        if let Some((word, fields)) = entry(self.area, self.capacity, number).and_then(<[_]>::split_first) {
            // As in a sequence lock; but the word says which event it is.
            word.store(number.wrapping_mul(2).wrapping_add(1), Ordering::Relaxed);
            fence(Ordering::Release);
            seqlock::store(fields, &Entry::new(when, event));
            word.store(number.wrapping_mul(2).wrapping_add(2), Ordering::Release);
        }
        self.area[WRITTEN_WORD].store(number.wrapping_add(1), Ordering::Release);
    }

    /// The guest was disrupted for this [reason](super::disruption). To be called before the guest runs again.
    pub fn disrupt(&mut self, reason: u64) {
        self.area[REASON_WORD].store(reason, Ordering::Relaxed);
        let marker = self.area[MARKER_WORD].load(Ordering::Relaxed);
        self.area[MARKER_WORD].store(marker.wrapping_add(1), Ordering::Release);
    }
}

fn entry(area: &[AtomicU64], capacity: u64, number: u64) -> Option<&[AtomicU64]> {
    let begin = HEADER_WORDS + usize::try_from(number % capacity).ok()? * ENTRY_WORDS;
    area.get(begin..begin + ENTRY_WORDS)
}

/// One who reads events.
#[derive(Clone, Debug)]
pub struct EventReader<'a> {
    area: &'a [AtomicU64],
    capacity: u64,
    next: u64,
}

/// What a reader found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The next event.
    Event(Entry),
    /// So many events were overwritten before they were read. Read the statistics instead, and go on.
    Missed(u64),
}

/// Why an area cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoEvents {
    /// It is too short, or has another beginning.
    NotEvents,
    /// It is of a version that this crate cannot use.
    Version(Version),
}

impl<'a> EventReader<'a> {
    /// A reader that begins with the events that come from now on.
    ///
    /// # Errors
    /// If the area is none of events.
    pub fn new(area: &'a [AtomicU64]) -> Result<Self, NoEvents> {
        let header = area.get(..HEADER_WORDS).map(seqlock::load::<Header>);
        let header = header.filter(|header| header.magic == EVENTS_MAGIC).ok_or(NoEvents::NotEvents)?;
        let version = Version::from_bits(header.version);
        if !Version::CURRENT.can_use(version) {
            return Err(NoEvents::Version(version));
        }
        let capacity = u64::from(header.capacity);
        let entries = (area.len() - HEADER_WORDS) / ENTRY_WORDS;
        if !capacity.is_power_of_two() || capacity > entries as u64 {
            return Err(NoEvents::NotEvents);
        }
        Ok(EventReader { area, capacity, next: header.written })
    }

    /// The next event, or how many were missed; `None` if there is none yet.
    pub fn next_event(&mut self) -> Option<Found> {
        let written = self.area[WRITTEN_WORD].load(Ordering::Acquire);
        let behind = written.wrapping_sub(self.next);
        if behind == 0 {
            return None;
        }
        if behind > self.capacity {
            return Some(self.skip(behind - self.capacity));
        }
        match self.try_read() {
            Some(entry) => {
                self.next = self.next.wrapping_add(1);
                Some(Found::Event(entry))
            }
            // It is being overwritten at this moment.
            None => Some(self.skip(1)),
        }
    }

    fn skip(&mut self, events: u64) -> Found {
        self.next = self.next.wrapping_add(events);
        Found::Missed(events)
    }

    fn try_read(&self) -> Option<Entry> {
        let (word, fields) = entry(self.area, self.capacity, self.next)?.split_first()?;
        let expected = self.next.wrapping_mul(2).wrapping_add(2);
        if word.load(Ordering::Acquire) != expected {
            return None;
        }
        let read = seqlock::load(fields);
        fence(Ordering::Acquire);
        (word.load(Ordering::Relaxed) == expected).then_some(read)
    }

    /// The disruption marker, and the [reason](super::disruption) of its last change.
    pub fn disruption(&self) -> (u64, u64) {
        let marker = self.area[MARKER_WORD].load(Ordering::Acquire);
        (marker, self.area[REASON_WORD].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::AtomicBool;
    use std::thread;
    use std::vec::Vec;

    use super::super::{disruption, Event};
    use super::*;

    fn area(entries: usize) -> Vec<AtomicU64> {
        (0..HEADER_WORDS + entries * ENTRY_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn joined(host: u32) -> Event {
        Event::HostJoined { host }
    }

    #[test]
    fn readers_follow_each_at_its_own_pace_and_see_what_they_missed() {
        let area = area(5);
        let mut writer = EventWriter::new(&area).expect("room");
        let mut slow = EventReader::new(&area).expect("events");
        let mut quick = slow.clone();
        let hosts = |reader: &mut EventReader<'_>| {
            let mut found = Vec::new();
            while let Some(next) = reader.next_event() {
                found.push(match next {
                    Found::Event(entry) => Ok(entry.host),
                    Found::Missed(events) => Err(events),
                });
            }
            found
        };
        assert_eq!(quick.next_event(), None);
        (0..3).for_each(|host| writer.write(0, joined(host)));
        assert_eq!(hosts(&mut quick), [Ok(0), Ok(1), Ok(2)]);
        (3..6).for_each(|host| writer.write(0, joined(host)));
        assert_eq!(hosts(&mut quick), [Ok(3), Ok(4), Ok(5)]);
        assert_eq!(hosts(&mut slow), [Err(2), Ok(2), Ok(3), Ok(4), Ok(5)], "four entries of five are used");
        let mut late = EventReader::new(&area).expect("events");
        assert_eq!(late.next_event(), None, "a new reader begins now");
    }

    #[test]
    fn an_event_that_is_being_written_over_is_missed() {
        let area = area(4);
        let mut writer = EventWriter::new(&area).expect("room");
        let mut reader = EventReader::new(&area).expect("events");
        (0..4).for_each(|host| writer.write(0, joined(host)));
        // The writer is in the middle of event 4, in the entry of event 0.
        area[HEADER_WORDS].store(9, Ordering::Relaxed);
        assert_eq!(reader.next_event(), Some(Found::Missed(1)));
        assert!(matches!(reader.next_event(), Some(Found::Event(Entry { host: 1, .. }))));
    }

    #[test]
    fn a_new_writer_goes_on_where_the_last_one_was() {
        let area = area(4);
        EventWriter::new(&area).expect("room").write(1, joined(1));
        let mut reader = EventReader::new(&area).expect("events");
        EventWriter::new(&area).expect("room").write(2, joined(2));
        assert!(matches!(reader.next_event(), Some(Found::Event(Entry { host: 2, when: 2, .. }))));
    }

    #[test]
    fn the_marker_changes_with_each_disruption() {
        let area = area(1);
        let mut writer = EventWriter::new(&area).expect("room");
        let reader = EventReader::new(&area).expect("events");
        assert_eq!(reader.disruption(), (0, disruption::NONE));
        writer.disrupt(disruption::RESTORED);
        writer.disrupt(disruption::PAUSED);
        assert_eq!(reader.disruption(), (2, disruption::PAUSED));
    }

    #[test]
    fn areas_that_are_none_of_events_are_refused() {
        assert!(EventWriter::new(&area(0)).is_none());
        assert!(EventWriter::new(&[]).is_none());
        let refuse = |area: &[AtomicU64]| EventReader::new(area).map(drop).expect_err("refused");
        assert_eq!(refuse(&[]), NoEvents::NotEvents);
        assert_eq!(refuse(&area(4)), NoEvents::NotEvents, "zeros");
        let good = area(4);
        EventWriter::new(&good).expect("room");
        assert_eq!(refuse(&good[..HEADER_WORDS + 3 * ENTRY_WORDS]), NoEvents::NotEvents, "cut short");
        let mut header: Header = seqlock::load(&good);
        for capacity in [0, 3, 8] {
            seqlock::store(&good[..HEADER_WORDS], &Header { capacity, ..header });
            assert_eq!(refuse(&good), NoEvents::NotEvents, "capacity {capacity}");
        }
        header.version = 0x0002_0000;
        seqlock::store(&good[..HEADER_WORDS], &header);
        assert_eq!(refuse(&good), NoEvents::Version(Version { major: 2, minor: 0 }));
    }

    #[test]
    fn readers_see_every_event_whole_or_know_that_they_missed_it_while_a_thread_writes() {
        const EVENTS: u32 = 100_000;
        let area = area(16);
        let mut writer = EventWriter::new(&area).expect("room");
        let ended = AtomicBool::new(false);
        let reader = EventReader::new(&area).expect("events");
        let (seen, missed) = thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut reader = reader;
                let (mut seen, mut missed) = (0u64, 0u64);
                loop {
                    let over = ended.load(Ordering::Acquire);
                    while let Some(found) = reader.next_event() {
                        match found {
                            Found::Missed(events) => missed += events,
                            Found::Event(Entry { when, host, subject, value, .. }) => {
                                assert_eq!(when, seen + missed);
                                let all = [u64::from(host), u64::from(subject), value];
                                assert_eq!(all, [when; 3], "an event in pieces");
                                seen += 1;
                            }
                        }
                    }
                    if over {
                        return (seen, missed);
                    }
                    thread::yield_now();
                }
            });
            for number in 0..EVENTS {
                let value = number.into();
                let event = Event::Advice { advice: 1, vcpu: number, host: number, value };
                writer.write(value, event);
                if number % 8 == 0 {
                    thread::yield_now();
                }
            }
            ended.store(true, Ordering::Release);
            reading.join().expect("no piece")
        });
        assert_eq!(seen + missed, u64::from(EVENTS));
        assert!(seen >= 16, "the last ones are still there");
    }
}
