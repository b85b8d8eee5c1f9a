//! Records in shared memory that one writes and many read, without locks: a sequence lock.
//!
//! A record is a sequence number of 8 bytes, and its fields. The number is odd while the fields are written, and greater
//! after each writing. Who reads takes the number, the fields, the number again: if both are the same even number, the fields
//! belong together.
//!
//! Memory that another thread, or another host's node, writes at the same time may be read in Rust with atomic operations
//! only. So everything here is made of [`AtomicU64`], word by word, relaxed; fences do the rest. How the words are obtained
//! from mapped memory is the caller's business (and its `unsafe`).

use core::marker::PhantomData;
use core::sync::atomic::{fence, AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of a word.
pub const WORD_BYTES: usize = 8;
/// How often [`Reader::read`] tries. A writing takes less than a microsecond, unless the writer was interrupted.
const TRIES: usize = 1024;

/// What can be the fields of a record: plain bytes, a whole number of words.
pub trait Fields: FromBytes + IntoBytes + Immutable {}

impl<T: FromBytes + IntoBytes + Immutable> Fields for T {}

/// Words of a record with such fields, the sequence number included.
pub const fn record_words<T>() -> usize {
    assert!(size_of::<T>().is_multiple_of(WORD_BYTES), "fields are whole words");
    1 + size_of::<T>() / WORD_BYTES
}

/// Stores fields, word by word. `words` must be as long as the fields; more are left alone.
pub fn store<T: Fields>(words: &[AtomicU64], fields: &T) {
    for (word, bytes) in words.iter().zip(fields.as_bytes().chunks_exact(WORD_BYTES)) {
        let mut value = [0; WORD_BYTES];
        value.copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
    }
}

/// Loads fields, word by word. They may be a mixture if somebody writes meanwhile. Missing words read as zero.
pub fn load<T: Fields>(words: &[AtomicU64]) -> T {
    let mut fields = T::new_zeroed();
    for (word, bytes) in words.iter().zip(fields.as_mut_bytes().chunks_exact_mut(WORD_BYTES)) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    fields
}

/// The one who writes a record. There must be no other at the same time.
#[derive(Debug)]
pub struct Writer<'a, T> {
    sequence: &'a AtomicU64,
    words: &'a [AtomicU64],
    fields: PhantomData<T>,
}

impl<'a, T: Fields> Writer<'a, T> {
    /// The writer of the record that begins at the first of `words`; `None` if there are too few of them. A writing that an
    /// earlier writer did not end is made good by the next one.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        let (sequence, words) = words.get(..record_words::<T>())?.split_first()?;
        Some(Writer { sequence, words, fields: PhantomData })
    }

    /// Writes the fields.
    pub fn write(&mut self, fields: &T) {
        let odd = self.sequence.load(Ordering::Relaxed).wrapping_add(1) | 1;
        self.sequence.store(odd, Ordering::Relaxed);
        // A reader that sees one of the new words, and then fences, sees the odd number, or a later one, after that.
        fence(Ordering::Release);
        store(self.words, fields);
        // A reader that sees this number sees all of the new words.
        self.sequence.store(odd.wrapping_add(1), Ordering::Release);
    }
}

/// One who reads a record.
#[derive(Debug)]
pub struct Reader<'a, T> {
    sequence: &'a AtomicU64,
    words: &'a [AtomicU64],
    fields: PhantomData<T>,
}

impl<T> Clone for Reader<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Reader<'_, T> {}

/// What was read, and when in the record's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot<T> {
    /// The sequence number: 0 if the record was never written; a greater number is a later writing.
    pub sequence: u64,
    /// The fields.
    pub fields: T,
}

