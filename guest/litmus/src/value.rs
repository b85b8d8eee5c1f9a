//! How a value of a test lies in memory, so that nothing need be reset between runs.
//!
//! A variable is a word of 8 bytes whose two halves hold the same number. A number tells the batch in which it was
//! stored and the value (1 to 15) that the test means by it; the test's 0 is whatever the variable held before. So a
//! page that comes from the past, from another variable's writer or torn in two is recognised as what it is.
//! The lowest bit stays clear: a variable may lie in a page-table entry that is not present.

/// How variables lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alignment {
    /// Aligned: an access to a whole variable is one access.
    Aligned,
    /// Across two pages, one half in each: an access to a whole variable is two, one to each half, in either order; a
    /// locked operation is still one.
    Straddling,
}

/// The largest value that a test may store.
pub const VALUE_MAX: u8 = 15;
/// Batches are numbered from 1 up to here.
pub const BATCH_MAX: u32 = (1 << 27) - 1;
/// What is added to the word of one value to get the word of the next.
pub const STEP: u64 = 0x2_0000_0002;

/// The word of value 0 in `batch`, which nobody ever stores: value v is [`STEP`] times v more.
pub const fn base(batch: u32) -> u64 {
    (batch as u64 & BATCH_MAX as u64) * 16 * STEP
}

/// The word that a store of `value` stores in `batch`.
pub const fn word(batch: u32, value: u8) -> u64 {
    base(batch) + STEP * (value & VALUE_MAX) as u64
}

/// What one half of a variable means in `batch`, if it held `last` before the batch: 0 for that, else the value
/// stored; `None` if it cannot have been there.
pub const fn meaning(half: u32, batch: u32, last: u32) -> Option<u8> {
    let value = (half >> 1 & VALUE_MAX as u32) as u8;
    if half == last {
        Some(0)
    } else if value != 0 && half == word(batch, value) as u32 {
        Some(value)
    } else {
        None
    }
}

/// The halves of a word: the one at the lower address first.
pub const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn a_value_means_itself_in_its_own_batch_only() {
        for batch in [1, 2, 77, BATCH_MAX] {
            for value in 1..=VALUE_MAX {
                let (low, high) = halves(word(batch, value));
                assert_eq!(low, high);
                assert_eq!(low & 1, 0);
                assert_eq!(meaning(low, batch, 0), Some(value));
                assert_eq!(meaning(low, batch - 1, 0), None);
                assert_eq!(meaning(low, batch, low), Some(0), "what was there before is the old value");
            }
            assert_eq!(meaning(base(batch) as u32, batch, 8), None, "nobody stores a value 0");
        }
        assert_eq!(meaning(0, 5, 0), Some(0), "memory that nobody has written");
        assert_eq!(meaning(word(5, 3) as u32 | 1, 5, 0), None);
    }

    #[test]
    fn values_are_whole_steps_apart() {
        assert_eq!(word(9, 3), base(9) + 3 * STEP);
        assert_eq!(halves(STEP), (2, 2));
    }
}
