//! The bytes that a peer has not confirmed: a ring that grows.

use std::hash::{Hash, Hasher};

use super::UNCONFIRMED_BYTES_MAX;
use crate::ids::PAGE_BYTES;

/// Room at first: what is usually under way.
const FIRST_BYTES: usize = 64 << 10;

/// Bytes from one position to another. The byte at a position lies at that position modulo the ring's length.
#[derive(Clone)]
pub(super) struct ResendBuffer {
    /// A power of two long.
    ring: Vec<u8>,
    start: u64,
    end: u64,
    /// Where a body is put together that would lie at the ring's end and at its beginning.
    split: Vec<u8>,
}

impl ResendBuffer {
    /// An empty one at position 0.
    pub fn new() -> Self {
        ResendBuffer { ring: Vec::new(), start: 0, end: 0, split: Vec::new() }
    }

    /// The first byte's position.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position behind the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Makes an empty one begin elsewhere.
    #[cfg(test)]
    pub fn set_position(&mut self, position: u64) {
        (self.start, self.end) = (position, position);
    }

    /// Counts positions from `base` on, in a ring that is no longer than it must be.
    #[cfg(test)]
    pub fn count_from(&mut self, base: u64) {
        let kept = self.parts(self.start).concat();
        (self.start, self.end) = (self.start.wrapping_sub(base), self.end.wrapping_sub(base));
        self.ring = vec![0; kept.len().next_power_of_two()];
        self.put(self.start, &kept);
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Where the byte at `position` lies.
    fn index(&self, position: u64) -> usize {
        (position % self.ring.len().max(1) as u64) as usize
    }

    /// Makes the ring long enough for `more` bytes.
    fn grow_for(&mut self, more: usize) {
        let needed = self.len() + more;
        if needed <= self.ring.len() {
            return;
        }
        let [first, second] = self.parts(self.start);
        let kept = [first, second].concat();
        // (The session bounds what is kept, so this ends; a power of two keeps all positions where they belong.)
        self.ring = vec![0; needed.next_power_of_two().max(FIRST_BYTES)];
        debug_assert!(needed <= UNCONFIRMED_BYTES_MAX, "checked by the session");
        self.put(self.start, &kept);
    }

    /// Puts bytes at a position; there is room.
    fn put(&mut self, position: u64, bytes: &[u8]) {
        let at = self.index(position);
        let (first, second) = bytes.split_at(bytes.len().min(self.ring.len() - at));
        self.ring[at..at + first.len()].copy_from_slice(first);
        self.ring[..second.len()].copy_from_slice(second);
    }

    /// Adds bytes at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        self.grow_for(bytes.len());
        self.put(self.end, bytes);
        self.end += bytes.len() as u64;
    }

    /// Adds `bytes` bytes at the end that `write` fills in, in one piece. Nothing is added if it fails.
    pub fn push_with<E>(
        &mut self,
        bytes: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.grow_for(bytes);
        let at = self.index(self.end);
        if at + bytes <= self.ring.len() {
            write(&mut self.ring[at..at + bytes])?;
        } else {
            let mut split = std::mem::take(&mut self.split);
            split.resize(bytes.max(PAGE_BYTES), 0);
            let written = write(&mut split[..bytes]);
            self.put(self.end, &split[..bytes]);
            self.split = split;
            written?;
        }
        self.end += bytes as u64;
        Ok(())
    }

    /// Takes back what is behind `end`.
    pub fn truncate(&mut self, end: u64) {
        self.end = self.end.min(end.max(self.start));
    }

    /// Forgets what is before `start`.
    pub fn release(&mut self, start: u64) {
        self.start = self.start.max(start.min(self.end));
    }

    /// What lies from `position` to the end, in order.
    pub fn parts(&self, position: u64) -> [&[u8]; 2] {
        let position = position.clamp(self.start, self.end);
        let (at, bytes) = (self.index(position), (self.end - position) as usize);
        let first = bytes.min(self.ring.len() - at);
        [&self.ring[at..at + first], &self.ring[..bytes - first]]
    }
}

/// What it holds, and where; not how.
impl PartialEq for ResendBuffer {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |buffer: &Self| buffer.parts(buffer.start).concat();
        (self.start, self.end) == (other.start, other.end) && bytes(self) == bytes(other)
    }
}

impl Eq for ResendBuffer {}

impl Hash for ResendBuffer {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.start, self.end).hash(hasher);
        self.parts(self.start).concat().hash(hasher);
    }
}

impl std::fmt::Debug for ResendBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ResendBuffer({:#x}..{:#x})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What the buffer should hold.
    struct Expected {
        start: u64,
        bytes: VecDeque<u8>,
    }

    fn assert_holds(buffer: &ResendBuffer, expected: &Expected) {
        assert_eq!((buffer.start(), buffer.len()), (expected.start, expected.bytes.len()));
        assert!(buffer.parts(buffer.start()).concat().iter().eq(&expected.bytes));
    }

    #[test]
    fn it_holds_what_a_queue_would_wherever_it_wraps_and_grows() {
        let mut buffer = ResendBuffer::new();
        let mut expected = Expected { start: 0, bytes: VecDeque::new() };
        let mut random = crate::link::tests::Random::new();
        for step in 0..20_000usize {
            let bytes = [1, 32, 100, 4096, 5000][random.below(5)];
            let body: Vec<u8> = (0..bytes).map(|i| (step + i) as u8).collect();
            match random.below(8) {
                0 | 1 => {
                    buffer.push(&body);
                    expected.bytes.extend(&body);
                }
                2 => {
                    let wrote = buffer.push_with(bytes, |into| {
                        into.copy_from_slice(&body);
                        Ok::<(), ()>(())
                    });
                    assert_eq!(wrote, Ok(()));
                    expected.bytes.extend(&body);
                }
                3 => assert_eq!(buffer.push_with(bytes, |_| Err("no")), Err("no")),
                4 => {
                    let kept = expected.bytes.len() - expected.bytes.len().min(random.below(50));
                    buffer.truncate(buffer.start() + kept as u64);
                    expected.bytes.truncate(kept);
                }
                // Mostly as much goes as comes; now and then it piles up.
                _ if step % 3000 < 700 => {}
                _ => {
                    let gone = expected.bytes.len().min(random.below(6000));
                    buffer.release(buffer.start() + gone as u64);
                    expected.bytes.drain(..gone);
                    expected.start += gone as u64;
                }
            }
            if step % 50 == 0 {
                assert_holds(&buffer, &expected);
            }
        }
        assert_holds(&buffer, &expected);
        assert!(buffer.ring.len() > FIRST_BYTES && expected.start > 10 * buffer.ring.len() as u64);
        let middle = buffer.start() + buffer.len() as u64 / 2;
        let behind: Vec<u8> = expected.bytes.iter().skip(buffer.len() / 2).copied().collect();
        assert_eq!(buffer.parts(middle).concat(), behind);
    }
}
