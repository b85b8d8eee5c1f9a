//! Asking ahead: a vCPU that goes through another node's memory page after page gets the next ones before it asks.
//!
//! A run of faults of one kind (loads, or stores) whose frames ascend is a stream. What is asked for too much is not only
//! wasted: its owner, who may be writing it, has to fetch it back. So the window depends on how a stream goes on:
//!
//! - its second fault, and every one that comes only after a while (a program that takes one record, works, and takes the
//!   next), asks for the rest of the aligned block of [`BLOCK`] pages in which it lies;
//! - one that comes as soon as the last window was used up doubles the window.
//!
//! Windows never leave the extent (an extent that nobody has touched would be granted as a whole, to the wrong node
//! perhaps). A stream of loads asks for read copies; a stream of stores (a vCPU that has moved, and whose memory follows
//! it) for the pages themselves.

use crate::ids::Gfn;
use crate::protocol::Micros;

/// Streams that are followed at a time.
const STREAMS: usize = 16;
/// Pages of a block: what programs put together they put together in such sizes.
const BLOCK: u64 = 8;
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
pub(crate) struct Ahead {
    streams: [Stream; STREAMS],
}

impl Ahead {
    pub(crate) fn new() -> Self {
        Ahead { streams: [Stream { next: u64::MAX, window: 0, at: 0 }; STREAMS] }
    }

    /// A vCPU waits for `gfn` since `now`, and pages take about `usual_us` to come: which pages to ask for besides, those
    /// right behind it.
    pub(crate) fn fault(&mut self, gfn: Gfn, now: Micros, usual_us: Micros) -> impl Iterator<Item = Gfn> {
        let known = self.streams.iter_mut().find(|stream| stream.next == gfn.0);
        let goes_on = known.is_some();
        let stream = match known {
            Some(stream) => stream,
            None => self.longest_unused(),
        };
        let block_rest = BLOCK - 1 - gfn.0 % BLOCK;
        stream.window = match (goes_on, now.saturating_sub(stream.at) <= SOON * usual_us) {
            (false, _) => 0,
            (true, true) if stream.window > 0 => (stream.window * 2).clamp(BLOCK, WINDOW_MAX),
            (true, _) => block_rest,
        };
        stream.next = gfn.0 + 1 + stream.window;
        stream.at = now;
        let (extent, window) = (gfn.extent(), stream.window);
        (gfn.0 + 1..gfn.0 + 1 + window).map(Gfn).take_while(move |page| page.extent() == extent)
    }

    fn longest_unused(&mut self) -> &mut Stream {
        let mut oldest = 0;
        for (index, stream) in self.streams.iter().enumerate() {
            if stream.at < self.streams[oldest].at {
                oldest = index;
            }
        }
        &mut self.streams[oldest]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Micros = 100;

    fn ahead(reader: &mut Ahead, gfn: u64, at: Micros) -> Vec<u64> {
        reader.fault(Gfn(gfn), at, USUAL).map(|page| page.0).collect()
    }

    #[test]
    fn a_scan_is_followed_with_a_growing_window() {
        let mut reader = Ahead::new();
        assert_eq!(ahead(&mut reader, 1000, 1), [] as [u64; 0]);
        assert_eq!(ahead(&mut reader, 1001, 110), [1002, 1003, 1004, 1005, 1006, 1007]);
        assert_eq!(ahead(&mut reader, 1008, 220).len(), 12);
        assert_eq!(ahead(&mut reader, 1021, 330).len(), 2, "cut at the end of the extent, 1024");
        assert_eq!(ahead(&mut reader, 2000, 440), [] as [u64; 0]);
    }

    #[test]
    fn who_works_between_blocks_gets_one_block_at_a_time() {
        let mut reader = Ahead::new();
        ahead(&mut reader, 1000, 1);
        ahead(&mut reader, 1001, 110);
        for block in 1..3 {
            let first = 1000 + 8 * block;
            let expected: Vec<u64> = (first + 1..first + 8).collect();
            assert_eq!(ahead(&mut reader, first, 10_000 * block), expected);
        }
    }

    #[test]
    fn scattered_faults_ask_for_nothing() {
        let mut reader = Ahead::new();
        let asked: usize = (0..100).map(|i| ahead(&mut reader, 10_000 + 7 * i, i).len()).sum();
        assert_eq!(asked, 0);
    }

    #[test]
    fn several_streams_are_told_apart() {
        let mut reader = Ahead::new();
        for (at, base) in [1000, 3000, 5000].into_iter().enumerate() {
            ahead(&mut reader, base, 1 + at as u64);
        }
        for (at, base) in [1000, 3000, 5000].into_iter().enumerate() {
            assert_eq!(ahead(&mut reader, base + 1, 10 + at as u64).len(), 6);
        }
    }
}
