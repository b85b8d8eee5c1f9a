//! Who catches which mistake: what `docs/checking.md` says, and whether that is so.

use super::super::cluster::{Mutant, Shape};
use super::super::model::{explore, with_content, with_habits, with_merges, wrong_in_runs, Protocol};
use super::super::simulation::{contend, simulate, Plan, LONGEST_US};
use super::all;
use super::tamper::{before, nothing_before};

/// The page with the table.
const PAGE: &str = include_str!("../../../../../docs/checking.md");
/// Part of a mistake's name (`=` for all): the lines of the table for such are worked out and printed.
const PRINT: &str = "TESSERA_MUTANT_TABLE";
/// Runs of the simulator in which a mistake must show.
const RUNS: u64 = 60;
/// Page accesses of each.
const OPS: u64 = 600;

/// Something that catches mistakes.
struct Tool {
    name: &'static str,
    catches: fn(Mutant) -> bool,
}

/// The tools, the cheapest first; of the models, the table names the first that catches.
const MODELS: &[Tool] = &[
    Tool { name: "2 nodes", catches: |mutant| model(Shape::new(2, &[0], 1), mutant) },
    Tool { name: "2 nodes, devices", catches: |mutant| model_with_devices(Shape::new(2, &[0], 1), mutant) },
    Tool { name: "2 nodes, habits", catches: |mutant| model(with_habits(Shape::new(2, &[0], 1)), mutant) },
    Tool { name: "2 nodes, merges", catches: |mutant| model(with_merges(Shape::new(2, &[0], 1)), mutant) },
    Tool { name: "2 nodes, homes", catches: |mutant| model_of_homes(2, 2, mutant) },
    Tool { name: "2 nodes, leave", catches: |mutant| model_of_leave(2, mutant) },
    Tool { name: "3 nodes", catches: |mutant| model(Shape::new(3, &[0], 1), mutant) },
    Tool { name: "3 nodes, merges", catches: |mutant| model(with_merges(Shape::new(3, &[0], 1)), mutant) },
    Tool { name: "3 nodes, homes", catches: |mutant| model_of_homes(3, 1, mutant) },
    Tool { name: "3 nodes, leave", catches: |mutant| model_of_leave(3, mutant) },
    Tool { name: "3 nodes, runs", catches: |mutant| runs(Shape::new(3, &[0], 1), mutant) },
    Tool { name: "2 nodes, 2 pages", catches: |mutant| model(Shape::new(2, &[0], 2), mutant) },
];
const SIMULATIONS: &[Tool] = &[
    Tool { name: "random", catches: |mutant| (1..=RUNS).any(|seed| fails(seed, mutant)) },
    Tool { name: "contention", catches: starves },
];

fn fails(seed: u64, mutant: Mutant) -> bool {
    simulate(&Plan::random(seed, 2..=8, OPS), Some(mutant)).is_err()
}

fn starves(mutant: Mutant) -> bool {
    contend(8, 4, 20_000, Some(mutant)).map_or(true, |longest| longest > LONGEST_US)
}

fn model(shape: Shape, mutant: Mutant) -> bool {
    explore("mutant", Protocol::new(shape).with_mutant(mutant)).failure.is_some()
}

fn runs(shape: Shape, mutant: Mutant) -> bool {
    wrong_in_runs(&Protocol::new(shape).with_mutant(mutant)).is_some()
}

fn model_with_devices(shape: Shape, mutant: Mutant) -> bool {
    explore("mutant", Protocol::new(shape).with_devices().with_mutant(mutant)).failure.is_some()
}

fn model_of_homes(nodes: u8, handovers: u8, mutant: Mutant) -> bool {
    let protocol = Protocol::new(Shape::new(nodes, &[0], 1)).with_handovers(handovers);
    let protocol = if nodes > 2 { protocol.with_writes_only() } else { protocol };
    explore("mutant", protocol.with_mutant(mutant)).failure.is_some()
}

fn model_of_leave(nodes: u8, mutant: Mutant) -> bool {
    let protocol = Protocol::new(with_content(Shape::new(nodes, &[0], 1))).with_leaver(1).with_handovers(1);
    explore("mutant", protocol.with_mutant(mutant)).failure.is_some()
}

fn names<'a>(tools: impl Iterator<Item = &'a Tool>) -> String {
    let names: Vec<&str> = tools.map(|tool| tool.name).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join("; ")
    }
}

/// The mutant's line of the table, worked out.
fn row(mutant: Mutant) -> String {
    let models = MODELS.iter().find(|tool| (tool.catches)(mutant));
    let simulations = SIMULATIONS.iter().filter(|tool| (tool.catches)(mutant));
    format!("| {} | {} | {} |", mutant.name, names(models.into_iter()), names(simulations))
}

/// The lines of the table on the page: a mistake's name, and the tools in each column.
fn claims() -> Vec<(&'static str, Vec<&'static str>)> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with("Mutants")).unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").collect::<Vec<_>>()).filter(|cells| cells.len() == 3);
    let tools = |cell: &'static str| cell.split("; ").filter(|name| *name != "-");
    cells.skip(1).map(|cells| (cells[0], cells[1..].iter().copied().flat_map(tools).collect())).collect()
}

fn tool(name: &str) -> &'static Tool {
    let found = MODELS.iter().chain(SIMULATIONS).find(|tool| tool.name == name);
    found.unwrap_or_else(|| panic!("docs/checking.md names a tool that does not exist: {name:?}"))
}

#[test]
fn every_mutant_is_caught_by_all_that_the_table_names() {
    if let Ok(part) = std::env::var(PRINT) {
        let wanted = |mutant: &Mutant| part == "=" || mutant.name.contains(&part);
        all().filter(wanted).for_each(|mutant| println!("{}", row(mutant)));
        return;
    }
    let claims = claims();
    let (listed, known): (Vec<_>, Vec<_>) =
        (claims.iter().map(|(name, _)| *name).collect(), all().map(|mutant| mutant.name).collect());
    assert_eq!(listed, known, "docs/checking.md lists other mutants than there are");
    let mut wrong = vec![];
    for (mutant, (name, tools)) in all().zip(claims) {
        if tools.is_empty() {
            wrong.push(format!("{name}: caught by nothing"));
        }
        let missed = tools.into_iter().filter(|name| !(tool(name).catches)(mutant));
        wrong.extend(missed.map(|tool| format!("{name}: not caught by {tool}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_a_mistake_nothing_is_caught() {
    let none = before("none", nothing_before);
    for tool in MODELS.iter().chain(SIMULATIONS).filter(|tool| tool.name != "2 nodes, 2 pages") {
        assert!(!(tool.catches)(none), "{}", tool.name);
    }
}
