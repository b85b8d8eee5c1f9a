//! Latency samples: percentiles of cycles, and cycles as microseconds.

/// What a set of samples looks like, in the samples' unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many samples there are.
    pub count: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile (nearest rank).
    pub p99: u64,
    /// The greatest.
    pub max: u64,
    /// The mean, rounded down.
    pub mean: u64,
}

/// Sorts the samples in place and sums them up; no samples give zeros.
pub fn summarise(samples: &mut [u64]) -> Summary {
    samples.sort_unstable();
    let count = samples.len();
    let Some(&max) = samples.last() else { return Summary::default() };
    let rank = |percent: usize| samples[(count * percent).div_ceil(100).max(1) - 1];
    let sum: u128 = samples.iter().map(|&sample| u128::from(sample)).sum();
    Summary { count: count as u64, p50: rank(50), p99: rank(99), max, mean: (sum / count as u128) as u64 }
}

/// Cycles of a clock of `tsc_khz` as nanoseconds; 0 where the frequency is 0.
pub fn cycles_to_ns(cycles: u64, tsc_khz: u64) -> u64 {
    (u128::from(cycles) * 1_000_000).checked_div(u128::from(tsc_khz)).unwrap_or(0).min(u128::from(u64::MAX))
        as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut samples: std::vec::Vec<u64> = (1..=100).rev().collect();
        assert_eq!(summarise(&mut samples), Summary { count: 100, p50: 50, p99: 99, max: 100, mean: 50 });
        assert_eq!(summarise(&mut [7]), Summary { count: 1, p50: 7, p99: 7, max: 7, mean: 7 });
        assert_eq!(summarise(&mut []), Summary::default());
    }

    #[test]
    fn cycles_become_time() {
        assert_eq!(cycles_to_ns(2_600, 2_600_000), 1_000);
        assert_eq!(cycles_to_ns(5, 0), 0);
    }
}
