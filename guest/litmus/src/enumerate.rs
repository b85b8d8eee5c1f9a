//! All critical cycles of a size.
//!
//! A cycle is critical if no part of it can be left out: a thread takes part with one store or with two accesses to
//! different variables, and the accesses to one variable are at most three (a store, a load of it, and a store over
//! it). Whatever breaks the order of memory shows in a critical cycle (Shasha and Snir 1988).

use std::collections::BTreeSet;

use crate::cycle::{Access, Cycle, Edge, Location, Order};

/// What one thread of a cycle does.
#[derive(Clone, Copy)]
enum Part {
    /// A lone store.
    Lone,
    /// Two accesses.
    Pair(Access, Order, Access),
}

impl Part {
    fn first(self) -> Access {
        match self {
            Part::Lone => Access::W,
            Part::Pair(first, ..) => first,
        }
    }

    fn last(self) -> Access {
        match self {
            Part::Lone => Access::W,
            Part::Pair(.., last) => last,
        }
    }
}

/// Every critical cycle of `threads` threads (at most 6), with these `orders` within them; one rotation of each, in a fixed order.
pub fn critical_cycles(threads: usize, orders: &[Order]) -> Vec<Cycle> {
    let mut parts = vec![Part::Lone];
    for &order in orders {
        for first in [Access::R, Access::W] {
            parts.extend([Access::R, Access::W].map(|last| Part::Pair(first, order, last)));
        }
    }
    let mut found = BTreeSet::new();
    let mut row = Vec::new();
    extend(threads.min(6), &parts, &mut row, &mut found);
    found.into_iter().collect()
}

fn extend(left: usize, parts: &[Part], row: &mut Vec<Part>, found: &mut BTreeSet<Cycle>) {
    if left == 0 {
        found.extend(close(row).map(|cycle| cycle.canonical()));
        return;
    }
    for &part in parts {
        if row.last().is_none_or(|&before| edge(before, part).is_some()) {
            row.push(part);
            extend(left - 1, parts, row, found);
            row.pop();
        }
    }
}

/// The edge from a thread to the next, if the two can be neighbours in a critical cycle.
fn edge(before: Part, after: Part) -> Option<Edge> {
    match (before, before.last(), after.first()) {
        // Two loads do not order anything.
        (_, Access::R, Access::R) => None,
        (_, Access::W, Access::R) => Some(Edge::Rfe),
        // A store over the lone store could as well be over what that one overwrites.
        (Part::Lone, Access::W, Access::W) => None,
        (_, Access::R, Access::W) => Some(Edge::Fre),
        (_, Access::W, Access::W) => Some(Edge::Coe),
    }
}

/// The cycle of a row of threads, if the last one leads to the first one and it needs two variables.
fn close(row: &[Part]) -> Option<Cycle> {
    let mut edges = Vec::new();
    for (index, &part) in row.iter().enumerate() {
        if let Part::Pair(from, order, to) = part {
            edges.push(Edge::Po { order, location: Location::Different, from, to });
        }
        edges.push(edge(part, row[(index + 1) % row.len()])?);
    }
    Cycle::new(edges).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::name;

    #[test]
    fn the_two_thread_families_are_the_six_known_ones() {
        let names: BTreeSet<String> = critical_cycles(2, &[Order::Plain]).iter().map(name).collect();
        assert_eq!(names, ["2+2W", "LB", "MP", "R", "S", "SB"].map(str::to_owned).into());
    }

    #[test]
    fn no_thread_of_a_critical_cycle_can_be_left_out() {
        for cycle in critical_cycles(4, &[Order::Plain]) {
            assert_eq!(cycle.threads().len(), 4);
            assert!(cycle.edges().iter().filter(|edge| edge.changes_location()).count() >= 2, "{cycle}");
        }
    }
}
