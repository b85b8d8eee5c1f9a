//! Percentiles.

use serde::Serialize;

/// Where the values of a set lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: u64,
    /// 99 of 100 are not above this.
    pub p99: u64,
    /// The greatest.
    pub max: u64,
}

impl Percentiles {
    /// Of these values; all zero when there are none.
    pub fn of(values: &[u64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        // The smallest value that at least `percent` of all are not above.
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_set() {
        assert_eq!(Percentiles::of(&[]), Percentiles::default());
        assert_eq!(Percentiles::of(&[7]), Percentiles { p50: 7, p99: 7, max: 7 });
        let values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(Percentiles::of(&values), Percentiles { p50: 50, p99: 99, max: 100 });
        assert_eq!(Percentiles::of(&[1, 2, 3, 100]), Percentiles { p50: 2, p99: 100, max: 100 });
    }
}
