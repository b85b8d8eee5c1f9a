//! The oracle and the generator against published verdicts.

use std::collections::HashSet;

use tessera_litmus::corpus::{self, Entry};
use tessera_litmus::cycle::{Cycle, Order};
use tessera_litmus::enumerate::critical_cycles;
use tessera_litmus::generate;
use tessera_litmus::names::name;
use tessera_litmus::oracle::{verdict, Verdict};
use tessera_litmus::shapes::MUST_HOLD;
use tessera_litmus::test::Test;
use tessera_litmus::text;

/// The test of an entry: from its cycle, or the one written by hand.
fn test_of(entry: &Entry) -> Test {
    match &entry.cycle {
        Some(cycle) => generate::test(&entry.name, cycle).expect("a test"),
        None => {
            let (name, program) = MUST_HOLD.iter().find(|(name, _)| *name == entry.name).expect("by hand");
            text::parse(*name, program).expect("a test")
        }
    }
}

fn disagreements(entries: &[Entry]) -> Vec<String> {
    let wrong = entries.iter().filter_map(|entry| {
        let test = test_of(entry);
        let ours = verdict(&test).expect("small enough");
        (ours != entry.verdict)
            .then(|| format!("{}: {:?}, we say {ours:?}: {test}", entry.name, entry.verdict))
    });
    wrong.collect()
}

#[test]
fn the_oracle_agrees_with_every_published_verdict() {
    let entries = corpus::parse(corpus::TABLE).unwrap();
    let count = |verdict: Verdict| entries.iter().filter(|entry| entry.verdict == verdict).count();
    assert_eq!(
        (count(Verdict::Never), count(Verdict::Sometimes), count(Verdict::Always)),
        (1792, 799, 4),
        "the table is whole"
    );
    let wrong = disagreements(&entries);
    assert!(wrong.is_empty(), "{} of {} verdicts differ:\n{}", wrong.len(), entries.len(), wrong.join("\n"));
}

/// Where the table that this repository's was made from is at hand, the two must say the same.
#[test]
fn the_table_is_the_one_that_was_published() {
    let Some(path) = std::env::var_os("TESSERA_TSO_VERDICTS") else {
        println!("TESSERA_TSO_VERDICTS names no table: nothing to compare with");
        return;
    };
    let mut published = corpus::parse_columns(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut ours = corpus::parse(corpus::TABLE).unwrap();
    published.sort();
    ours.sort();
    assert!(published == ours, "{} entries there, {} here, not the same", published.len(), ours.len());
}

/// The suite has all critical cycles of two to four threads without and with fences, under the names that we give them.
#[test]
fn the_generator_finds_the_published_cycles_and_their_names() {
    let entries = corpus::parse(corpus::TABLE).unwrap();
    let published: HashSet<(String, Cycle)> =
        entries.into_iter().filter_map(|entry| Some((entry.name, entry.cycle?.canonical()))).collect();
    for (threads, count) in [(2, 21), (3, 100), (4, 490)] {
        let cycles = critical_cycles(threads, &[Order::Plain, Order::MFence]);
        let unknown: Vec<String> = cycles
            .iter()
            .map(|cycle| (name(cycle), cycle.canonical()))
            .filter(|named| !published.contains(named))
            .map(|(name, cycle)| format!("{name}: {cycle}"))
            .collect();
        assert!(unknown.is_empty(), "{} of {}: {unknown:#?}", unknown.len(), cycles.len());
        assert_eq!(cycles.len(), count, "{threads} threads");
    }
}

#[test]
fn cycles_about_one_variable_have_their_published_names() {
    let entries = corpus::parse(corpus::TABLE).unwrap();
    let ours: HashSet<String> = entries
        .iter()
        .filter_map(|entry| entry.cycle.as_ref())
        .map(name)
        .filter(|name| name.starts_with("Co"))
        .collect();
    assert_eq!(ours, ["CoRR", "CoRW1", "CoRW2", "CoWR0", "CoWW"].map(str::to_owned).into());
    for entry in entries.iter().filter(|entry| ours.contains(&entry.name)) {
        assert_eq!(name(entry.cycle.as_ref().unwrap()), entry.name);
    }
}
