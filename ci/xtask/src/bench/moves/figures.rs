//! What the rounds come to: a table for people, and the same as JSON.

use std::fmt;

use serde::Serialize;

use crate::bench::table::Table;
use crate::demo::spread::Percentiles;

/// The median blackout that Tessera wants to stay below, in microseconds.
const TARGET_P50_US: u64 = 1000;
/// The most by which the medians of the largest and the smallest memory may differ.
const TARGET_GROWTH: f64 = 0.05;
/// The most messages that a move may take.
const TARGET_MESSAGES: f64 = 4.0;

/// One guest's moves.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Its memory.
    pub memory_mib: u64,
    /// How long each move's vCPU stood still.
    pub blackout_us: Vec<u64>,
    /// The size of each move's context.
    pub bytes: Vec<u64>,
    /// Moves that failed.
    pub errors: u64,
    /// vCPUs that left a node, as the nodes counted them.
    pub left: u64,
    /// Messages about moves, as the nodes counted them.
    pub messages: u64,
    /// Guest memory really in use on all nodes.
    pub resident_mib: u64,
}

/// All of a size's rounds.
#[derive(Debug, Serialize)]
struct Size {
    memory_mib: u64,
    resident_mib: u64,
    moves: usize,
    errors: u64,
    blackout_us: Percentiles,
    round_p50_us: Vec<u64>,
    bytes_per_move: u64,
    messages_per_move: f64,
}

/// The last line.
#[derive(Debug, Serialize)]
pub struct Summary {
    bench: &'static str,
    nodes: usize,
    vcpus: u32,
    rounds: usize,
    sizes: Vec<Size>,
    /// How much longer the median is with the largest memory than with the smallest: 0.05 is 5 %.
    growth: f64,
    targets: Targets,
}

/// What is wanted, and whether it was reached.
#[derive(Debug, Serialize)]
struct Targets {
    p50_at_most_1_ms: bool,
    growth_at_most_5_percent: bool,
    at_most_4_messages: bool,
}

impl Size {
    fn of(memory_mib: u64, rounds: &[&Round]) -> Self {
        let all = |pick: fn(&Round) -> &[u64]| -> Vec<u64> {
            rounds.iter().flat_map(|round| pick(round).iter().copied()).collect()
        };
        let blackouts = all(|round| &round.blackout_us);
        let round_p50_us: Vec<u64> =
            rounds.iter().map(|round| Percentiles::of(&round.blackout_us).p50).collect();
        let left: u64 = rounds.iter().map(|round| round.left).sum();
        let messages: u64 = rounds.iter().map(|round| round.messages).sum();
        Size {
            memory_mib,
            resident_mib: rounds.iter().map(|round| round.resident_mib).min().unwrap_or(0),
            moves: blackouts.len(),
            errors: rounds.iter().map(|round| round.errors).sum(),
            // The median of the rounds' medians: a round that was disturbed does not move it.
            blackout_us: Percentiles {
                p50: Percentiles::of(&round_p50_us).p50,
                ..Percentiles::of(&blackouts)
            },
            round_p50_us,
            bytes_per_move: Percentiles::of(&all(|round| &round.bytes)).p50,
            messages_per_move: hundredths(messages as f64 / left.max(1) as f64),
        }
    }
}

impl Summary {
    /// Of these rounds, by size.
    pub fn of(nodes: usize, vcpus: u32, sizes: &[u64], rounds: &[Round]) -> Self {
        let size = |&memory_mib: &u64| {
            let own: Vec<&Round> = rounds.iter().filter(|round| round.memory_mib == memory_mib).collect();
            (own.len(), Size::of(memory_mib, &own))
        };
        let (counts, sizes): (Vec<usize>, Vec<Size>) = sizes.iter().map(size).unzip();
        let growth = growth(&sizes);
        let targets = Targets {
            p50_at_most_1_ms: sizes.iter().all(|size| size.blackout_us.p50 <= TARGET_P50_US),
            growth_at_most_5_percent: growth.abs() <= TARGET_GROWTH,
            at_most_4_messages: sizes.iter().all(|size| size.messages_per_move <= TARGET_MESSAGES),
        };
        let rounds = counts.into_iter().max().unwrap_or(0);
        Summary { bench: "moves", nodes, vcpus, rounds, sizes, growth, targets }
    }

    /// Moves that failed.
    pub fn errors(&self) -> u64 {
        self.sizes.iter().map(|size| size.errors).sum()
    }
}

