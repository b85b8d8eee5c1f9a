//! What the runs come to: a table for people, and the same as JSON.

use anyhow::{ensure, Result};
use serde::Serialize;
use serde_json::Value;

use crate::bench::table::Table;
use crate::guest::Outcome;
use crate::tessera::NodeStats;

/// Whether the guest is offered asynchronous faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// A vCPU waits for its pages.
    Without,
    /// The guest is told, and runs something else.
    With,
}

impl Setting {
    /// Both, in the order in which they are run.
    pub const BOTH: [Self; 2] = [Self::Without, Self::With];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Without => "without asynchronous faults",
            Self::With => "with them",
        }
    }

    /// Its options of `tessera run`. A machine that stands still for a moment is no lost node.
    pub fn options(self) -> Vec<String> {
        let patience = ["--lost-after-ms", "600000"];
        let own: &[&str] = match self {
            Self::Without => &[],
            Self::With => &["--async-faults"],
        };
        patience.iter().chain(own).map(|&word| word.to_owned()).collect()
    }
}

/// One program in one guest, or the means of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Figures {
    /// How long the program ran, on the wall.
    seconds: f64,
    /// Pages touched a second by all CPUs; 0 for a program that does not count.
    touches_per_s: f64,
    /// Steps of computation a second by all CPUs.
    work_per_s: f64,
    /// The share of their time for which vCPUs stood still for pages, from 0 to 1.
    stalled: f64,
    /// How often a vCPU stood still, a second.
    stalls_per_s: f64,
    /// Pages a second that came while the guest did something else.
    async_faults_per_s: f64,
    /// Faults a second by kind, as the pagers saw them.
    reads_per_s: f64,
    writes_per_s: f64,
    upgrades_per_s: f64,
}

impl Figures {
    fn mean(of: &[&Self]) -> Self {
        let mean = |field: fn(&Self) -> f64| mean(of.iter().map(|figures| field(figures)));
        Self {
            seconds: mean(|figures| figures.seconds),
            touches_per_s: mean(|figures| figures.touches_per_s),
            work_per_s: mean(|figures| figures.work_per_s),
            stalled: mean(|figures| figures.stalled),
            stalls_per_s: mean(|figures| figures.stalls_per_s),
            async_faults_per_s: mean(|figures| figures.async_faults_per_s),
            reads_per_s: mean(|figures| figures.reads_per_s),
            writes_per_s: mean(|figures| figures.writes_per_s),
            upgrades_per_s: mean(|figures| figures.upgrades_per_s),
        }
    }
}

/// What the nodes have counted since the guest's start.
#[derive(Clone, Copy, Default)]
struct Counted {
    stalled_us: u64,
    stalls: u64,
    async_faults: u64,
    reads: u64,
    writes: u64,
    upgrades: u64,
}

impl Counted {
    fn of(nodes: &[NodeStats]) -> Self {
        let faults = |kind: &str| {
            let of_kind = nodes.iter().flat_map(|node| &node.faults).filter(|fault| fault.kind == kind);
            of_kind.map(|fault| fault.latency.count).sum()
        };
        let stalls = || nodes.iter().flat_map(|node| &node.stalls);
        Self {
            stalled_us: stalls().map(|stall| stall.stalled_us).sum(),
            stalls: stalls().map(|stall| stall.faults).sum(),
            async_faults: nodes.iter().map(|node| node.async_faults.faults).sum(),
            reads: faults("read"),
            writes: faults("write"),
            upgrades: faults("upgrade"),
        }
    }
}

/// One guest.
pub struct Run {
    setting: Setting,
    boot_s: f64,
    /// The programs' names and figures, in order.
    programs: Vec<(String, Figures)>,
}

impl Run {
    /// From what the guest said, and what the nodes had counted when it was up and after each program.
    ///
    /// # Errors
    /// When a figure is missing.
    pub fn of(
        setting: Setting,
        outcome: &Outcome,
        snapshots: &[Vec<NodeStats>],
        slow_clock: u32,
    ) -> Result<Self> {
        ensure!(
            snapshots.len() == outcome.results.len() + 1,
            "{} snapshots of the nodes' figures for {} programs",
            snapshots.len(),
            outcome.results.len()
        );
        let counted: Vec<Counted> = snapshots.iter().map(|nodes| Counted::of(nodes)).collect();
        let vcpus = snapshots[0].len() as f64;
        let programs = outcome
            .results
            .iter()
            .zip(counted.windows(2))
            .map(|(result, pair)| (name(result), figures(result, (pair[0], pair[1]), slow_clock, vcpus)))
            .collect();
        let boot_s = outcome.boot.unwrap_or_default().as_secs_f64();
        Ok(Self { setting, boot_s, programs })
    }
}

