//! Distributions of short times.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::tessera::Spread;

/// Where the times of a set lie, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many there are.
    pub count: u64,
    /// The median.
    pub p50_us: f64,
    /// 99 of 100 are not above this.
    pub p99_us: f64,
    /// The mean.
    pub mean_us: f64,
}

impl Times {
    /// Of these, in nanoseconds; all zero when there are none.
    pub fn of_ns(nanoseconds: &[u64]) -> Self {
        let mut sorted = nanoseconds.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| us(sorted.get(rank(percent)).copied().unwrap_or(0));
        let mean = sorted.iter().sum::<u64>() / (sorted.len() as u64).max(1);
        Self { count: sorted.len() as u64, p50_us: at(50), p99_us: at(99), mean_us: us(mean) }
    }

    /// As a payload prints them: `{"count":..,"p50_ns":..,"p99_ns":..,"max_ns":..,"mean_ns":..}`.
    ///
    /// # Errors
    /// When a member is missing.
    pub fn of_payload(value: &Value) -> Result<Self> {
        let member = |name: &str| {
            value[name].as_u64().with_context(|| format!("the payload's result has no {name}: {value}"))
        };
        Ok(Self {
            count: member("count")?,
            p50_us: us(member("p50_ns")?),
            p99_us: us(member("p99_ns")?),
            mean_us: us(member("mean_ns")?),
        })
    }

    /// As a node's figures have them.
    pub fn of_node(spread: &Spread) -> Self {
        Self {
            count: spread.count,
            p50_us: spread.p50_us as f64,
            p99_us: spread.p99_us as f64,
            mean_us: hundredths(spread.mean_us),
        }
    }

    /// Of several rounds, each figure's median; the count is the sum.
    pub fn median(rounds: &[Times]) -> Self {
        let of = |pick: fn(&Times) -> f64| median(rounds.iter().map(pick));
        Self {
            count: rounds.iter().map(|times| times.count).sum(),
            p50_us: of(|times| times.p50_us),
            p99_us: of(|times| times.p99_us),
            mean_us: of(|times| times.mean_us),
        }
    }
}

/// The median; of an even number the lower one of the two in the middle. 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// With two decimals.
pub fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn us(nanoseconds: u64) -> f64 {
    hundredths(nanoseconds as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentiles_are_values_of_the_set() {
        let nanoseconds: Vec<u64> = (1..=100).map(|us| us * 1000).rev().collect();
        let times = Times::of_ns(&nanoseconds);
        assert_eq!(times, Times { count: 100, p50_us: 50.0, p99_us: 99.0, mean_us: 50.5 });
        assert_eq!(Times::of_ns(&[]), Times::default());
    }

    #[test]
    fn a_payloads_times_are_read_and_a_missing_member_is_named() {
        let mut value = json!({"count": 3, "p50_ns": 1234, "p99_ns": 5000, "max_ns": 9000, "mean_ns": 2000});
        let times = Times::of_payload(&value).unwrap();
        assert_eq!(times, Times { count: 3, p50_us: 1.23, p99_us: 5.0, mean_us: 2.0 });
        value["p99_ns"] = json!(null);
        assert!(Times::of_payload(&value).unwrap_err().to_string().contains("p99_ns"));
    }

    #[test]
    fn a_disturbed_round_does_not_move_the_median() {
        let round = |p50_us| Times { count: 1, p50_us, p99_us: p50_us, mean_us: p50_us };
        let times = Times::median(&[round(40.0), round(900.0), round(41.0)]);
        assert_eq!(times, Times { count: 3, p50_us: 41.0, p99_us: 41.0, mean_us: 41.0 });
        assert_eq!(median([2.0, 1.0].into_iter()), 1.0);
        assert_eq!(median([].into_iter()), 0.0);
    }
}
