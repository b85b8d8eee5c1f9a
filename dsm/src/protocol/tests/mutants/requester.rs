//! Mistakes of the node that asks for a page.

use super::tamper::{after, before, believe_writable, is_sent, lost, message, misdirect};
use crate::protocol::tests::cluster::Mutant;
use crate::protocol::{Access, Action, Contents, Event, Message, Node, Rights};

use Access::{Read, Write};

pub const MUTANTS: &[Mutant] = &[
    after("writable before all acknowledgements", writable_before_acknowledgements),
    after("upgraded before all acknowledgements", upgraded_before_acknowledgements),
    before("one acknowledgement counts for two", one_counts_for_two),
    before("acknowledgements that come before the grant are forgotten", early_acknowledgements_forgotten),
    after("zeros installed instead of the page", zeros_instead_of_the_page),
    after("a page that came to be read is writable", read_grant_writable),
    after("a page given to write is put in to be read", given_page_only_read),
    after("nobody woken by an install", not_woken),
    after("woken before the last acknowledgement", woken_too_early),
    after("an upgrade is not told to the driver", not_unprotected),
    after("a fault on what is there is not woken", spurious_fault_not_woken),
    after("done is never said", done_not_said),
    after("done is said at the grant, not at the last acknowledgement", done_at_the_grant),
    after("done is said twice", done_twice),
    after("done is said to another node", done_to_another),
    after("the write that joined a read is forgotten", second_request_forgotten),
    after("a borrow that waited is not lent", waiting_borrow_not_lent),
    after("a page is lent before it may be written", lent_too_early),
];

fn writable_before_acknowledgements(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { gfn, contents, wake: false, .. } = *action {
            *action = Action::Install { gfn, rights: Write, contents, wake: true };
            believe_writable(node, gfn);
        }
    }
}

fn upgraded_before_acknowledgements(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if let Event::Message { message: Message::Grant { gfn, page: false, .. }, .. } = *event {
        if node.rights(gfn) == Rights::Read {
            actions.push(Action::Unprotect { gfn });
            believe_writable(node, gfn);
        }
    }
}

fn one_counts_for_two(node: &mut Node, event: &Event) {
    let Some((from, place, Message::Invalidated { .. })) = message(node, event) else { return };
    let nodes = node.nodes;
    if let Some(wanted) = node.wanted.get_mut(place.gfn) {
        wanted.acks_mut().insert(crate::ids::NodeId((from.0 + 1) % nodes));
    }
}

fn early_acknowledgements_forgotten(node: &mut Node, event: &Event) {
    let Some((_, place, Message::Grant { .. })) = message(node, event) else { return };
    if let Some(wanted) = node.wanted.get_mut(place.gfn) {
        *wanted.acks_mut() = crate::ids::NodeSet::EMPTY;
    }
}

fn zeros_instead_of_the_page(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { contents, .. } = action {
            *contents = Contents::Zero;
        }
    }
}

fn read_grant_writable(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { gfn, rights: Read, contents, wake: true } = *action {
            *action = Action::Install { gfn, rights: Write, contents, wake: true };
            believe_writable(node, gfn);
        }
    }
}

fn given_page_only_read(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { rights, .. } = action {
            *rights = Read;
        }
    }
}

fn not_woken(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { wake, .. } = action {
            *wake = false;
        }
    }
}

fn woken_too_early(_: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let waits = |action: &Action| matches!(action, Action::Install { wake: false, .. });
    let Event::Message { message: Message::Grant { gfn, .. }, .. } = *event else { return };
    if actions.iter().any(waits) {
        actions.push(Action::Wake { gfn, rights: Write });
    }
}

fn not_unprotected(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::Unprotect { .. }));
}

fn spurious_fault_not_woken(_: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if !matches!(event, Event::Fault { .. }) {
        return;
    }
    actions.retain(|action| !matches!(action, Action::Wake { .. }));
}

fn done_not_said(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Done { .. }));
}

fn done_at_the_grant(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Event::Message { message, .. } = *event else { return };
    let is_done = |action: &Action| is_sent(action, |m| matches!(m, Message::Done { .. }));
    match message {
        Message::Invalidated { .. } => actions.retain(|action| !is_done(action)),
        Message::Grant { gfn, txn, .. } if !actions.iter().any(is_done) => {
            let home = node.place(gfn).ok().map(|place| place.home).filter(|home| *home != node.me);
            let done = Message::Done { gfn, txn };
            actions.extend(home.map(|to| Action::Send { to, message: done }));
        }
        _ => {}
    }
}

fn done_twice(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let done = |action: &&Action| is_sent(action, |m| matches!(m, Message::Done { .. }));
    let again: Vec<Action> = actions.iter().filter(done).copied().collect();
    actions.extend(again);
}

fn done_to_another(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    misdirect(node, actions, |message| matches!(message, Message::Done { .. }));
}

fn second_request_forgotten(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Request { held: true, .. }));
}

fn waiting_borrow_not_lent(_: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if matches!(event, Event::Message { .. }) {
        actions.retain(|action| !matches!(action, Action::Lend { .. }));
    }
}

fn lent_too_early(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Event::Borrow { gfn, access: Write } = *event else { return };
    let lends = actions.iter().any(|action| matches!(action, Action::Lend { .. }));
    if node.rights(gfn) == Rights::Read && !lends {
        actions.push(Action::Lend { gfn, access: Write });
    }
}