fn name(result: &Value) -> String {
    result["kind"].as_str().or(result["program"].as_str()).unwrap_or("?").to_owned()
}

fn figures(result: &Value, (before, after): (Counted, Counted), slow_clock: u32, vcpus: f64) -> Figures {
    // The guest's seconds last longer than those on the wall.
    let seconds = result["seconds"].as_f64().unwrap_or(0.0).max(1e-9) * f64::from(slow_clock);
    let sum = |key: &str| {
        let values = result[key].as_array().map_or(&[][..], Vec::as_slice);
        values.iter().filter_map(Value::as_f64).sum::<f64>()
    };
    let since = |field: fn(&Counted) -> u64| field(&after).saturating_sub(field(&before)) as f64;
    Figures {
        seconds,
        touches_per_s: sum("touches") / seconds,
        work_per_s: sum("work") / seconds,
        stalled: since(|counted| counted.stalled_us) / 1e6 / (seconds * vcpus),
        stalls_per_s: since(|counted| counted.stalls) / seconds,
        async_faults_per_s: since(|counted| counted.async_faults) / seconds,
        reads_per_s: since(|counted| counted.reads) / seconds,
        writes_per_s: since(|counted| counted.writes) / seconds,
        upgrades_per_s: since(|counted| counted.upgrades) / seconds,
    }
}

/// A program without and with, means of all rounds, and what each round had.
#[derive(Serialize)]
struct Compared {
    kind: String,
    without: Figures,
    with: Figures,
    /// With to without: pages touched, work done, time stalled, time taken. Null where there is none.
    touches_ratio: Option<f64>,
    work_ratio: Option<f64>,
    stalled_ratio: Option<f64>,
    seconds_ratio: Option<f64>,
    /// The smallest and largest of the rounds' ratios of pages touched (of time taken where no pages are counted).
    round_ratios: [f64; 2],
}

/// The last line.
#[derive(Serialize)]
pub struct Summary {
    bench: &'static str,
    lab: &'static str,
    hosts: usize,
    rounds: usize,
    boot_s: f64,
    boot_with_s: f64,
    kinds: Vec<Compared>,
}

impl Summary {
    /// Of all runs.
    pub fn of(runs: &[Run], lab: &'static str, hosts: usize) -> Self {
        let of = |setting| runs.iter().filter(move |run| run.setting == setting);
        let boot = |setting| mean(of(setting).map(|run| run.boot_s));
        let names = runs.first().map_or(&[][..], |run| run.programs.as_slice()).iter().map(|(name, _)| name);
        let kinds = names.enumerate().map(|(place, kind)| {
            let at = |setting| -> Vec<&Figures> {
                of(setting).filter_map(|run| run.programs.get(place)).map(|(_, figures)| figures).collect()
            };
            compare(kind, &at(Setting::Without), &at(Setting::With))
        });
        Self {
            bench: "async-faults",
            lab,
            hosts,
            rounds: of(Setting::With).count(),
            boot_s: boot(Setting::Without),
            boot_with_s: boot(Setting::With),
            kinds: kinds.collect(),
        }
    }

    /// Asynchronous faults a second in the guests that were offered them, rounded up.
    pub fn async_faults(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.with.async_faults_per_s).sum::<f64>().ceil() as u64
    }

    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["", "without", "with", "with / without"]);
        let mut row = |name: String, without: f64, with: f64, decimals: usize| {
            let figure = |value: f64| format!("{value:.decimals$}");
            let ratio = ratio(with, without).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            table.row([name, figure(without), figure(with), ratio]);
        };
        row("boot, s".to_owned(), self.boot_s, self.boot_with_s, 1);
        for Compared { kind, without, with, .. } in &self.kinds {
            let mut of = |what: &str, field: fn(&Figures) -> f64, decimals| {
                let (without, with) = (field(without), field(with));
                if without != 0.0 || with != 0.0 {
                    row(format!("{kind}: {what}"), without, with, decimals);
                }
            };
            of("pages touched a second", |figures| figures.touches_per_s, 0);
            of("work a second", |figures| figures.work_per_s, 0);
            if without.touches_per_s == 0.0 {
                of("seconds", |figures| figures.seconds, 1);
            }
            of("vCPU time stalled, %", |figures| 100.0 * figures.stalled, 1);
            of("stalls a second", |figures| figures.stalls_per_s, 0);
            of("asynchronous faults a second", |figures| figures.async_faults_per_s, 0);
            of("read faults a second", |figures| figures.reads_per_s, 0);
            of("write faults a second", |figures| figures.writes_per_s, 0);
            of("upgrades a second", |figures| figures.upgrades_per_s, 0);
        }
        table
    }
}

