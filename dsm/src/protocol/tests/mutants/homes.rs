//! Mistakes about who is whose home, and when.

use super::tamper::{after, before, lost, message, rewrite};
use crate::ids::NodeId;
use crate::protocol::tests::cluster::Mutant;
use crate::protocol::{Action, DirectoryState, Event, Message, Node};

pub const MUTANTS: &[Mutant] = &[
    before("the new home serves before all know of it", served_too_early),
    after("an extent is handed over while something is under way", handed_over_while_busy),
    after("an entry of a directory is not handed over", entry_not_told),
    after("a whole extent is handed over as untouched", handed_over_as_untouched),
    after("one node is not told of the new home", a_node_not_told),
    after("a request that comes too late is not sent back", not_sent_back),
    before("requests that came early are forgotten", early_requests_forgotten),
    after("the old home does not hear that its successor is known", old_home_not_told),
    after("the new home does not hear that it is known", new_home_not_told),
    before("the home tries for ever to come to rest", never_serves_again),
    before("a page is left where it is when its node leaves", page_left_behind),
];

fn served_too_early(node: &mut Node, event: &Event) {
    if matches!(event, Event::Message { message: Message::NewHome { .. }, .. }) {
        node.handovers.believe_all_know(node.homes.members);
    }
}

fn handed_over_while_busy(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if let Event::HandOver { extent, .. } = *event {
        let Ok(place) = node.place(extent.first()) else { return };
        node.leave_at_once(place, actions);
    }
}

fn entry_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::DirectoryEntry { .. }));
}

fn handed_over_as_untouched(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    rewrite(actions, |message| {
        if let Message::Directory { state, .. } = message {
            if matches!(state, DirectoryState::Whole(_)) {
                *state = DirectoryState::Untouched;
            }
        }
    });
}

/// Takes out the first action that sends such a message to such a node.
fn lose_first(actions: &mut Vec<Action>, which: impl Fn(NodeId, &Message) -> bool) {
    let first = actions.iter().position(|action| match action {
        Action::Send { to, message } => which(*to, message),
        _ => false,
    });
    first.map(|at| actions.remove(at));
}

fn a_node_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lose_first(actions, |to, message| matches!(message, Message::NewHome { home, .. } if *home != to));
}

fn not_sent_back(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Moved { .. }));
}

fn early_requests_forgotten(node: &mut Node, _: &Event) {
    node.handovers.forget_early_requests();
}

fn old_home_not_told(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((from, _, Message::NewHome { .. })) = message(node, event) else { return };
    lose_first(actions, |to, message| to == from && matches!(message, Message::HomeKnown { .. }));
}

fn new_home_not_told(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((from, _, Message::NewHome { .. })) = message(node, event) else { return };
    lose_first(actions, |to, message| to != from && matches!(message, Message::HomeKnown { .. }));
}

fn never_serves_again(node: &mut Node, event: &Event) {
    if *event == Event::Tick {
        node.handovers.forget_deadlines();
    }
}

fn page_left_behind(node: &mut Node, _: &Event) {
    node.skip_one_to_drain();
}
