//! Mistakes about how long pages are kept and who goes first: nothing is ever wrong, but not everybody is served.

use super::tamper::{after, before, lost, message, rewrite};
use crate::protocol::tests::cluster::Mutant;
use crate::protocol::{Action, Event, Message, Node};

pub const MUTANTS: &[Mutant] = &[
    before("leases are ignored", leases_ignored),
    before("a lease begins again when its end is looked at", leases_begin_again),
    before("a torn collection does not make leases grow", collections_never_hold_on),
    after("everybody holds on against everybody", no_turns),
    after("nobody is told to hurry", nobody_hurried),
    before("a node never gives its turn back", turn_never_given_back),
    before("the home serves the latest turn first", latest_turn_first),
];

fn leases_ignored(node: &mut Node, event: &Event) {
    let order =
        matches!(message(node, event), Some((_, _, Message::Recall { .. } | Message::Invalidate { .. })));
    if order {
        node.pages.forget_times();
    }
}

fn leases_begin_again(node: &mut Node, event: &Event) {
    if *event == Event::Tick {
        let waiting: Vec<_> = node.deferred.iter().map(|deferred| deferred.place).collect();
        let due = node.next_deadline();
        for place in waiting {
            let rights = node.pages.rights(place);
            if !node.pages.is_whole(place) {
                node.pages.set_rights(place, rights, due.unwrap_or_default());
            }
        }
    }
}

fn collections_never_hold_on(node: &mut Node, event: &Event) {
    if let Event::Fault { gfn, .. } = *event {
        if let Ok(place) = node.place(gfn) {
            *node.pages.history_mut(place) = Default::default();
        }
    }
}

fn no_turns(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    rewrite(actions, |message| match message {
        Message::Recall { turn, .. } | Message::Invalidate { turn, .. } => {
            turn.0 = turn.0.wrapping_add(1 << 20);
        }
        _ => {}
    });
    lost(actions, |message| matches!(message, Message::Hurry { .. }));
}

fn nobody_hurried(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Hurry { .. }));
}

fn turn_never_given_back(node: &mut Node, event: &Event) {
    if matches!(event, Event::Fault { .. }) {
        node.leases.keep_turn();
    }
}

fn latest_turn_first(node: &mut Node, event: &Event) {
    if let Some((_, place, Message::Done { .. })) = message(node, event) {
        node.directory.latest_waits_first(place.gfn);
    }
}
