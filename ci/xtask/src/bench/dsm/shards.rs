//! Faults a second, over how many vCPUs fault at the same time and how many pagers each node has.
//!
//! Each vCPU reads pages of the other node, three extents of its own; memory is shared out among the pagers extent by extent, so
//! that vCPUs that are as far are with different pagers.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use super::times::{hundredths, median};
use crate::bench::payload::{Bench, Run};
use crate::bench::table::Table;
use crate::guest::Follower;

/// vCPUs that fault.
const VCPUS: [u32; 3] = [1, 2, 4];
/// Pagers of each node.
const PAGERS: [u32; 3] = [1, 2, 4];
/// Pages that each vCPU reads: three extents.
const PAGES: u32 = 3 * 512;
/// The guests' memory, in MiB.
const MEMORY_MIB: u64 = 512;

/// What was measured of one combination.
#[derive(Clone, Copy, Serialize)]
struct Rate {
    vcpus: u32,
    pagers: u32,
    /// The median over the rounds.
    faults_per_s: f64,
    /// How many times as many as with one pager.
    of_one_pager: f64,
}

/// What was measured.
#[derive(Serialize)]
pub struct Shards(Vec<Rate>);

/// Nobody listens to these guests while they run.
struct Silent;
impl Follower for Silent {}

/// Measures all combinations `rounds` times, by turns; `tell` hears what comes next.
///
/// # Errors
/// When something does not build or come up, or a guest does not come to a good end.
pub fn measure(rounds: u32, tell: impl Fn(&str)) -> Result<Shards> {
    let bench = Bench::start(2)?;
    let combinations = || VCPUS.into_iter().flat_map(|vcpus| PAGERS.map(|pagers| (vcpus, pagers)));
    let mut seen: Vec<Vec<f64>> = combinations().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for ((vcpus, pagers), rates) in combinations().zip(&mut seen) {
            tell(&format!("round {round} of {rounds}: {vcpus} vCPUs, {pagers} pagers"));
            rates.push(rate(&bench, vcpus, pagers)?);
        }
    }
    let medians: Vec<f64> = seen.iter().map(|rates| median(rates.iter().copied())).collect();
    let of_one = |at: usize| hundredths(medians[at] / medians[at - at % PAGERS.len()].max(1.0));
    let rate =
        |(at, (vcpus, pagers))| Rate { vcpus, pagers, faults_per_s: medians[at], of_one_pager: of_one(at) };
    Ok(Shards(combinations().enumerate().map(rate).collect()))
}

fn rate(bench: &Bench, vcpus: u32, pagers: u32) -> Result<f64> {
    let run = Run {
        name: "bench-dsm".to_owned(),
        vcpus_per_node: vec![vcpus, 1],
        memory_mib: MEMORY_MIB,
        cmdline: format!("test=bench_rate readers={vcpus} rounds={PAGES}"),
    };
    let options = ["--links", "tcp", "--stripe-mib", "2", "--pagers", &pagers.to_string()];
    let outcome = bench.run_with(&options, &run, &mut Silent)?;
    let result = outcome.results.first().context("the payload has no result")?;
    result["faults_per_s"]
        .as_f64()
        .with_context(|| format!("the payload's result has no faults_per_s: {result}"))
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["faults a second", "1 pager", "2 pagers", "ratio", "4 pagers", "ratio"]);
        for rates in self.0.chunks(PAGERS.len()) {
            let mut cells =
                vec![format!("{} vCPUs", rates[0].vcpus), format!("{:.0}", rates[0].faults_per_s)];
            for rate in &rates[1..] {
                cells.extend([format!("{:.0}", rate.faults_per_s), format!("{:.2}", rate.of_one_pager)]);
            }
            table.row(cells);
        }
        table.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_one_number_of_vcpus() {
        let rate = |pagers| Rate {
            vcpus: 2,
            pagers,
            faults_per_s: 1000.0 * f64::from(pagers),
            of_one_pager: pagers.into(),
        };
        let text = Shards(vec![rate(1), rate(2), rate(4)]).to_string();
        let row = text.lines().nth(1).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["2", "vCPUs", "1000", "2000", "2.00", "4000", "4.00"]
        );
    }
}
