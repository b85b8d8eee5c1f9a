//! `tessera-litmus`: litmus tests by hand.
//!
//! `list`: the named tests. `show NAME...`: programs, allowed outcomes, verdict; a name may be a cycle in quotes, such
//! as `'Rfe PodRR Fre PodWW'`. `encode FILE [NAME...]`: a table for the payload, of the named tests or of these;
//! `encode-corpus FILE`: of all published tests.

use std::process::ExitCode;

use tessera_litmus::test::{Alignment, Test};
use tessera_litmus::{corpus, encode, generate, oracle, shapes};

const USAGE: &str = "usage: tessera-litmus list | show NAME... | encode FILE [NAME...] | encode-corpus FILE";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["list"] => {
            shapes::all().iter().for_each(|test| println!("{:<24} {test}", test.name));
            Ok(())
        }
        ["show", ref names @ ..] => chosen(names).and_then(|tests| tests.iter().try_for_each(show)),
        ["encode", file] => write(file, &shapes::all()),
        ["encode", file, ref names @ ..] => chosen(names).and_then(|tests| write(file, &tests)),
        ["encode-corpus", file] => published().and_then(|tests| write(file, &tests)),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn chosen(names: &[&str]) -> Result<Vec<Test>, String> {
    let one = |name: &&str| shapes::named(name).ok_or_else(|| format!("{name:?} is no test and no cycle"));
    names.iter().map(one).collect()
}

fn show(test: &Test) -> Result<(), String> {
    let outcomes = oracle::allowed(test, Alignment::Aligned).map_err(|error| error.to_string())?;
    let verdict = oracle::verdict(test).map_err(|error| error.to_string())?;
    let digits = test.digits(Alignment::Aligned).len();
    let list: Vec<String> = outcomes.iter().map(|outcome| outcome.text(digits).to_string()).collect();
    println!("{}: {test}\n  {verdict:?}; allowed: {}", test.name, list.join(" "));
    Ok(())
}

fn published() -> Result<Vec<Test>, String> {
    let entries = corpus::parse(corpus::TABLE).map_err(|error| error.to_string())?;
    let cycles = entries.iter().filter_map(|entry| Some((&entry.name, entry.cycle.as_ref()?)));
    cycles
        .map(|(name, cycle)| generate::test(name, cycle).map_err(|error| format!("{name}: {error}")))
        .collect()
}

fn write(file: &str, tests: &[Test]) -> Result<(), String> {
    let table = encode::encode(tests).map_err(|error| error.to_string())?;
    std::fs::write(file, table).map_err(|error| format!("cannot write {file}: {error}"))
}
