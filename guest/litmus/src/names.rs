//! The usual names of cycles: a family (`MP`, `IRIW`), then what stands between each thread's accesses (`+mfence+po`).

use crate::cycle::{Access, Cycle, Edge, Location, Order};

/// Families of cycles with a name of their own: what the threads do, in the order of the cycle from the thread that
/// begins it, and the edges between the threads. All others are called by what their threads do.
const FAMILIES: &[(&str, &str)] = &[
    ("2+2W", "WW Coe WW Coe"),
    ("LB", "RW Rfe RW Rfe"),
    ("MP", "WW Rfe RR Fre"),
    ("R", "WW Coe WR Fre"),
    ("S", "WW Rfe RW Coe"),
    ("SB", "WR Fre WR Fre"),
    ("3.2W", "WW Coe WW Coe WW Coe"),
    ("3.LB", "RW Rfe RW Rfe RW Rfe"),
    ("3.SB", "WR Fre WR Fre WR Fre"),
    ("ISA2", "WW Rfe RW Rfe RR Fre"),
    ("RWC", "W Rfe RR Fre WR Fre"),
    ("W+RWC", "WW Rfe RR Fre WR Fre"),
    ("WRC", "W Rfe RW Rfe RR Fre"),
    ("WRR+2W", "W Rfe RR Fre WW Coe"),
    ("WRW+2W", "W Rfe RW Coe WW Coe"),
    ("WRW+WR", "W Rfe RW Coe WR Fre"),
    ("WWC", "W Rfe RW Rfe RW Coe"),
    ("Z6.0", "WW Rfe RW Coe WR Fre"),
    ("Z6.1", "WW Coe WW Rfe RW Coe"),
    ("Z6.2", "WW Rfe RW Rfe RW Coe"),
    ("Z6.3", "WW Coe WW Rfe RR Fre"),
    ("Z6.4", "WW Coe WR Fre WR Fre"),
    ("Z6.5", "WW Coe WW Coe WR Fre"),
    ("4.2W", "WW Coe WW Coe WW Coe WW Coe"),
    ("4.LB", "RW Rfe RW Rfe RW Rfe RW Rfe"),
    ("4.SB", "WR Fre WR Fre WR Fre WR Fre"),
    ("IRIW", "W Rfe RR Fre W Rfe RR Fre"),
    ("IRRWIW", "W Rfe RR Fre W Rfe RW Coe"),
    ("IRWIW", "W Rfe RW Coe W Rfe RW Coe"),
];

/// Cycles about one variable, which have names of their own.
const COHERENCE: &[(&str, &str)] = &[
    ("CoRR", "Rfe PosRR Fre"),
    ("CoRW1", "Rfe PosRW"),
    ("CoRW2", "Rfe PosRW Coe"),
    ("CoWR0", "Fre PosWR"),
    ("CoWW", "Coe PosWW"),
];

/// The cycle's name.
pub fn name(cycle: &Cycle) -> String {
    let is_this =
        |text: &str| text.parse::<Cycle>().is_ok_and(|known| known.canonical() == cycle.canonical());
    if let Some((known, _)) = COHERENCE.iter().find(|(_, text)| is_this(text)) {
        return (*known).to_owned();
    }
    let mut best: Option<(usize, Vec<usize>, String)> = None;
    for rotation in cycle.rotations() {
        let key = (family_rank(&rotation), shape_rank(&rotation), full_name(&rotation));
        if best.as_ref().is_none_or(|best| key < *best) {
            best = Some(key);
        }
    }
    best.map_or_else(String::new, |(_, _, name)| name)
}

/// 0 for a rotation that is written as its family is.
fn family_rank(rotation: &Cycle) -> usize {
    usize::from(family(rotation).is_none())
}

fn family(rotation: &Cycle) -> Option<&'static str> {
    let form = form(rotation);
    FAMILIES.iter().find(|(_, known)| *known == form).map(|(name, _)| *name)
}

/// What each thread does, and the edges between them.
fn form(rotation: &Cycle) -> String {
    let ends = rotation.edges().iter().filter(|edge| edge.is_external()).map(ToString::to_string);
    let words: Vec<String> =
        deeds(rotation).into_iter().zip(ends).flat_map(|(deed, end)| [deed, end]).collect();
    words.join(" ")
}

/// Each thread's first and last access.
fn deeds(rotation: &Cycle) -> Vec<String> {
    let parts = rotation.edges().split_inclusive(Edge::is_external);
    parts
        .map(|part| match (part.first().map(Edge::from), part.last().map(Edge::from)) {
            (Some(first), Some(last)) if part.len() > 1 => format!("{first:?}{last:?}"),
            (Some(only), _) => format!("{only:?}"),
            _ => String::new(),
        })
        .collect()
}

/// The order of threads in a name: lone stores first, then those that store twice.
fn shape_rank(rotation: &Cycle) -> Vec<usize> {
    const ORDER: [&str; 6] = ["W", "WW", "RR", "RW", "WR", "R"];
    deeds(rotation).iter().map(|deed| ORDER.iter().position(|known| known == deed).unwrap_or(0)).collect()
}

fn full_name(rotation: &Cycle) -> String {
    let base = family(rotation).map_or_else(|| deeds(rotation).join("+"), str::to_owned);
    let threads = rotation.threads();
    let between: Vec<String> =
        threads.iter().filter(|part| !part.is_empty()).map(|part| words(part)).collect();
    match between.first() {
        Some(first) if between.iter().all(|other| other == first) => match first.as_str() {
            "po" => base,
            first if between.len() > 1 => format!("{base}+{first}s"),
            first => format!("{base}+{first}"),
        },
        _ => between.iter().fold(base, |name, word| name + "+" + word),
    }
}

/// What stands between a thread's accesses.
fn words(edges: &[Edge]) -> String {
    edges.iter().map(word).collect::<Vec<_>>().join("-")
}

fn word(edge: &Edge) -> String {
    let Edge::Po { order, location, from, .. } = *edge else { return "rfi".to_owned() };
    let word = match (order, from) {
        (Order::Plain, _) => "po",
        (Order::MFence, _) => "mfence",
        (Order::Lock, _) => "lock",
        (Order::Rmw, Access::W) => "xchg",
        (Order::Rmw, Access::R) => "xadd",
    };
    format!("{word}{}", if location == Location::Same { "s" } else { "" })
}
