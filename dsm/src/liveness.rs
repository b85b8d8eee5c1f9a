//! Whether everybody is served in the end, by the whole graph of a model's states.
//!
//! What must hold in every state is seen state by state. That a request is *answered* is a property of runs, and those have no
//! end where the guest goes on touching pages. So the graph is kept, and three things are looked for:
//! - a **failure**, as the model says it of a state;
//! - a **dead end**: a state from which the system cannot come to rest by [duties](Kind::Duty) alone, that is, by what links,
//!   clocks and devices do anyway, nobody asking for anything more;
//! - an **unfair wait**: a cycle of states in all of which the same one waits, though every duty that is due all the way round
//!   is done on it. Others may go on asking for ever; what happens [seldom](Kind::Seldom) does not.
//!
//! A duty is done in the end if it stays due (weak fairness). Nothing is assumed of free choices.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::Model;

/// More states than this: some number grows without end.
const STATES_MAX: usize = 12_000_000;
/// No state.
const NONE: u32 = u32::MAX;

/// Who makes a step happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It happens in the end if it stays possible; up to 64 of them, by number.
    Duty(u8),
    /// It may happen as often as it likes, or never.
    Choice,
    /// It happens, but not for ever.
    Seldom,
}

/// A model whose runs are looked at.
pub trait Live: Model {
    /// What is wrong.
    fn failure<'a>(&self, state: &'a Self::State) -> Option<&'a str>;
    /// Whether nothing is under way.
    fn rests(&self, state: &Self::State) -> bool;
    /// Who waits, a bit each.
    fn waits(&self, state: &Self::State) -> u64;
    /// Who makes a step happen.
    fn kind(&self, step: &Self::Action) -> Kind;
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Explored {
    pub states: usize,
    pub steps: usize,
}

impl std::fmt::Display for Explored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Explored { states, steps } = self;
        write!(f, "{states} states, {steps} steps: all comes to rest, nobody waits for ever")
    }
}

/// Explores all of a model.
///
/// # Errors
/// What is wrong, and the steps that lead there.
pub fn check<M: Live>(model: &M) -> Result<Explored, String>
where
    M::State: Hash,
    M::Action: Clone + Debug,
{
    let graph = Graph::of(model)?;
    let wrong = graph.dead_end().map(|state| (state, "what is under way never comes to rest".to_owned()));
    let wrong = wrong
        .or_else(|| graph.unfair_wait().map(|(state, bit)| (state, format!("waiter {bit} is never served"))));
    match wrong {
        Some((state, why)) => Err(graph.story(model, state, &why)),
        None => Ok(Explored { states: graph.waits.len(), steps: graph.edges.len() }),
    }
}

/// One step from a state.
#[derive(Clone, Copy)]
struct Edge {
    to: u32,
    kind: Kind,
}

/// All states, by the order in which they were found, and the steps between them.
struct Graph {
    /// Where the steps of each state begin in `edges`; one more than there are states.
    first: Vec<u32>,
    edges: Vec<Edge>,
    rests: Vec<bool>,
    waits: Vec<u64>,
    /// From which state each was found.
    parent: Vec<u32>,
    digests: Vec<u64>,
}

