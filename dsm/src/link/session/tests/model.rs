//! Every interleaving of small cases: two sides, a few frames each, links that break at every point.

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::pair::{Fault, Pair, Step, ACCEPTS, DIALS, FRAME_BYTES};

/// More steps than this: something grows without end.
const STATES_MAX: usize = 30_000_000;

/// How much may happen.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Frames of each side.
    pub frames: [u16; 2],
    /// Links that break by themselves.
    pub cuts: u32,
    /// Attempts to dial.
    pub attempts: u32,
    /// Whether a link may take half a frame.
    pub halves: bool,
}

/// A pair, and what was used up of the bounds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pair: Pair,
    cuts: u32,
    failure: Option<String>,
}

pub struct Sessions {
    bounds: Bounds,
    fault: Option<Fault>,
}

impl Sessions {
    /// How many attempts were made.
    fn attempts(&self, pair: &Pair) -> u32 {
        pair.last_epoch().0 - 1
    }

    /// Steps that bring the pair forward.
    fn progress(&self, state: &State, steps: &mut Vec<Step>) {
        let pair = &state.pair;
        for side in [DIALS, ACCEPTS] {
            let (end, most) = (&pair.ends[side], self.bounds.frames[side]);
            if end.queued < most {
                steps.push(Step::Queue { side, filler: 0 });
            }
            if end.session.has_pending() {
                steps.push(Step::Send { side, most: usize::MAX });
                let waiting: usize = end.session.pending().iter().map(|part| part.len()).sum();
                if self.bounds.halves && waiting > FRAME_BYTES / 2 {
                    steps.push(Step::Send { side, most: FRAME_BYTES / 2 });
                }
            }
            if pair.unit(side).is_some() {
                steps.push(Step::Take { side });
            }
            if end.session.owes_confirmation() {
                steps.push(Step::Confirm { side });
            }
            if pair.wire(side).is_some_and(|wire| wire.cut) {
                steps.push(Step::Notice { side });
            }
        }
        if pair.current.is_some() {
            steps.push(Step::Connected);
        }
        steps.extend(pair.attempts.iter().map(|attempt| Step::Arrive { epoch: attempt.epoch }));
        if pair.ends[DIALS].session.redial().is_some() && self.attempts(pair) < self.bounds.attempts {
            steps.push(Step::Dial);
        }
    }

    fn check(&self, state: &State) -> Result<(), String> {
        if state.pair.is_quiet() {
            return state.pair.check_settled();
        }
        let mut steps = vec![];
        self.progress(state, &mut steps);
        // With no attempts left a pair may stay apart.
        match steps.is_empty() && self.attempts(&state.pair) < self.bounds.attempts {
            true => Err("nothing can happen any more".into()),
            false => Ok(()),
        }
    }
}

const WRONG: &str = "exactly once, in order, and content in the end";

impl Model for Sessions {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State { pair: Pair::new(), cuts: 0, failure: None }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.failure.is_some() {
            return;
        }
        self.progress(state, steps);
        if state.cuts < self.bounds.cuts {
            let whole = state.pair.wires.iter().filter(|wire| !wire.cut);
            steps.extend(whole.map(|wire| Step::Cut { epoch: wire.epoch }));
        }
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        next.cuts += u32::from(matches!(step, Step::Cut { .. }));
        next.failure = next.pair.step(step, self.fault).and_then(|()| self.check(&next)).err();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(WRONG, |_, state: &State| state.failure.is_none()),
            Property::sometimes("an attempt is overtaken", |_, state: &State| {
                let accepted = state.pair.ends[ACCEPTS].session.epoch();
                state.pair.attempts.iter().any(|attempt| attempt.epoch < accepted)
            }),
            Property::sometimes("all is well on the last link", |model: &Sessions, state: &State| {
                state.pair.is_quiet() && model.attempts(&state.pair) == model.bounds.attempts
            }),
        ]
    }
}

/// Explores all of it, or until something is wrong; what was wrong.
pub fn explore(name: &str, bounds: Bounds, fault: Option<Fault>) -> Option<String> {
    let mut checker = Sessions { bounds, fault }.checker().threads(2).target_state_count(STATES_MAX);
    if fault.is_some() {
        checker = checker.finish_when(HasDiscoveries::AnyFailures);
    }
    let checker = checker.spawn_bfs().join();
    let failure = checker.discovery(WRONG).map(|path| {
        let failure = path.last_state().failure.clone().unwrap_or_default();
        let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
        format!("{failure}\n{}", steps.join("\n"))
    });
    assert!(checker.state_count() < STATES_MAX, "{name}: the states do not end");
    if fault.is_none() {
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        println!("{name}: {states} states, depth {depth}");
        for sometimes in ["an attempt is overtaken", "all is well on the last link"] {
            let possible = bounds.attempts > 1 || sometimes != "an attempt is overtaken";
            assert!(!possible || checker.discovery(sometimes).is_some(), "{name}: never: {sometimes}");
        }
    }
    failure
}

fn holds(name: &str, bounds: Bounds) {
    if let Some(failure) = explore(name, bounds, None) {
        panic!("{name}: {failure}");
    }
}

#[test]
fn one_frame_each_way_and_a_link_that_breaks_at_any_point() {
    holds("1+1 frames, 2 cuts", Bounds { frames: [1, 1], cuts: 2, attempts: 2, halves: true });
}

#[test]
fn frames_one_way() {
    holds("2+0 frames, 2 cuts", Bounds { frames: [2, 0], cuts: 2, attempts: 2, halves: false });
    holds("0+2 frames, 2 cuts", Bounds { frames: [0, 2], cuts: 2, attempts: 2, halves: false });
}

#[test]
fn three_attempts_that_overtake_each_other() {
    holds("1+0 frames, 3 attempts", Bounds { frames: [1, 0], cuts: 2, attempts: 3, halves: false });
}