fn compare(kind: &str, without: &[&Figures], with: &[&Figures]) -> Compared {
    let rounds = without.iter().zip(with).map(|(without, with)| {
        ratio(with.touches_per_s, without.touches_per_s).unwrap_or(with.seconds / without.seconds)
    });
    let round_ratios =
        rounds.fold([f64::INFINITY, 0.0f64], |[least, most], ratio| [least.min(ratio), most.max(ratio)]);
    let (without, with) = (Figures::mean(without), Figures::mean(with));
    Compared {
        kind: kind.to_owned(),
        touches_ratio: ratio(with.touches_per_s, without.touches_per_s),
        work_ratio: ratio(with.work_per_s, without.work_per_s),
        stalled_ratio: ratio(with.stalled, without.stalled),
        seconds_ratio: ratio(with.seconds, without.seconds),
        round_ratios,
        without,
        with,
    }
}

fn ratio(with: f64, without: f64) -> Option<f64> {
    (without > 0.0).then(|| with / without)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count.max(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::json;

    fn node(stalled_us: u64, async_faults: u64, reads: u64) -> NodeStats {
        let value = json!({
            "memory": {"owned_pages": 0, "copied_pages": 0, "resident_bytes": 0},
            "faults": [{"kind": "read", "latency": {"count": reads, "mean_us": 0.0, "p50_us": 0, "p99_us": 0}}],
            "stalls": [{"vcpu": 0, "faults": 10, "stalled_us": stalled_us}],
            "async_faults": {"faults": async_faults, "travelled_us": 1},
            "traffic": {"bytes_out": 0, "messages_out": 0},
            "moves": {"left": 0, "messages_sent": 0},
        });
        serde_json::from_value(value).unwrap()
    }

    fn run(setting: Setting, touches: u64, stalled_us: u64, async_faults: u64) -> Run {
        let outcome = Outcome {
            boot: Some(Duration::from_secs(4)),
            results: vec![
                json!({"kind": "add", "seconds": 0.5, "touches": [touches, touches], "work": [7, 3]}),
            ],
            ..Outcome::default()
        };
        let before = vec![node(1_000_000, 5, 50), node(0, 0, 0)];
        let after = vec![node(1_000_000 + stalled_us, 5 + async_faults, 150), node(0, 0, 0)];
        Run::of(setting, &outcome, &[before, after], 10).unwrap()
    }

    #[test]
    fn figures_are_by_the_second_on_the_wall_and_since_the_program_before() {
        let run = run(Setting::Without, 100, 2_000_000, 20);
        let (name, figures) = &run.programs[0];
        assert_eq!((name.as_str(), figures.seconds), ("add", 5.0));
        assert_eq!((figures.touches_per_s, figures.work_per_s), (40.0, 2.0));
        assert_eq!((figures.stalled, figures.stalls_per_s), (0.2, 0.0));
        assert_eq!((figures.async_faults_per_s, figures.reads_per_s), (4.0, 20.0));
    }

    #[test]
    fn settings_are_compared_by_their_means() {
        let runs = [
            run(Setting::Without, 100, 2_000_000, 0),
            run(Setting::With, 200, 500_000, 5),
            run(Setting::Without, 100, 2_000_000, 0),
            run(Setting::With, 400, 500_000, 5),
        ];
        let summary = Summary::of(&runs, "nested", 2);
        let kind = &summary.kinds[0];
        assert_eq!((kind.touches_ratio, kind.work_ratio), (Some(3.0), Some(1.0)));
        assert_eq!((kind.stalled_ratio, kind.round_ratios), (Some(0.25), [2.0, 4.0]));
        assert_eq!((summary.rounds, summary.async_faults()), (2, 1));
        assert!(summary.table().to_string().contains("add: vCPU time stalled, %"));
    }

    #[test]
    fn a_guest_without_all_its_figures_is_an_error() {
        let outcome = Outcome { results: vec![json!({}), json!({})], ..Outcome::default() };
        assert!(Run::of(Setting::With, &outcome, &[vec![node(0, 0, 0)]], 1).is_err());
    }
}