fn digest(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// States found and not looked at.
struct Frontier<S> {
    numbers: HashMap<u64, u32>,
    states: VecDeque<S>,
}

impl Graph {
    fn of<M: Live>(model: &M) -> Result<Self, String>
    where
        M::State: Hash,
        M::Action: Clone + Debug,
    {
        let (first, edges, rests, waits) = (vec![0], vec![], vec![], vec![]);
        let mut graph = Graph { first, edges, rests, waits, parent: vec![], digests: vec![] };
        let mut frontier = Frontier { numbers: HashMap::new(), states: VecDeque::new() };
        for state in model.init_states() {
            graph.found(&mut frontier, state, NONE);
        }
        let (mut at, mut steps) = (0, vec![]);
        while let Some(state) = frontier.states.pop_front() {
            if let Some(why) = model.failure(&state) {
                return Err(graph.story(model, at, why));
            }
            graph.rests.push(model.rests(&state));
            graph.waits.push(model.waits(&state));
            model.actions(&state, &mut steps);
            for step in steps.drain(..) {
                let kind = model.kind(&step);
                if let Some(next) = model.next_state(&state, step) {
                    let to = graph.found(&mut frontier, next, at);
                    graph.edges.push(Edge { to, kind });
                }
            }
            graph.first.push(graph.edges.len() as u32);
            at += 1;
            assert!(graph.digests.len() < STATES_MAX, "the states do not end");
        }
        Ok(graph)
    }

    /// The number of a state, which is a new one if it was not seen before.
    fn found<S: Hash>(&mut self, frontier: &mut Frontier<S>, state: S, parent: u32) -> u32 {
        let digest = digest(&state);
        let next = self.digests.len() as u32;
        let number = *frontier.numbers.entry(digest).or_insert(next);
        if number == next {
            self.digests.push(digest);
            self.parent.push(parent);
            frontier.states.push_back(state);
        }
        number
    }

    fn edges_of(&self, state: u32) -> &[Edge] {
        let at = state as usize;
        &self.edges[self.first[at] as usize..self.first[at + 1] as usize]
    }

    fn states(&self) -> std::ops::Range<u32> {
        0..self.waits.len() as u32
    }

    /// A state from which duties alone lead to no rest.
    fn dead_end(&self) -> Option<u32> {
        let is_duty = |edge: &&Edge| matches!(edge.kind, Kind::Duty(_));
        let mut before: Vec<Vec<u32>> = vec![vec![]; self.waits.len()];
        for from in self.states() {
            self.edges_of(from).iter().filter(is_duty).for_each(|edge| before[edge.to as usize].push(from));
        }
        let mut comes_to_rest = self.rests.clone();
        let mut known: Vec<u32> = self.states().filter(|&state| self.rests[state as usize]).collect();
        while let Some(state) = known.pop() {
            for from in std::mem::take(&mut before[state as usize]) {
                if !std::mem::replace(&mut comes_to_rest[from as usize], true) {
                    known.push(from);
                }
            }
        }
        self.states().find(|&state| !comes_to_rest[state as usize])
    }

    /// A state on a fair cycle all the way round which somebody waits, and who.
    fn unfair_wait(&self) -> Option<(u32, u32)> {
        let anybody = self.waits.iter().fold(0, |all, waits| all | waits);
        let bits = (0..u64::BITS).filter(|bit| anybody >> bit & 1 == 1);
        bits.into_iter().find_map(|bit| {
            let component =
                Components::of(self, bit).into_iter().find(|component| self.is_fair(component, bit))?;
            Some((component[0], bit))
        })
    }

    /// The steps of a state after which `bit` still waits, but for those that end some time.
    fn stays(&self, state: u32, bit: u32) -> impl Iterator<Item = &Edge> {
        let waits = move |state: u32| self.waits[state as usize] >> bit & 1 == 1;
        self.edges_of(state).iter().filter(move |edge| waits(edge.to) && edge.kind != Kind::Seldom)
    }

    /// Whether a run can go round in these states for ever and do every duty that stays due.
    fn is_fair(&self, component: &[u32], bit: u32) -> bool {
        let within = |state: u32| component.binary_search(&state).is_ok();
        let duty = |edge: &Edge| match edge.kind {
            Kind::Duty(number) => 1 << number,
            _ => 0,
        };
        let (mut due, mut done, mut cycles) = (u64::MAX, 0, false);
        for &state in component {
            due &= self.edges_of(state).iter().fold(0, |all, edge| all | duty(edge));
            for edge in self.stays(state, bit).filter(|edge| within(edge.to)) {
                cycles = true;
                done |= duty(edge);
            }
        }
        cycles && due & !done == 0
    }

    /// How a state came about.
    fn story<M: Live>(&self, model: &M, to: u32, why: &str) -> String
    where
        M::State: Hash,
        M::Action: Clone + Debug,
    {
        let mut way = vec![to];
        while let Some(&parent) =
            way.last().map(|&last| &self.parent[last as usize]).filter(|&&at| at != NONE)
        {
            way.push(parent);
        }
        let mut story = vec![why.to_owned()];
        let last = way.pop().map(|first| self.digests[first as usize]);
        let mut state = model.init_states().into_iter().find(|state| Some(digest(state)) == last);
        for next in way.into_iter().rev() {
            let Some(at) = state.take() else { break };
            let mut steps = vec![];
            model.actions(&at, &mut steps);
            for step in steps {
                let reached = model.next_state(&at, step.clone());
                if let Some(reached) =
                    reached.filter(|reached| digest(reached) == self.digests[next as usize])
                {
                    story.push(format!("{step:?}"));
                    state = Some(reached);
                    break;
                }
            }
        }
        story.join("\n")
    }
}

/// Sets of states each of which leads to each other of its set while `bit` waits (Tarjan's algorithm, without recursion).
struct Components<'a> {
    graph: &'a Graph,
    bit: u32,
    /// When each state was first seen, from 1 on.
    seen: Vec<u32>,
    /// The earliest state on the stack that each is known to lead to.
    low: Vec<u32>,
    on_stack: Vec<bool>,
    stack: Vec<u32>,
    found: Vec<Vec<u32>>,
}

impl<'a> Components<'a> {
    fn of(graph: &'a Graph, bit: u32) -> Vec<Vec<u32>> {
        let count = graph.waits.len();
        let (seen, low, on_stack) = (vec![0; count], vec![0; count], vec![false; count]);
        let mut search = Components { graph, bit, seen, low, on_stack, stack: vec![], found: vec![] };
        let mut order = 0;
        for root in graph.states().filter(|&state| graph.waits[state as usize] >> bit & 1 == 1) {
            if search.seen[root as usize] == 0 {
                search.from(root, &mut order);
            }
        }
        search.found
    }

