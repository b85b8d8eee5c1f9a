//! Differences of a page to its twin, as bytes.
//!
//! A difference is a list of runs: how many bytes are equal since the last run, how many changed, and the changed bytes. The
//! two numbers are little-endian base-128 (7 bits in a byte, the highest bit says that another byte follows), in the
//! fewest bytes. Words of eight bytes that are equal are skipped at once, but runs are exact to the byte: C and Rust
//! programs may share a word between two locks, and a difference must not contain a byte that its node did not change.
//!
//! [`Difference::parse`] checks all of what a peer sent before a byte of it is used: a page gets all changes or none.

use thiserror::Error;

use crate::ids::PAGE_BYTES;

/// Longest difference of a page of [`PAGE_BYTES`]. The worst page changes in every other byte: a run then costs three bytes
/// for two of the page. The rest is for runs and gaps of 128 bytes and more, whose numbers take two bytes.
pub const DIFFERENCE_BYTES_MAX: usize = PAGE_BYTES + PAGE_BYTES / 2 + 64;

const WORD: usize = size_of::<u64>();
const MORE: u8 = 0x80;

/// Why bytes are no difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DifferenceError {
    /// There are more bytes than any difference has.
    #[error("a difference of {0} bytes is longer than any can be")]
    TooLong(usize),
    /// The bytes end in the middle of a run.
    #[error("the difference ends in the middle of the run at byte {0}")]
    Truncated(usize),
    /// A number is not in its shortest form, or too large for a page.
    #[error("the number at byte {0} of the difference is not one that is written so")]
    Number(usize),
    /// A run is empty, or follows the one before it without a gap.
    #[error("the run at byte {0} of the difference is empty or belongs to the one before it")]
    Run(usize),
    /// A run goes beyond the page.
    #[error("the run at byte {0} of the difference goes beyond the page")]
    BeyondPage(usize),
}

/// Appends the difference of `new` to `old`; nothing, if they are equal.
pub fn encode<const N: usize>(old: &[u8; N], new: &[u8; N], out: &mut Vec<u8>) {
    const { assert!(N <= PAGE_BYTES, "a page is not larger") };
    let mut end = 0;
    while let Some(start) = first_change(old, new, end) {
        let stop = (start..N).find(|&at| old[at] == new[at]).unwrap_or(N);
        put_number(start - end, out);
        put_number(stop - start, out);
        out.extend_from_slice(&new[start..stop]);
        end = stop;
    }
}