impl<'a, T: Fields> Reader<'a, T> {
    /// A reader of the record that begins at the first of `words`; `None` if there are too few of them.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        let (sequence, words) = words.get(..record_words::<T>())?.split_first()?;
        Some(Reader { sequence, words, fields: PhantomData })
    }

    /// Tries once; `None` if the record is being written.
    pub fn try_read(&self) -> Option<Snapshot<T>> {
        // Sees all words of the writing that ended with this number.
        let sequence = self.sequence.load(Ordering::Acquire);
        if sequence & 1 == 1 {
            return None;
        }
        let fields = load(self.words);
        // If one of the words was of a later writing, the number read below is of that writing too.
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == sequence).then_some(Snapshot { sequence, fields })
    }

    /// Tries until it succeeds, but not for ever; `None` if the record is always being written: its writer may be lost.
    pub fn read(&self) -> Option<Snapshot<T>> {
        (0..TRIES).find_map(|_| {
            let read = self.try_read();
            if read.is_none() {
                core::hint::spin_loop();
            }
            read
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    type Fields = [u64; 7];

    fn words<const N: usize>() -> [AtomicU64; N] {
        [const { AtomicU64::new(0) }; N]
    }

    #[test]
    fn what_was_written_is_read_with_a_greater_number_each_time() {
        let words = words::<9>();
        let reader = Reader::<Fields>::new(&words).expect("long enough");
        assert_eq!(reader.read(), Some(Snapshot { sequence: 0, fields: [0; 7] }));
        let mut writer = Writer::<Fields>::new(&words).expect("long enough");
        writer.write(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(reader.read(), Some(Snapshot { sequence: 2, fields: [1, 2, 3, 4, 5, 6, 7] }));
        writer.write(&[9; 7]);
        assert_eq!(reader.read(), Some(Snapshot { sequence: 4, fields: [9; 7] }));
        assert_eq!(words[8].load(Ordering::Relaxed), 0, "what is behind the record is left alone");
    }

    #[test]
    fn a_record_needs_all_of_its_words() {
        assert!(Writer::<Fields>::new(&words::<7>()).is_none());
        assert!(Reader::<Fields>::new(&words::<7>()).is_none());
        assert!(Reader::<Fields>::new(&words::<8>()).is_some());
    }

    #[test]
    fn nothing_is_read_while_the_record_is_written_and_reading_ends_all_the_same() {
        let words = words::<8>();
        let mut writer = Writer::<Fields>::new(&words).expect("long enough");
        writer.write(&[1; 7]);
        // A writer that was lost in the middle of a writing.
        words[0].store(3, Ordering::Relaxed);
        words[4].store(2, Ordering::Relaxed);
        let reader = Reader::<Fields>::new(&words).expect("long enough");
        assert_eq!(reader.try_read(), None);
        assert_eq!(reader.read(), None);
        let mut next = Writer::<Fields>::new(&words).expect("long enough");
        next.write(&[5; 7]);
        assert_eq!(reader.read(), Some(Snapshot { sequence: 6, fields: [5; 7] }), "no number is used twice");
    }

    #[test]
    fn numbers_wrap_round() {
        let words = words::<8>();
        words[0].store(u64::MAX - 1, Ordering::Relaxed);
        let mut writer = Writer::<Fields>::new(&words).expect("long enough");
        writer.write(&[1; 7]);
        let reader = Reader::<Fields>::new(&words).expect("long enough");
        assert_eq!(reader.read(), Some(Snapshot { sequence: 0, fields: [1; 7] }));
    }

    #[test]
    fn readers_never_see_a_mixture_while_a_thread_writes() {
        const WRITINGS: u64 = 200_000;
        let words = words::<8>();
        let ended = AtomicBool::new(false);
        let (whole, last) = thread::scope(|scope| {
            let readers: std::vec::Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let reader = Reader::<Fields>::new(&words).expect("long enough");
                        let (mut whole, mut last) = (0u64, 0);
                        loop {
                            let over = ended.load(Ordering::Acquire);
                            if let Some(Snapshot { sequence, fields }) = reader.try_read() {
                                assert!(fields.iter().all(|field| *field == fields[0]), "{fields:?}");
                                assert_eq!(sequence, 2 * fields[0]);
                                assert!(fields[0] >= last, "{} after {last}", fields[0]);
                                (whole, last) = (whole + 1, fields[0]);
                            }
                            if over {
                                return (whole, last);
                            }
                            // Or this would never meet the writer on one core.
                            if whole.is_multiple_of(64) {
                                thread::yield_now();
                            }
                        }
                    })
                })
                .collect();
            let mut writer = Writer::<Fields>::new(&words).expect("long enough");
            for number in 1..=WRITINGS {
                writer.write(&[number; 7]);
            }
            ended.store(true, Ordering::Release);
            let read = readers.into_iter().map(|reader| reader.join().expect("no mixture"));
            read.fold((0, 0), |(whole, _), (more, last)| (whole + more, last))
        });
        assert_eq!(last, WRITINGS, "the last writing is seen");
        assert!(whole >= 3);
    }
}