    fn enter(&mut self, state: u32, order: &mut u32) -> (u32, std::vec::IntoIter<u32>) {
        *order += 1;
        (self.seen[state as usize], self.low[state as usize]) = (*order, *order);
        self.on_stack[state as usize] = true;
        self.stack.push(state);
        let next: Vec<u32> = self.graph.stays(state, self.bit).map(|edge| edge.to).collect();
        (state, next.into_iter())
    }

    fn from(&mut self, root: u32, order: &mut u32) {
        let mut path = vec![self.enter(root, order)];
        while let Some((state, next)) = path.last_mut() {
            let at = *state as usize;
            match next.next() {
                Some(to) if self.seen[to as usize] == 0 => path.push(self.enter(to, order)),
                Some(to) if self.on_stack[to as usize] => {
                    self.low[at] = self.low[at].min(self.seen[to as usize]);
                }
                Some(_) => {}
                None => {
                    path.pop();
                    if let Some((parent, _)) = path.last() {
                        let parent = *parent as usize;
                        self.low[parent] = self.low[parent].min(self.low[at]);
                    }
                    if self.low[at] == self.seen[at] {
                        self.leave(at as u32);
                    }
                }
            }
        }
    }

    /// All above `root` on the stack is one set.
    fn leave(&mut self, root: u32) {
        let from = self.stack.iter().rposition(|&state| state == root).unwrap_or(0);
        let mut component = self.stack.split_off(from);
        component.iter().for_each(|&state| self.on_stack[state as usize] = false);
        component.sort_unstable();
        self.found.push(component);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model that is a list of steps: from, to, kind. State 0 comes first and rests; in states above 9 somebody waits.
    struct List(&'static [(u32, u32, Kind)]);

    impl Model for List {
        type State = u32;
        type Action = (u32, Kind);

        fn init_states(&self) -> Vec<u32> {
            vec![0]
        }

        fn actions(&self, state: &u32, steps: &mut Vec<(u32, Kind)>) {
            steps.extend(self.0.iter().filter(|(from, ..)| from == state).map(|&(_, to, kind)| (to, kind)));
        }

        fn next_state(&self, _: &u32, (to, _): (u32, Kind)) -> Option<u32> {
            Some(to)
        }
    }

    impl Live for List {
        fn failure<'a>(&self, state: &'a u32) -> Option<&'a str> {
            (*state == 99).then_some("ninety-nine")
        }

        fn rests(&self, state: &u32) -> bool {
            *state == 0
        }

        fn waits(&self, state: &u32) -> u64 {
            u64::from(*state > 9)
        }

        fn kind(&self, (_, kind): &(u32, Kind)) -> Kind {
            *kind
        }
    }

    use Kind::{Choice, Duty, Seldom};

    fn wrong(steps: &'static [(u32, u32, Kind)]) -> String {
        check(&List(steps)).expect_err("something is wrong")
    }

    #[test]
    fn who_is_served_by_duties_alone_is_served() {
        let explored = check(&List(&[(0, 10, Choice), (10, 11, Duty(0)), (11, 0, Duty(1))]));
        assert_eq!(explored, Ok(Explored { states: 3, steps: 3 }));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_steps_to_it() {
        assert_eq!(wrong(&[(0, 5, Choice), (5, 99, Duty(3))]), "ninety-nine\n(5, Choice)\n(99, Duty(3))");
    }

    #[test]
    fn what_only_a_free_choice_ends_is_a_dead_end() {
        let story = wrong(&[(0, 10, Choice), (10, 11, Duty(0)), (11, 0, Choice)]);
        assert!(story.starts_with("what is under way never comes to rest\n(10, Choice)"), "{story}");
        wrong(&[(0, 5, Choice), (5, 6, Duty(0)), (6, 5, Duty(0))]);
    }

    #[test]
    fn who_is_overtaken_for_ever_is_found() {
        // Duty 0 is done all the time, always for somebody else.
        let story = wrong(&[(0, 10, Choice), (10, 11, Choice), (11, 10, Duty(0)), (10, 0, Duty(0))]);
        assert!(story.starts_with("waiter 0 is never served"), "{story}");
    }

    #[test]
    fn a_duty_that_stays_due_is_done() {
        let list =
            &[(0, 10, Choice), (10, 11, Choice), (11, 10, Duty(0)), (10, 0, Duty(1)), (11, 0, Duty(1))];
        assert!(check(&List(list)).is_ok());
    }

    #[test]
    fn what_happens_seldom_does_not_go_on_for_ever() {
        assert!(
            check(&List(&[(0, 10, Choice), (10, 11, Seldom), (11, 10, Duty(0)), (10, 0, Duty(0))])).is_ok()
        );
    }
}
