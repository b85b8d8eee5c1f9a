//! From a cycle to the program that can show it.
//!
//! Accesses joined by edges that keep the location share a variable. Along such a run of accesses every store
//! overwrites the one before, and every load reads the last store before it (or what was there at first); what is left to
//! memory is the order along the threads, and whether that goes with the rest.

use crate::cycle::{Access, Cycle, Edge, Order};
use crate::test::{Condition, Fence, Kind, Observed, Op, Part, Term, Test, TestError, Variable};

/// One access of the cycle.
#[derive(Clone, Copy)]
struct Event {
    access: Access,
    variable: Variable,
    /// What it stores, or must load.
    value: u8,
    /// What stands between it and the thread's next access.
    then: Option<Order>,
}

/// The test whose condition is the cycle's outcome. Threads are numbered along the cycle, from the first that begins in
/// it.
///
/// # Errors
/// When the cycle needs more than a test may have.
pub fn test(name: impl Into<String>, cycle: &Cycle) -> Result<Test, TestError> {
    let begun = cycle.rotations().next().unwrap_or_else(|| cycle.clone());
    let events = events(begun.edges());
    let (mut threads, mut terms) = (vec![Vec::new()], Vec::new());
    for (event, edge) in events.iter().zip(begun.edges()) {
        let thread = threads.len() - 1;
        let ops: &mut Vec<Op> = &mut threads[thread];
        let op = op(event);
        if event.access == Access::R {
            let load = ops.iter().filter(|op| op.loaded().is_some()).count() as u8;
            let of = Observed::Load { thread: thread as u8, load };
            terms.push(Term { of, part: Part::Whole, value: event.value });
        }
        ops.push(op);
        match event.then {
            Some(Order::MFence) => ops.push(Op::Fence(Fence::MFence)),
            Some(Order::Lock) => ops.push(Op::Fence(Fence::Locked)),
            Some(Order::Plain | Order::Rmw) | None => {}
        }
        if edge.is_external() {
            threads.push(Vec::new());
        }
    }
    // The last edge leads back to the first thread.
    threads.pop();
    terms.extend(last_values(&events));
    Test::new(name, threads, Condition { kind: Kind::Exists, any: vec![terms] })
}

fn op(event: &Event) -> Op {
    let Event { variable, value, then, .. } = *event;
    match (event.access, then) {
        (Access::W, Some(Order::Rmw)) => Op::Exchange { variable, value },
        (Access::W, _) => Op::Store { variable, part: Part::Whole, value },
        (Access::R, Some(Order::Rmw)) => Op::LockedLoad { variable },
        (Access::R, _) => Op::Load { variable, part: Part::Whole },
    }
}

/// The accesses, event n being where edge n begins.
fn events(edges: &[Edge]) -> Vec<Event> {
    let count = edges.len();
    let before = |at: usize| edges[(at + count - 1) % count];
    // A run begins behind an edge that changes the location. If there is none, all is one run, which may be cut only where
    // the order is the program's own.
    let cut = (0..count)
        .find(|&at| before(at).changes_location())
        .or_else(|| (0..count).find(|&at| matches!(before(at), Edge::Po { .. })))
        .unwrap_or(0);
    let mut events = Vec::with_capacity(count);
    let (mut variable, mut value) = (0, 0);
    for at in (cut..cut + count).map(|at| at % count) {
        let edge = edges[at];
        let access = edge.from();
        value += u8::from(access == Access::W);
        let then = match edge {
            Edge::Po { order, .. } => Some(order),
            _ => None,
        };
        events.push(Event { access, variable: Variable(variable), value, then });
        if edge.changes_location() {
            (variable, value) = (variable + 1, 0);
        }
    }
    events.rotate_right(cut);
    renumber(&mut events);
    events
}

/// Numbers the variables in the order in which the program shows them.
fn renumber(events: &mut [Event]) {
    let mut known: Vec<Variable> = Vec::new();
    for event in events {
        let old = event.variable;
        let place = known.iter().position(|&variable| variable == old);
        event.variable = Variable(place.unwrap_or(known.len()) as u8);
        if place.is_none() {
            known.push(old);
        }
    }
}

/// Where several stores go to one variable, the last one in the run must be the one that stays.
fn last_values(events: &[Event]) -> Vec<Term> {
    let mut terms = Vec::new();
    let variables = events.iter().map(|event| event.variable.0).max().unwrap_or(0);
    for variable in (0..=variables).map(Variable) {
        let stores = || events.iter().filter(|event| event.variable == variable && event.access == Access::W);
        if stores().count() > 1 {
            let value = stores().map(|event| event.value).max().unwrap_or(0);
            terms.push(Term { of: Observed::Final(variable), part: Part::Whole, value });
        }
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(cycle: &str) -> String {
        test("", &cycle.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn each_kind_of_edge_becomes_what_it_says() {
        assert_eq!(made("PodWW Rfe PodRR Fre"), "x=1; y=1 | r0=y; r1=x | exists 1:r0=1 & 1:r1=0");
        assert_eq!(
            made("MFencedWR Fre LockdWR Fre"),
            "x=1; mfence; r0=y | y=1; lock; r0=x | exists 0:r0=0 & 1:r0=0"
        );
        assert_eq!(
            made("RmwdWR Fre RmwdWR Fre"),
            "r0=xchg x 1; r1=y | r0=xchg y 1; r1=x | exists 0:r1=0 & 1:r1=0"
        );
        assert_eq!(made("RmwdRR Fre PodWW Rfe"), "r0=xadd x; r1=y | y=1; x=1 | exists 0:r0=1 & 0:r1=0");
        assert_eq!(made("PodWW Coe PodWW Coe"), "x=2; y=1 | y=2; x=1 | exists x=2 & y=2");
    }
}