/// How much longer the median is with the largest memory than with the smallest.
fn growth(sizes: &[Size]) -> f64 {
    let smallest = sizes.iter().min_by_key(|size| size.memory_mib);
    let largest = sizes.iter().max_by_key(|size| size.memory_mib);
    let p50 = |size: Option<&Size>| size.map_or(1, |size| size.blackout_us.p50.max(1)) as f64;
    hundredths(100.0 * (p50(largest) / p50(smallest) - 1.0)) / 100.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "blackout of vCPU moves, {} nodes, {} vCPUs, {} rounds",
            self.nodes, self.vcpus, self.rounds
        )?;
        let mut table = Table::new(&[
            "memory", "in use", "moves", "failed", "p50 us", "p99 us", "max us", "bytes", "messages",
        ]);
        for size in &self.sizes {
            let Percentiles { p50, p99, max } = size.blackout_us;
            table.row([
                format!("{} MiB", size.memory_mib),
                format!("{} MiB", size.resident_mib),
                size.moves.to_string(),
                size.errors.to_string(),
                p50.to_string(),
                p99.to_string(),
                max.to_string(),
                size.bytes_per_move.to_string(),
                format!("{:.2}", size.messages_per_move),
            ]);
        }
        writeln!(f, "\n{table}")?;
        let verdict = |reached| if reached { "reached" } else { "MISSED" };
        let Targets { p50_at_most_1_ms, growth_at_most_5_percent, at_most_4_messages } = self.targets;
        writeln!(f, "median at most 1 ms: {}", verdict(p50_at_most_1_ms))?;
        let growth = self.growth * 100.0;
        writeln!(
            f,
            "from the smallest to the largest memory {growth:+.1} %, 5 % allowed: {}",
            verdict(growth_at_most_5_percent)
        )?;
        write!(f, "at most 4 messages a move: {}", verdict(at_most_4_messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(memory_mib: u64, blackout_us: &[u64]) -> Round {
        let moves = blackout_us.len() as u64;
        let bytes = vec![1800; blackout_us.len()];
        Round {
            memory_mib,
            blackout_us: blackout_us.to_vec(),
            bytes,
            errors: 0,
            left: moves,
            messages: 4 * moves,
            resident_mib: memory_mib,
        }
    }

    fn summary() -> Summary {
        let rounds = [
            round(64, &[200, 210, 900]),
            round(8192, &[220, 220, 220]),
            round(64, &[200, 200, 200]),
            round(8192, &[9000, 9000, 9000]),
            round(64, &[190, 200, 210]),
            round(8192, &[218, 220, 221]),
        ];
        Summary::of(2, 2, &[64, 8192], &rounds)
    }

    #[test]
    fn the_last_line_has_the_promised_keys() {
        let json = serde_json::to_value(summary()).unwrap();
        for key in ["bench", "nodes", "vcpus", "rounds", "sizes", "growth", "targets"] {
            assert!(!json[key].is_null(), "{key} is missing: {json}");
        }
        for key in ["p50_at_most_1_ms", "growth_at_most_5_percent", "at_most_4_messages"] {
            assert!(json["targets"][key].is_boolean(), "{key} is missing: {json}");
        }
        let sizes = json["sizes"].as_array().unwrap();
        assert_eq!(sizes.len(), 2);
        for size in sizes {
            for key in ["memory_mib", "resident_mib", "moves", "errors", "bytes_per_move"] {
                assert!(size[key].is_u64(), "{key} is missing: {size}");
            }
            assert_eq!(size["messages_per_move"], 4.0);
            assert_eq!(size["round_p50_us"].as_array().unwrap().len(), 3);
            for key in ["p50", "p99", "max"] {
                assert!(size["blackout_us"][key].is_u64(), "{key} is missing: {size}");
            }
        }
    }

    #[test]
    fn a_disturbed_round_does_not_move_the_median_and_growth_misses_its_target() {
        let summary = summary();
        assert_eq!(summary.sizes[1].blackout_us, Percentiles { p50: 220, p99: 9000, max: 9000 });
        assert!((summary.growth - 0.1).abs() < 1e-9, "{}", summary.growth);
        assert!(!summary.targets.growth_at_most_5_percent);
        assert!(summary.targets.p50_at_most_1_ms && summary.targets.at_most_4_messages);
        let text = summary.to_string();
        assert!(text.contains("+10.0 %, 5 % allowed: MISSED"), "{text}");
    }

    #[test]
    fn a_fifth_message_misses_its_target() {
        let mut chatty = round(64, &[200]);
        chatty.messages = 5;
        assert!(!Summary::of(2, 2, &[64], &[chatty]).targets.at_most_4_messages);
    }
}
