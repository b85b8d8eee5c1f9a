//! Asking ahead: a vCPU that goes through another node's memory page after page gets the next ones before it asks.
//!
//! A run of faults of one kind (loads, or stores) whose frames ascend is a stream. From its second fault on, the pages behind it are asked for as
//! well, a window that doubles as long as the stream goes on where the window ended, and that never leaves the extent
//! (an extent that nobody has touched would be granted as a whole, to the wrong node perhaps). A stream of loads
//! asks for read copies; a stream of stores (a vCPU that has moved, and whose memory follows it) for the pages themselves.

use crate::ids::Gfn;

/// Streams that are followed at a time.
const STREAMS: usize = 8;
/// Pages asked for at the second fault of a stream.
const WINDOW_FIRST: u64 = 4;
/// Most pages asked for at once.
const WINDOW_MAX: u64 = 32;

#[derive(Clone, Copy)]
struct Stream {
    /// The page whose fault would continue it.
    next: u64,
    window: u64,
}

/// The streams of one kind of one node.
pub(crate) struct Ahead {
    streams: [Stream; STREAMS],
    /// The one that is replaced next.
    oldest: usize,
}

impl Ahead {
    pub(crate) fn new() -> Self {
        Ahead { streams: [Stream { next: u64::MAX, window: 0 }; STREAMS], oldest: 0 }
    }

    /// A vCPU waits for `gfn`: which pages to ask for besides, those right behind it.
    pub(crate) fn fault(&mut self, gfn: Gfn) -> impl Iterator<Item = Gfn> {
        let window = match self.streams.iter_mut().find(|stream| stream.next == gfn.0) {
            Some(stream) => {
                stream.window = (stream.window * 2).clamp(WINDOW_FIRST, WINDOW_MAX);
                stream.next = gfn.0 + 1 + stream.window;
                stream.window
            }
            None => {
                self.streams[self.oldest] = Stream { next: gfn.0 + 1, window: 0 };
                self.oldest = (self.oldest + 1) % STREAMS;
                0
            }
        };
        let extent = gfn.extent();
        (gfn.0 + 1..gfn.0 + 1 + window).map(Gfn).take_while(move |page| page.extent() == extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(reader: &mut Ahead, gfn: u64) -> Vec<u64> {
        reader.fault(Gfn(gfn)).map(|page| page.0).collect()
    }

    #[test]
    fn a_stream_is_followed_with_a_growing_window() {
        let mut reader = Ahead::new();
        assert_eq!(ahead(&mut reader, 1000), [] as [u64; 0]);
        assert_eq!(ahead(&mut reader, 1001), [1002, 1003, 1004, 1005]);
        assert_eq!(ahead(&mut reader, 1006).len(), 8);
        assert_eq!(ahead(&mut reader, 1015).len(), 8, "cut at the end of the extent, 1024");
        assert_eq!(ahead(&mut reader, 2000), [] as [u64; 0]);
    }

    #[test]
    fn scattered_faults_ask_for_nothing() {
        let mut reader = Ahead::new();
        let asked: usize = (0..100).map(|i| ahead(&mut reader, 10_000 + 7 * i).len()).sum();
        assert_eq!(asked, 0);
    }

    #[test]
    fn several_streams_are_told_apart() {
        let mut reader = Ahead::new();
        for base in [1000, 3000, 5000] {
            ahead(&mut reader, base);
        }
        for base in [1000, 3000, 5000] {
            assert_eq!(ahead(&mut reader, base + 1).len(), 4);
        }
    }
}
