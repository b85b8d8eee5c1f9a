//! Guest after guest, no two alike, for as long as wanted: `cargo xtask soak litmus` says in the environment what is wanted
//! and reads what is told, lines of JSON behind [`MARK`].

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};
use tempfile::NamedTempFile;
use tessera_devices::GuestEnd;
use tessera_dsm::pager::AskAhead;
use tessera_dsm::protocol::LeasePolicy;
use tessera_litmus::corpus;
use tessera_litmus::encode::encode;
use tessera_litmus::generate;
use tessera_litmus::placement::Placement;
use tessera_litmus::report::{histograms, Histogram};
use tessera_litmus::shapes;
use tessera_litmus::test::Test;

use crate::cluster::{ClusterSpec, Random};
use crate::judged::{self, forbidden, Judged};
use crate::middle::Grants;
use crate::{code, meddle, started};

/// The variable of the environment that holds a [`Wanted`] as JSON.
const WANTED: &str = "TESSERA_LITMUS";
/// What lines for `cargo xtask` begin with.
const MARK: &str = "litmus: ";
/// Published tests in one guest.
const PIECE: usize = 30;

/// What to do. At least one guest runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    seconds: u64,
    /// Of the first guest; the others follow it.
    seed: u64,
    /// Least and most nodes.
    nodes: (u8, u8),
    /// Names of tests with commas between; all named ones if absent.
    shapes: Option<String>,
    /// The published tests in place of the named ones, some in each guest.
    published: bool,
    /// Milliseconds for each test in each placement.
    ms: u64,
    /// Grants come too early: a mistake, to see it caught.
    early: bool,
}

/// What kind of guest a seed makes.
struct Guest {
    spec: ClusterSpec,
    moving: bool,
    early: Arc<AtomicU64>,
    /// Must live as long as the guest starts.
    _table: Option<NamedTempFile>,
}

/// Sums over all guests.
#[derive(Default, Serialize)]
struct Told {
    guests: u64,
    moves: u64,
    runs: u64,
    forbidden: u64,
    early_grants: u64,
    seconds: f64,
    done: bool,
    /// The guest that went wrong, if one did.
    failure: Option<Value>,
    /// At the end: what was seen of each test in each placement.
    rows: Vec<Value>,
}

fn say(told: &Told) {
    println!("{MARK}{}", serde_json::to_string(told).expect("plain values"));
}

impl Guest {
    /// Everything about it follows from the seed.
    fn new(wanted: &Wanted, tests: &[Test], seed: u64) -> Guest {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // What a generator gives first depends on little.
        for _ in 0..8 {
            random.below(2);
        }
        let (least, most) = wanted.nodes;
        let nodes = least + random.below(usize::from(most - least) + 1) as u8;
        let vcpus = usize::from(nodes) + random.below(5 - usize::from(nodes));
        let chosen = wanted.shapes.as_ref().map(|list| format!(" shapes={list}")).unwrap_or_default();
        let words = format!("test=litmus,code rounds=1000000 ms={} limit=600 seed={seed}{chosen}", wanted.ms);
        let mut spec = ClusterSpec::payload(&words, nodes, vcpus);
        spec.ahead = if random.below(2) == 0 { AskAhead::Off } else { AskAhead::On };
        spec.lease.base_us = [50, 50, 300, 1000][random.below(4)];
        let late = Duration::from_micros([0, 0, 500, 4000][random.below(4)]);
        let moving = random.below(2) == 1 && !wanted.early;
        let early = match (wanted.early, late.is_zero()) {
            (true, _) => {
                // Such a guest cannot rely on being woken.
                spec.cmdline.push_str(" idle=spin limit=60");
                meddle(&mut spec, Grants::Early, Duration::from_millis(4), seed)
            }
            (false, false) => meddle(&mut spec, Grants::InTime, late, seed),
            (false, true) => Arc::default(),
        };
        let table = wanted.published.then(|| {
            let mut file = NamedTempFile::new().expect("a file");
            file.write_all(&encode(tests).expect("small enough")).expect("can be written to");
            file
        });
        spec.initramfs = table.as_ref().map(|file| file.path().to_owned());
        Guest { spec, moving, early, _table: table }
    }

