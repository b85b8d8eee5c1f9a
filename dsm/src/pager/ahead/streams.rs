//! Streams of faults: runs whose frames ascend.

use super::BLOCK;
use crate::ids::Gfn;
use crate::protocol::Micros;

/// Streams that are followed at a time.
const STREAMS: usize = 16;
/// Most pages asked for at once.
const WINDOW_MAX: u64 = 32;
/// A stream goes on at once if not more than so many times the usual way of a page has passed since its last fault.
const SOON: Micros = 4;

#[derive(Clone, Copy)]
struct Stream {
    /// The page whose fault would continue it.
    next: u64,
    window: u64,
    /// When its last fault was.
    at: Micros,
}

/// The streams of one kind of one node.
pub(super) struct Streams([Stream; STREAMS]);

impl Streams {
    pub(super) fn new() -> Self {
        Streams([Stream { next: u64::MAX, window: 0, at: 0 }; STREAMS])
    }

    /// A vCPU waits for `gfn`, and pages up to `least_end` are asked for anyway: up to which page to ask. `clock`: what time it
    /// is, and how long a page usually takes to come.
    ///
    /// The second fault of a stream, and every one that comes only after a while (a program that takes one record, works, and
    /// takes the next), asks for the rest of its block; one that comes as soon as the last window was used up
    /// doubles the window. Windows end at multiples of their size, as most things that are gone through end at such.
    pub(super) fn fault(&mut self, gfn: Gfn, least_end: u64, clock: (Micros, Micros)) -> u64 {
        let (now, usual_us) = clock;
        let known = self.0.iter_mut().find(|stream| stream.next == gfn.0);
        let goes_on = known.is_some();
        let stream = match known {
            Some(stream) => stream,
            None => self.longest_unused(),
        };
        let soon = now.saturating_sub(stream.at) <= SOON * usual_us;
        let window = match goes_on {
            true if soon && stream.window > 0 => (stream.window * 2).min(WINDOW_MAX),
            true => BLOCK,
            false if least_end > gfn.0 + 1 => BLOCK,
            false => 0,
        };
        let end = gfn.0.checked_div(window).map_or(gfn.0 + 1, |number| (number + 1) * window);
        *stream = Stream { next: end.max(least_end), window, at: now };
        stream.next
    }

    fn longest_unused(&mut self) -> &mut Stream {
        let mut oldest = 0;
        for (index, stream) in self.0.iter().enumerate() {
            if stream.at < self.0[oldest].at {
                oldest = index;
            }
        }
        &mut self.0[oldest]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Micros = 100;

    /// How many pages are asked for.
    fn ahead(streams: &mut Streams, gfn: u64, at: Micros) -> u64 {
        streams.fault(Gfn(gfn), gfn + 1, (at, USUAL)) - gfn - 1
    }

    #[test]
    fn a_scan_is_followed_with_a_growing_window() {
        let mut streams = Streams::new();
        let asked: Vec<u64> = [(1024, 1), (1025, 110), (1032, 220), (1040, 330), (1056, 440), (2000, 550)]
            .map(|(gfn, at)| ahead(&mut streams, gfn, at))
            .into();
        assert_eq!(asked, [0, 6, 7, 15, 31, 0]);
    }

    #[test]
    fn who_works_between_blocks_gets_one_block_at_a_time() {
        let mut streams = Streams::new();
        ahead(&mut streams, 1000, 1);
        ahead(&mut streams, 1001, 110);
        for block in 1..3 {
            assert_eq!(ahead(&mut streams, 1000 + 8 * block, 10_000 * block), 7);
        }
    }

    #[test]
    fn what_is_asked_for_anyway_is_part_of_the_stream() {
        let mut streams = Streams::new();
        assert_eq!(streams.fault(Gfn(1016), 1024, (1, USUAL)), 1024);
        assert_eq!(ahead(&mut streams, 1024, 110), 15);
    }

    #[test]
    fn scattered_faults_ask_for_nothing() {
        let mut streams = Streams::new();
        assert_eq!((0..100).map(|i| ahead(&mut streams, 10_000 + 7 * i, i)).sum::<u64>(), 0);
    }

    #[test]
    fn several_streams_are_told_apart() {
        let mut streams = Streams::new();
        for (at, base) in [1000, 3000, 5000].into_iter().enumerate() {
            ahead(&mut streams, base, 1 + at as u64);
        }
        for (at, base) in [1000, 3000, 5000].into_iter().enumerate() {
            assert_eq!(ahead(&mut streams, base + 1, 10 + at as u64), 6);
        }
    }
}
