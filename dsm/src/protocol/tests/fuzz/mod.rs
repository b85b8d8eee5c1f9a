//! One peer that says anything, and honest nodes that must neither panic nor believe what cannot be true.
//!
//! An input is a string of bytes that is read as a story: what the guests of all nodes do, which link delivers next, when
//! time passes, which home hands an extent over, and what the liar does ([`liar`]). After every step:
//! - no node panics or contradicts itself;
//! - whatever is refused has changed nothing, and the refusal names the page and the liar;
//! - what cannot be true, by the state of all honest nodes, is refused ([`oracle`]): an unknown page, an answer to no question,
//!   a grant by who is not the owner, another transaction, a page's home that is none;
//! - on every page whose coherence does not rest on the liar's word: one writer or many readers among the honest, all
//!   of them with the latest bytes, and nothing that honest nodes say to each other is refused;
//! - as long as the liar has not lied about an extent, nothing that it says of it is refused.
//!
//! Inputs that led to situations not seen before are kept in `dsm/fuzz/corpus`; every one of them is run first.
//! `cargo xtask soak fuzz` goes on for as long as wanted.

mod engine;
mod input;
mod liar;
mod oracle;
mod stream;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use engine::{Engine, Failure, Progress, Run};
use input::{from_hex, hex, Input};
use world::{Features, Mistake, World, LIAR, NODES};

use crate::protocol::tests::cluster::NO_LEASE;
use crate::protocol::{HabitPolicy, LeasePolicy};

/// For how many seconds to fuzz, in all; 10 where it is not set.
const SECONDS: &str = "TESSERA_FUZZ_SECONDS";
/// Where random choices begin; 1 where it is not set.
const SEED: &str = "TESSERA_FUZZ_SEED";
/// One input, in hexadecimal: it is run, and nothing else.
const INPUT: &str = "TESSERA_FUZZ_INPUT";
/// A folder for the inputs that are worth keeping.
const KEEP: &str = "TESSERA_FUZZ_KEEP";

/// Inputs that are kept of a target.
const KEPT_MAX: usize = 64;

/// What is fuzzed: its name, which is also its folder in the corpus.
const TARGETS: [(&str, Run); 2] = [("nodes", nodes), ("stream", stream::run)];

/// A story with a liar.
fn nodes(bytes: &[u8]) -> (Features, Result<(), String>) {
    let (world, outcome) = story(bytes, None);
    (world.features, outcome)
}

fn story(bytes: &[u8], mistake: Option<Mistake>) -> (World, Result<(), String>) {
    let mut input = Input::new(bytes);
    let policies = input.byte();
    let lease = if policies & 1 == 1 { LeasePolicy::default() } else { NO_LEASE };
    let habits = if policies & 2 == 2 { HabitPolicy::default() } else { HabitPolicy::OFF };
    let mut world = World::new(lease, habits, mistake);
    let mut outcome = Ok(());
    while outcome.is_ok() && !input.is_empty() {
        outcome = step(&mut world, &mut input);
    }
    let outcome = outcome.and_then(|()| world.settle());
    (world, outcome)
}

fn step(world: &mut World, input: &mut Input<'_>) -> Result<(), String> {
    match input.below(16) {
        0..=3 => {
            let (at, index) = (input.below(NODES), input.below(world.pages.len()));
            world.access(at, index, World::some_access(input))
        }
        4..=9 => {
            let (from, to) = (input.below(NODES), input.below(NODES));
            world.deliver(from, to)
        }
        10 => {
            let (at, span) = (input.below(NODES), u64::from(input.byte()));
            world.tick(at, span * span / 8)
        }
        11 => {
            let (at, index) = (input.below(LIAR.index()), input.below(world.pages.len()));
            let access = input.flag().then(|| World::some_access(input));
            world.device(at, index, access)
        }
        12 => {
            let (extent, to) = (input.below(NODES), input.below(NODES));
            world.hand_over(extent, to)
        }
        _ => {
            liar::lie(world, input);
            Ok(())
        }
    }
}