    fn describe(&self, seed: u64) -> Value {
        let LeasePolicy { base_us, .. } = self.spec.lease;
        let ahead = matches!(self.spec.ahead, AskAhead::On);
        json!({
            "seed": seed, "vcpus_on_nodes": self.spec.vcpus, "moving": self.moving, "lease_us": base_us,
            "asks_ahead": ahead, "words": self.spec.cmdline,
        })
    }

    /// Runs it; gives how it ended, its console and the moves.
    fn run(self, seed: u64) -> (GuestEnd, String, u64) {
        let which: Vec<u16> = (0..self.spec.vcpus.len() as u16).collect();
        let cluster = started(self.spec);
        let most = if self.moving { usize::MAX } else { 0 };
        let moves = cluster.keep_moving_from(seed, &which, most) as u64;
        let (end, console) = cluster.finish();
        (end, console, moves)
    }
}

/// All published tests that come from a cycle.
fn published() -> Vec<Test> {
    let entries = corpus::parse(corpus::TABLE).expect("the table");
    let cycles = entries.iter().filter_map(|entry| Some((&entry.name, entry.cycle.as_ref()?)));
    let mut tests: Vec<Test> =
        cycles.map(|(name, cycle)| generate::test(name, cycle).expect("a test")).collect();
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    tests.dedup_by(|a, b| a.name == b.name);
    tests
}

/// Those of a guest: all, or the next piece.
fn tests_of<'a>(wanted: &Wanted, all: &'a [Test], seed: u64) -> &'a [Test] {
    if !wanted.published {
        return all;
    }
    let pieces = all.chunks(PIECE).len() as u64;
    all.chunks(PIECE).nth((seed % pieces) as usize).unwrap_or(all)
}

fn soak(wanted: &Wanted) -> Told {
    let all = if wanted.published { published() } else { shapes::all() };
    let (mut told, mut seen, began) = (Told::default(), BTreeMap::new(), Instant::now());
    for seed in wanted.seed.. {
        let guest = Guest::new(wanted, tests_of(wanted, &all, seed), seed);
        let (description, early) = (guest.describe(seed), Arc::clone(&guest.early));
        println!("guest: {description}");
        let (end, console, moves) = guest.run(seed);
        let judged = judged::all(&console, &all);
        let wrong = forbidden(&judged) + code::stale(&console);
        told.guests += 1;
        told.moves += moves;
        told.runs += judged.iter().map(|one| one.histogram.total()).sum::<u64>();
        told.forbidden += wrong;
        told.early_grants += early.load(Ordering::Relaxed);
        told.seconds = began.elapsed().as_secs_f64();
        add(&mut seen, histograms(&console).expect("read before"));
        if wrong > 0 || end != GuestEnd::PayloadExit(0) {
            told.failure = Some(json!({"guest": description, "end": format!("{end:?}"), "forbidden": wrong}));
            break;
        }
        if began.elapsed() >= Duration::from_secs(wanted.seconds) {
            break;
        }
        say(&told);
    }
    let judged = judged::of(seen.into_values().collect(), &all);
    told.rows = judged.iter().map(Judged::row).collect();
    told.done = true;
    told
}

/// Adds what one guest saw.
fn add(all: &mut BTreeMap<(String, Placement), Histogram>, more: Vec<Histogram>) {
    for histogram in more {
        let key = (histogram.test.clone(), histogram.placement);
        match all.get_mut(&key) {
            None => drop(all.insert(key, histogram)),
            Some(known) => {
                known.corrupt += histogram.corrupt;
                histogram.counts.iter().for_each(|(&o, n)| *known.counts.entry(o).or_default() += n);
            }
        }
    }
}

#[test]
#[ignore = "for `cargo xtask soak litmus`"]
fn soak_as_long_as_wanted() {
    let wanted = std::env::var(WANTED).expect("what is wanted is in the environment");
    say(&soak(&serde_json::from_str(&wanted).expect("as cargo xtask writes it")));
}
