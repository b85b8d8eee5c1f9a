//! What was seen in one run of a test: a row of small numbers.

/// How a line begins in which the payload tells what it saw; see `report`.
pub const HISTOGRAM: &str = "TESSERA-HISTOGRAM";
/// Most digits of an outcome.
pub const DIGITS_MAX: usize = 16;

/// The values that the loads gave, thread by thread, and then the last values of observed variables, as digits of
/// four bits, the first one uppermost. How many there are is the test's to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome(pub u64);

impl Outcome {
    /// This outcome with one more digit, of which only the low four bits count.
    pub const fn push(self, digit: u8) -> Self {
        Outcome(self.0 << 4 | (digit & 15) as u64)
    }

    /// The digit at `place` of `digits`; 0 where there is no such place.
    pub const fn digit(self, place: usize, digits: usize) -> u8 {
        match digits.checked_sub(place + 1) {
            Some(from_end @ 0..DIGITS_MAX) => (self.0 >> (4 * from_end) & 15) as u8,
            _ => 0,
        }
    }

    /// As text: a hexadecimal digit each.
    pub const fn text(self, digits: usize) -> OutcomeText {
        OutcomeText { outcome: self, digits }
    }
}

/// See [`Outcome::text`].
#[derive(Clone, Copy, Debug)]
pub struct OutcomeText {
    outcome: Outcome,
    digits: usize,
}

impl core::fmt::Display for OutcomeText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (0..self.digits).try_for_each(|place| write!(f, "{:x}", self.outcome.digit(place, self.digits)))
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn digits_come_out_as_they_went_in() {
        let outcome = [1, 0, 15, 2].iter().fold(Outcome::default(), |outcome, &digit| outcome.push(digit));
        assert_eq!((0..5).map(|place| outcome.digit(place, 4)).collect::<Vec<_>>(), [1, 0, 15, 2, 0]);
        assert_eq!(outcome.text(4).to_string(), "10f2");
    }
}