fn corpus_folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The inputs that are kept in the repository.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpus_folder(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| entry.expect("an entry of the corpus"))
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("read"))
        })
        .collect();
    inputs.sort();
    inputs
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn fail(target: &str, failure: &Failure) -> ! {
    panic!(
        "{target}: {}\nagain: {INPUT}={} cargo test -p tessera-dsm --lib fuzz",
        failure.why,
        hex(&failure.input)
    )
}

/// Fuzzes a target from its corpus on.
fn fuzz(target: &'static str, run: Run, time: Duration) -> Progress {
    if let Some(bytes) = std::env::var(INPUT).ok().map(|text| from_hex(&text).expect("hexadecimal")) {
        println!("{target}: {:?}", run(&bytes).1);
        run(&bytes).1.unwrap_or_else(|why| panic!("{target}: {why}"));
        return Progress::default();
    }
    let seed = number(SEED, 1);
    println!("{target}: {SEED}={seed}");
    let mut engine = Engine::new(run, seed);
    for (_, input) in corpus(target) {
        engine.try_input(&input).unwrap_or_else(|failure| fail(target, &failure));
    }
    let tell = |progress: &Progress| println!("fuzz: {}", line(target, progress));
    let progress = engine.fuzz(time, tell).unwrap_or_else(|failure| fail(target, &failure));
    println!("fuzz: {}", line(target, &progress));
    if let Some(folder) = std::env::var_os(KEEP) {
        let folder = PathBuf::from(folder).join(target);
        fs::create_dir_all(&folder).expect("a folder");
        for input in engine::essential(run, engine.corpus, KEPT_MAX) {
            fs::write(folder.join(format!("{:016x}", oracle::digest(&input))), input).expect("written");
        }
    }
    progress
}

/// As `cargo xtask soak fuzz` reads it.
fn line(target: &str, Progress { runs, situations, kept }: &Progress) -> String {
    format!("{{\"target\":\"{target}\",\"runs\":{runs},\"situations\":{situations},\"kept\":{kept}}}")
}

#[test]
fn the_corpus_holds() {
    for (target, run) in TARGETS {
        let inputs = corpus(target);
        assert!(inputs.len() >= 10, "only {} inputs are kept for {target}", inputs.len());
        for (name, input) in inputs {
            run(&input).1.unwrap_or_else(|why| panic!("{target}/{name}: {why}"));
        }
    }
}

#[test]
fn the_corpus_knows_every_refusal_that_a_peer_can_cause() {
    let mut seen = BTreeSet::new();
    corpus("nodes").into_iter().for_each(|(_, input)| seen.extend(story(&input, None).0.refusals));
    let all = [
        "AskedTwice",
        "NotFromHome",
        "NotHome",
        "NotRam",
        "Requester",
        "Rights",
        "Transaction",
        "Unasked",
        "Unexpected",
        "WrongTerm",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

/// Whether the corpus, or what is made of it, finds the mistake.
fn is_found(run: Run) -> bool {
    let mut engine = Engine::new(run, 1);
    let mut inputs = corpus("nodes").into_iter();
    inputs.any(|(_, input)| engine.try_input(&input).is_err())
        || engine.fuzz(Duration::from_secs(60), |_| ()).is_err()
}

fn wrong(bytes: &[u8], mistake: Mistake) -> (Features, Result<(), String>) {
    let (world, outcome) = story(bytes, Some(mistake));
    (world.features, outcome)
}

#[test]
fn mistakes_are_found() {
    assert!(is_found(|bytes| wrong(bytes, Mistake::AnybodyIsTheHome)));
    assert!(is_found(|bytes| wrong(bytes, Mistake::AnyTransactionFits)));
    assert!(is_found(|bytes| wrong(bytes, Mistake::RefusalsLeaveTraces)));
}

#[test]
fn fuzz_for_a_while() {
    let time = Duration::from_secs(number(SECONDS, 10)) / TARGETS.len() as u32;
    for (target, run) in TARGETS {
        fuzz(target, run, time);
    }
}
