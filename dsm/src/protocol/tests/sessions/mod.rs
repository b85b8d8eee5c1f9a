//! Two nodes whose messages go over a session, with links that break at any time and are made anew: every interleaving.
//!
//! Both cores are the product's, [`Node`](crate::protocol::Node) and [`Session`]. Of the session's bytes only the
//! positions matter here, so a frame is one byte long and what it says lies beside it (`session/tests/model.rs` breaks links in
//! the middle of frames). What is on a link that breaks may still come, up to any frame; each side notices in its own time; an
//! attempt to dial may be lost, late, given up, or overtaken by the next. What the nodes do and how much they say is not bounded:
//! positions and epochs are counted from the oldest that somebody may still name, so that the states have an end all the same.
//! How often links break by themselves is.

mod mistakes;
mod net;

use stateright::Model;

use super::cluster::Shape;
use super::model::{self, with_habits, with_merges, Protocol, System};
use crate::liveness::{self, Kind, Live};
use mistakes::Mistake;
use net::{Bounds, Move, Net, ACCEPTS, DIALS};

/// Two nodes and what is between them.
#[derive(Clone, PartialEq, Hash, Debug)]
struct State {
    system: System,
    net: Net,
    failure: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// A guest, a device or a clock of a node does something.
    Node(model::Step),
    /// Something happens to the link, or comes over it.
    Net(Move),
}

/// The model.
struct OverLinks {
    protocol: Protocol,
    bounds: Bounds,
    mistake: Option<Mistake>,
}

impl OverLinks {
    fn new(shape: Shape, bounds: Bounds) -> Self {
        OverLinks { protocol: Protocol::new(shape), bounds, mistake: None }
    }

    fn take(&self, state: &mut State, step: Step) -> Result<(), String> {
        match step {
            Step::Node(step) => {
                self.protocol.take(&mut state.system, step)?;
                if let model::Step::Store { page, .. } = step {
                    state.net.outdate(self.protocol.gfn(page));
                }
            }
            Step::Net(step) => {
                if let Some(packet) = state.net.take(step, self.mistake)? {
                    let Move::Take { side } = step else { return Ok(()) };
                    let (from, to) = (1 - side, side);
                    state.system.link_mut(from, to).push_back(packet);
                    self.protocol.take(&mut state.system, model::Step::Deliver { from, to })?;
                }
            }
        }
        for from in [ACCEPTS, DIALS] {
            for packet in std::mem::take(state.system.link_mut(from, 1 - from)) {
                state.net.send(from, packet, self.mistake)?;
            }
        }
        state.net.come_to_order(self.mistake);
        Ok(())
    }

    /// Neither node has anything to do, and everything that was said has been heard.
    fn is_quiet(&self, state: &State) -> bool {
        self.protocol.is_quiet(&state.system) && state.net.all_has_come()
    }
}

impl Model for OverLinks {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let systems = self.protocol.init_states().into_iter();
        systems.map(|system| State { system, net: Net::new(self.bounds), failure: None }).collect()
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.failure.is_some() {
            return;
        }
        let mut own = vec![];
        self.protocol.actions(&state.system, &mut own);
        steps.extend(own.into_iter().map(Step::Node));
        steps.extend(state.net.moves(self.mistake).into_iter().map(Step::Net));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        if let Err(why) = self.take(&mut next, step) {
            next.failure = Some(why);
        } else if self.is_quiet(&next) {
            next.failure = self.protocol.is_settled(&next.system).err();
        }
        Some(next)
    }
}

impl Live for OverLinks {
    fn failure<'a>(&self, state: &'a State) -> Option<&'a str> {
        state.failure.as_deref()
    }

    fn rests(&self, state: &State) -> bool {
        self.is_quiet(state) && state.net.rests()
    }

    fn waits(&self, state: &State) -> u64 {
        self.protocol.waits(&state.system)
    }

    fn kind(&self, step: &Step) -> Kind {
        match step {
            Step::Node(step) => self.protocol.kind(step),
            Step::Net(step) => step.kind(),
        }
    }
}

/// Whether all of the model is as it should be; says how much there was.
fn holds(name: &str, shape: Shape, bounds: Bounds) {
    let model = OverLinks::new(shape, bounds);
    let explored = liveness::check(&model).unwrap_or_else(|story| panic!("{name}: {story}"));
    println!("{name}: {explored}");
    assert!(explored.states > 10_000, "{name}: only {} states", explored.states);
}

const ONE_CUT: Bounds = Bounds { cuts: Some(1), attempts: 2 };
const TWO_CUTS: Bounds = Bounds { cuts: Some(2), attempts: 1 };
const TWO_CUTS_OVERTAKEN: Bounds = Bounds { cuts: Some(2), attempts: 2 };

#[test]
fn two_nodes_over_a_link_that_breaks_when_the_acceptor_is_the_home() {
    holds("2 nodes, 1 page, 1 cut", Shape::new(2, &[0], 1), ONE_CUT);
}

#[test]
fn two_nodes_over_a_link_that_breaks_when_the_dialler_is_the_home() {
    holds("2 nodes, 1 page, 1 cut, the other home", Shape::new(2, &[1], 1), ONE_CUT);
}

#[test]
fn two_nodes_over_a_link_that_breaks_with_merges() {
    holds("2 nodes, 1 page, merges, 1 cut", with_merges(Shape::new(2, &[0], 1)), ONE_CUT);
}

#[test]
fn two_nodes_over_a_link_that_breaks_with_habits() {
    holds("2 nodes, 1 page, habits, 1 cut", with_habits(Shape::new(2, &[0], 1)), ONE_CUT);
}

#[test]
fn two_nodes_over_links_that_break_twice() {
    holds("2 nodes, 1 page, 2 cuts", Shape::new(2, &[0], 1), TWO_CUTS);
}

#[test]
fn two_nodes_over_links_that_break_twice_while_attempts_overtake_each_other() {
    holds("2 nodes, 1 page, 2 cuts, attempts overtaken", Shape::new(2, &[0], 1), TWO_CUTS_OVERTAKEN);
}

#[test]
fn every_mistake_with_links_is_caught() {
    for mistake in mistakes::ALL {
        let model = OverLinks { mistake: Some(mistake), ..OverLinks::new(Shape::new(2, &[0], 1), TWO_CUTS) };
        let story = liveness::check(&model).err();
        let why = story.as_deref().and_then(|story| story.lines().next()).unwrap_or("nothing");
        println!("{mistake:?}: {why}");
        assert!(story.is_some(), "{mistake:?} is not caught");
    }
}
