//! How a mistake is built in: by changing a node before or after an event, or the actions that it asks for.

use super::super::cluster::Mutant;
use crate::ids::{Gfn, NodeId};
use crate::protocol::extent::Entry;
use crate::protocol::table::Place;
use crate::protocol::{Action, Event, Message, Node, Rights};

pub fn nothing_before(_: &mut Node, _: &Event) {}

fn nothing_after(_: &mut Node, _: &Event, _: &mut Vec<Action>) {}

/// A mistake made before an event is taken in.
pub const fn before(name: &'static str, before: fn(&mut Node, &Event)) -> Mutant {
    Mutant { name, before, after: nothing_after }
}

/// A mistake made after an event was taken in.
pub const fn after(name: &'static str, after: fn(&mut Node, &Event, &mut Vec<Action>)) -> Mutant {
    Mutant { name, before: nothing_before, after }
}

/// Whether an action sends a message of this kind.
pub fn is_sent(action: &Action, which: fn(&Message) -> bool) -> bool {
    matches!(action, Action::Send { message, .. } if which(message))
}

/// Whether an action sends a page.
pub fn is_page(action: &Action) -> bool {
    is_sent(action, Message::carries_page)
}

/// Changes every message that goes out.
pub fn rewrite(actions: &mut [Action], change: fn(&mut Message)) {
    for action in actions {
        if let Action::Send { message, .. } = action {
            change(message);
        }
    }
}

/// Sends messages of one kind to the node behind the right one.
pub fn misdirect(node: &Node, actions: &mut [Action], which: fn(&Message) -> bool) {
    for action in actions {
        if let Action::Send { to, message } = action {
            if which(message) {
                let next = |to: NodeId| NodeId((to.0 + 1) % node.nodes);
                *to = next(*to);
                if *to == node.me {
                    *to = next(*to);
                }
            }
        }
    }
}

/// Does not send messages of one kind.
pub fn lost(actions: &mut Vec<Action>, which: fn(&Message) -> bool) {
    actions.retain(|action| !is_sent(action, which));
}

/// Changes places of an action and the one before it, wherever both are of these kinds.
pub fn swap(actions: &mut [Action], first: fn(&Action) -> bool, second: fn(&Action) -> bool) {
    for at in 1..actions.len() {
        if first(&actions[at - 1]) && second(&actions[at]) {
            actions.swap(at - 1, at);
        }
    }
}

/// The page of a message that an event brings, and what the message says.
pub fn message(node: &Node, event: &Event) -> Option<(NodeId, Place, Message)> {
    let Event::Message { from, message } = *event else { return None };
    Some((from, node.place(message.gfn()).ok()?, message))
}

/// Changes the directory entry that a `Done` was about.
pub fn after_done(node: &mut Node, event: &Event, change: fn(&mut Entry, u8)) {
    let Some((_, place, Message::Done { .. })) = message(node, event) else { return };
    let nodes = node.nodes;
    if let Some(mut entry) = node.directory.entry_if_split(place) {
        change(&mut entry, nodes);
        node.directory.set_entry(place, entry);
    }
}

/// The node takes a page for its own to write.
pub fn believe_writable(node: &mut Node, gfn: Gfn) {
    if let Ok(place) = node.place(gfn) {
        node.pages.set_rights(place, Rights::Write, 0);
    }
}