/// The first byte from `from` on that differs.
fn first_change<const N: usize>(old: &[u8; N], new: &[u8; N], from: usize) -> Option<usize> {
    let mut at = from;
    while at < N {
        if at.is_multiple_of(WORD) && at + WORD <= N && old[at..at + WORD] == new[at..at + WORD] {
            at += WORD;
        } else if old[at] == new[at] {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

fn put_number(number: usize, out: &mut Vec<u8>) {
    let low = (number & 0x7f) as u8;
    match number >> 7 {
        0 => out.push(low),
        high => {
            out.push(low | MORE);
            put_number(high, out);
        }
    }
}

/// A checked difference for pages of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference<'a> {
    bytes: &'a [u8],
}

impl<'a> Difference<'a> {
    /// Checks `bytes` against a page of `page_bytes` bytes. Exactly what [`encode`] makes of some two pages is accepted.
    ///
    /// # Errors
    /// If they are no difference; nothing is known about the rest then.
    pub fn parse(bytes: &'a [u8], page_bytes: usize) -> Result<Self, DifferenceError> {
        if bytes.len() > DIFFERENCE_BYTES_MAX {
            return Err(DifferenceError::TooLong(bytes.len()));
        }
        let (mut at, mut page_at) = (0, 0);
        while at < bytes.len() {
            let (gap, next) = number(bytes, at)?;
            let (length, start) = number(bytes, next)?;
            if length == 0 || (gap == 0 && at > 0) {
                return Err(DifferenceError::Run(at));
            }
            page_at += gap + length;
            if page_at > page_bytes {
                return Err(DifferenceError::BeyondPage(at));
            }
            if start + length > bytes.len() {
                return Err(DifferenceError::Truncated(at));
            }
            at = start + length;
        }
        Ok(Difference { bytes })
    }

    /// The changed runs, in order: where in the page, and the bytes.
    pub fn runs(self) -> impl Iterator<Item = (usize, &'a [u8])> {
        let (mut at, mut page_at) = (0, 0);
        std::iter::from_fn(move || {
            // Checked by `parse`: the numbers are there, and the runs lie in the page.
            let (gap, next) = number(self.bytes, at).ok()?;
            let (length, start) = number(self.bytes, next).ok()?;
            let run = self.bytes.get(start..start + length)?;
            let place = page_at + gap;
            (at, page_at) = (start + length, place + length);
            Some((place, run))
        })
    }

    /// Makes the changes in a page of the size that was given to [`Difference::parse`].
    ///
    /// # Panics
    /// If `page` is shorter than that.
    pub fn apply(self, page: &mut [u8]) {
        for (place, run) in self.runs() {
            page[place..place + run.len()].copy_from_slice(run);
        }
    }

    /// How many bytes of the page change.
    pub fn changed_bytes(self) -> usize {
        self.runs().map(|(_, run)| run.len()).sum()
    }
}

/// The number that begins at `at`, and where it ends.
fn number(bytes: &[u8], at: usize) -> Result<(usize, usize), DifferenceError> {
    let low = *bytes.get(at).ok_or(DifferenceError::Truncated(at))?;
    if low & MORE == 0 {
        return Ok((usize::from(low), at + 1));
    }
    // A page has at most 2^14 bytes: two bytes always do.
    const { assert!(PAGE_BYTES <= 1 << 14) };
    match bytes.get(at + 1) {
        None => Err(DifferenceError::Truncated(at)),
        Some(&high) if high == 0 || high & MORE != 0 => Err(DifferenceError::Number(at)),
        Some(&high) => Ok((usize::from(low & !MORE) | usize::from(high) << 7, at + 2)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Page = [u8; PAGE_BYTES];

    fn difference(old: &Page, new: &Page) -> Vec<u8> {
        let mut bytes = vec![];
        encode(old, new, &mut bytes);
        bytes
    }

    /// A page with some stretches of it changed.
    fn changed(old: &Page, stretches: &[(usize, usize, u8)]) -> Page {
        let mut new = *old;
        for &(start, length, by) in stretches {
            for byte in new.iter_mut().skip(start % PAGE_BYTES).take(length) {
                *byte = byte.wrapping_add(by);
            }
        }
        new
    }

    fn page() -> impl Strategy<Value = Page> {
        vec(any::<u8>(), PAGE_BYTES).prop_map(|bytes| bytes.try_into().expect("a page"))
    }

    fn stretches() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
        vec((0..PAGE_BYTES, prop_oneof![1..9usize, 1..400usize], any::<u8>()), 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn the_difference_turns_the_old_page_into_the_new(old in page(), stretches in stretches()) {
            let new = changed(&old, &stretches);
            let bytes = difference(&old, &new);
            prop_assert!(bytes.len() <= DIFFERENCE_BYTES_MAX);
            prop_assert_eq!(bytes.is_empty(), old == new);
            let parsed = Difference::parse(&bytes, PAGE_BYTES).expect("what was encoded");
            let mut page = old;
            parsed.apply(&mut page);
            prop_assert!(page == new);
            let differ = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            prop_assert_eq!(parsed.changed_bytes(), differ, "only what differs is sent");
        }

        #[test]
        fn differences_of_disjoint_bytes_merge_in_any_order(
            old in page(),
            mine in stretches(),
            theirs in stretches(),
            mask in vec(any::<bool>(), PAGE_BYTES),
        ) {
            // Each of two nodes changes only its own bytes of one page.
            let (mut a, mut b) = (changed(&old, &mine), changed(&old, &theirs));
            for (at, is_mine) in mask.into_iter().enumerate() {
                if is_mine { b[at] = old[at] } else { a[at] = old[at] }
            }
            let (from_a, from_b) = (difference(&old, &a), difference(&old, &b));
            let parse = |bytes| Difference::parse(bytes, PAGE_BYTES).expect("what was encoded");
            let (mut ab, mut ba) = (old, old);
            parse(&from_a).apply(&mut ab);
            parse(&from_b).apply(&mut ab);
            parse(&from_b).apply(&mut ba);
            parse(&from_a).apply(&mut ba);
            prop_assert!(ab == ba);
            let both = |at: usize| if a[at] != old[at] { a[at] } else { b[at] };
            prop_assert!((0..PAGE_BYTES).all(|at| ab[at] == both(at)));
        }

        #[test]
        fn garbage_is_refused_or_is_a_difference(bytes in vec(any::<u8>(), 0..200), size in 1..300usize) {
            if let Ok(parsed) = Difference::parse(&bytes, size) {
                let mut page = vec![0u8; size];
                parsed.apply(&mut page);
                prop_assert!(parsed.changed_bytes() <= size);
            }
        }

        #[test]
        fn one_changed_byte_is_noticed_or_stays_in_the_page(
            old in page(),
            stretches in stretches(),
            at: usize,
            to: u8,
        ) {
            let mut bytes = difference(&old, &changed(&old, &stretches));
            prop_assume!(!bytes.is_empty());
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(parsed) = Difference::parse(&bytes, PAGE_BYTES) {
                let mut page = old;
                parsed.apply(&mut page);
            }
        }
    }

    #[test]
    fn the_longest_difference_fits_its_bound() {
        let old = [0u8; PAGE_BYTES];
        let every = |step: usize| -> Page { std::array::from_fn(|at| u8::from(at % step == 0)) };
        let gaps: Page = std::array::from_fn(|at| u8::from(at % 129 != 0));
        let lengths =
            [every(1), every(2), every(3), every(129), gaps].map(|new| difference(&old, &new).len());
        println!("lengths of the worst differences: {lengths:?}");
        assert_eq!(lengths[0], PAGE_BYTES + 3, "a page that changed as a whole");
        assert_eq!(lengths[1], PAGE_BYTES + PAGE_BYTES / 2, "every other byte");
        assert!(lengths.iter().all(|&length| length <= DIFFERENCE_BYTES_MAX));
    }

    #[test]
    fn each_malformed_difference_is_refused_with_its_reason() {
        let parse = |bytes: &[u8]| Difference::parse(bytes, 256).map(Difference::changed_bytes);
        assert_eq!(parse(&[]), Ok(0));
        assert_eq!(parse(&[0, 1, 7]), Ok(1));
        assert_eq!(parse(&[0xff, 1, 1, 7]), Ok(1), "the last byte");
        assert_eq!(parse(&[0x80, 2, 1, 7]), Err(DifferenceError::BeyondPage(0)));
        assert_eq!(parse(&[0, 0]), Err(DifferenceError::Run(0)));
        assert_eq!(parse(&[0, 1, 7, 0, 1, 7]), Err(DifferenceError::Run(3)));
        assert_eq!(parse(&[0, 2, 7]), Err(DifferenceError::Truncated(0)));
        assert_eq!(parse(&[0]), Err(DifferenceError::Truncated(1)));
        assert_eq!(parse(&[0x80]), Err(DifferenceError::Truncated(0)));
        assert_eq!(parse(&[0x81, 0, 1, 7]), Err(DifferenceError::Number(0)), "not the shortest form");
        assert_eq!(parse(&[0x81, 0x81, 1, 7]), Err(DifferenceError::Number(0)));
        let long = vec![0; DIFFERENCE_BYTES_MAX + 1];
        assert_eq!(parse(&long), Err(DifferenceError::TooLong(DIFFERENCE_BYTES_MAX + 1)));
    }

    #[test]
    fn parsing_accepts_only_what_encoding_makes() {
        // All differences of up to 5 bytes over few values, for a page of 4.
        let values = [0u8, 1, 2, 3, 4, 0x80, 0xff];
        let mut accepted = 0;
        let mut bytes = [0u8; 5];
        for case in 0..values.len().pow(5) {
            let mut rest = case;
            for byte in &mut bytes {
                *byte = values[rest % values.len()];
                rest /= values.len();
            }
            for length in 0..=bytes.len() {
                let Ok(parsed) = Difference::parse(&bytes[..length], 4) else { continue };
                accepted += 1;
                // The page before: different from the difference wherever it changes something.
                let mut new = [0u8; 4];
                parsed.apply(&mut new);
                let mut old = new;
                for (place, run) in parsed.runs() {
                    old[place..place + run.len()].iter_mut().for_each(|byte| *byte = !*byte);
                }
                let mut again = vec![];
                encode(&old, &new, &mut again);
                assert_eq!(again, bytes[..length]);
            }
        }
        assert!(accepted > 100);
    }
}
