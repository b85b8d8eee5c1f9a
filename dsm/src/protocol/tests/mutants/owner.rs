//! Mistakes of the node that holds a page.

use super::tamper::{after, before, is_page, is_sent, lost, message, misdirect, swap};
use crate::ids::Gfn;
use crate::protocol::tests::cluster::Mutant;
use crate::protocol::{Access, Action, Event, Message, Node, Rights};

use Access::Read;

pub const MUTANTS: &[Mutant] = &[
    after("acknowledged before the copy is gone", acknowledged_before_discarded),
    after("acknowledged while the order still waits", acknowledged_while_deferred),
    after("the acknowledgement goes to the home", acknowledged_to_the_home),
    after("the acknowledgement is not sent", not_acknowledged),
    after("copy kept when invalidated", not_discarded_when_invalidated),
    after("copy kept when recalled for a write", not_discarded_when_recalled),
    after("copy given up when recalled for a read", discarded_when_recalled_for_a_read),
    after("page sent before it is protected", sent_before_protected),
    after("page sent without being protected", never_protected),
    after("page sent after it is discarded", sent_after_discard),
    after("page sent to another node", sent_to_another),
    after("owner writes on after a read recall", writable_again_after_a_read_recall),
    after("a grant is sent twice", granted_twice),
    after("the driver is not told of a split", split_not_told),
    after("the split forgets a page", split_forgets_a_page),
    after("the driver is not told of a merge", merge_not_told),
    before("a lent page is taken", lent_page_taken),
    before("one return counts for all borrows", one_return_counts_for_all),
    before("an order is forgotten when its time comes", order_forgotten_at_its_time),
    before("an order is forgotten when the page is returned", order_forgotten_at_the_return),
];

fn is_invalidated(action: &Action) -> bool {
    is_sent(action, |message| matches!(message, Message::Invalidated { .. }))
}

fn is_discard(action: &Action) -> bool {
    matches!(action, Action::Discard { .. })
}

fn is_protect(action: &Action) -> bool {
    matches!(action, Action::Protect { .. })
}

fn acknowledged_before_discarded(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    swap(actions, is_discard, is_invalidated);
}

fn acknowledged_while_deferred(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((_, place, Message::Invalidate { .. })) = message(node, event) else {
        return lost(actions, |message| matches!(message, Message::Invalidated { .. }));
    };
    if let Some(early) = node.deferred.get(place.gfn).and_then(|deferred| deferred.acknowledgement()) {
        actions.push(early);
    }
}

fn acknowledged_to_the_home(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Send { to, message: Message::Invalidated { gfn, .. } } = action {
            *to = node.place(*gfn).map_or(*to, |place| place.home);
        }
    }
}

fn not_acknowledged(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Invalidated { .. }));
}

fn not_discarded_when_invalidated(_: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if matches!(event, Event::Message { message: Message::Invalidate { .. }, .. }) {
        actions.retain(|action| !matches!(action, Action::Discard { .. }));
    }
}

fn not_discarded_when_recalled(_: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if matches!(event, Event::Message { message: Message::Recall { .. }, .. }) {
        actions.retain(|action| !matches!(action, Action::Discard { .. }));
    }
}

fn discarded_when_recalled_for_a_read(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let sent = |action: &Action| match *action {
        Action::Send { message: Message::Grant { gfn, rights: Read, page: true, .. }, .. } => Some(gfn),
        _ => None,
    };
    let gone: Vec<Gfn> = actions.iter().filter_map(sent).collect();
    for gfn in gone {
        if let Ok(place) = node.place(gfn) {
            node.pages.set_rights(place, Rights::None, 0);
            actions.push(Action::Discard { gfn });
        }
    }
}

fn sent_before_protected(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    swap(actions, is_protect, is_page);
}

fn never_protected(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !is_protect(action));
}

fn sent_after_discard(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    swap(actions, is_page, is_discard);
}

fn sent_to_another(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    misdirect(node, actions, Message::carries_page);
}

fn writable_again_after_a_read_recall(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let read = |action: &Action| is_sent(action, |m| matches!(m, Message::Grant { rights: Read, .. }));
    let protected = actions.iter().find_map(|action| match action {
        Action::Protect { gfn } => Some(*gfn),
        _ => None,
    });
    if let (Some(gfn), true) = (protected, actions.iter().any(read)) {
        actions.push(Action::Unprotect { gfn });
    }
}

fn granted_twice(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let again =
        actions.iter().find(|action| is_sent(action, |m| matches!(m, Message::Grant { .. }))).copied();
    if let Some(again) =
        again.filter(|_| actions.iter().all(|action| !matches!(action, Action::Discard { .. })))
    {
        actions.push(again);
    }
}

fn split_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::SplitExtent { .. }));
}

fn merge_not_told(_: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    if matches!(event, Event::Message { message: Message::Merge { .. }, .. }) {
        actions.retain(|action| !matches!(action, Action::OwnExtent { .. }));
    }
}

fn split_forgets_a_page(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let split = |action: &Action| match action {
        Action::SplitExtent { extent } => Some(*extent),
        _ => None,
    };
    let recalled = actions.iter().find_map(|action| match action {
        Action::Protect { gfn } => Some(*gfn),
        _ => None,
    });
    let Some(extent) = actions.iter().find_map(split) else { return };
    let other = extent.pages().find(|page| Some(*page) != recalled);
    if let Some(Ok(place)) = other.map(|gfn| node.place(gfn)) {
        node.pages.set_rights(place, Rights::None, 0);
    }
}

fn lent_page_taken(node: &mut Node, event: &Event) {
    if let Event::Message { message: Message::Recall { gfn, .. } | Message::Invalidate { gfn, .. }, .. } =
        *event
    {
        if let Ok(place) = node.place(gfn) {
            *node.pages.lent_mut(place) = 0;
        }
    }
}

fn one_return_counts_for_all(node: &mut Node, event: &Event) {
    let Event::Return { gfn } = *event else { return };
    if let Ok(place) = node.place(gfn) {
        let lent = node.pages.lent_mut(place);
        *lent = (*lent).min(1);
    }
}

fn order_forgotten_at_its_time(node: &mut Node, event: &Event) {
    if *event == Event::Tick {
        let first = node.deferred.iter().next().map(|deferred| deferred.place.gfn);
        first.and_then(|gfn| node.deferred.take(gfn));
    }
}

fn order_forgotten_at_the_return(node: &mut Node, event: &Event) {
    if let Event::Return { gfn } = *event {
        node.deferred.take(gfn);
    }
}
