//! Proof that the checks would see a mistake: nodes with one mistake each, all of which must be caught.
//!
//! A mistake is built in from outside, by changing a node's state before or after an event, or the actions that it asks
//! for. The product contains no trace of it.

// All mistakes have one signature, also those that add or take no action.
#![allow(clippy::ptr_arg)]

use super::cluster::{Fault, Shape};
use super::model::{explore, Protocol};
use super::simulation::{contend, simulate, Plan};
use crate::ids::{Gfn, NodeId, NodeSet};
use crate::protocol::directory::Entry;
use crate::protocol::{Access, Action, Contents, Event, Message, Node, Rights};

use Access::{Read, Write};

fn nothing_before(_: &mut Node, _: &Event) {}

fn nothing_after(_: &mut Node, _: &Event, _: &mut Vec<Action>) {}

fn is_sent(action: &Action, which: fn(&Message) -> bool) -> bool {
    matches!(action, Action::Send { message, .. } if which(message))
}

/// Changes every message that goes out.
fn rewrite(actions: &mut [Action], change: fn(&mut Message)) {
    for action in actions {
        if let Action::Send { message, .. } = action {
            change(message);
        }
    }
}

/// Changes the directory entry that a `Done` was about.
fn after_done(node: &mut Node, event: &Event, change: fn(&mut Entry, u8)) {
    let Event::Message { message: Message::Done { gfn, .. }, .. } = *event else { return };
    let Ok(place) = node.place(gfn) else { return };
    let nodes = node.nodes;
    if let Some(entry) = node.directory.entry_if_split(place) {
        change(entry, nodes);
    }
}

fn believe_writable(node: &mut Node, gfn: Gfn) {
    if let Ok(place) = node.place(gfn) {
        node.pages.set_rights(place, Rights::Write, 0);
    }
}

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

fn expect_fewer_acknowledgements(actions: &mut [Action]) {
    rewrite(actions, |message| match message {
        Message::Recall { acks, .. } | Message::Grant { page: false, acks, .. } => {
            *acks = acks.saturating_sub(1);
        }
        _ => {}
    });
}

fn too_few_acknowledgements(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    expect_fewer_acknowledgements(actions);
}

fn a_sharer_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let told = |action: &Action| is_sent(action, |m| matches!(m, Message::Invalidate { .. }));
    if let Some(at) = actions.iter().position(told) {
        actions.remove(at);
        expect_fewer_acknowledgements(actions);
    }
}

fn acknowledged_before_discarded(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let sent = |action: &Action| is_sent(action, |m| matches!(m, Message::Invalidated { .. }));
    for at in 1..actions.len() {
        if sent(&actions[at]) && matches!(actions[at - 1], Action::Discard { .. }) {
            actions.swap(at - 1, at);
        }
    }
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

fn sent_unprotected(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for at in 1..actions.len() {
        if actions[at].is_page() && matches!(actions[at - 1], Action::Protect { .. }) {
            actions.swap(at - 1, at);
        }
    }
}

fn sent_after_discard(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for at in 1..actions.len() {
        if actions[at - 1].is_page() && matches!(actions[at], Action::Discard { .. }) {
            actions.swap(at - 1, at);
        }
    }
}

impl Action {
    fn is_page(&self) -> bool {
        is_sent(self, Message::carries_page)
    }
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

fn zeros_instead_of_the_page(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { contents, .. } = action {
            *contents = Contents::Zero;
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

fn spurious_fault_not_woken(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::Wake { .. }));
}

fn lost(actions: &mut Vec<Action>, which: fn(&Message) -> bool) {
    actions.retain(|action| !is_sent(action, which));
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

fn overtaken_request_not_answered(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::AlreadyYours { .. }));
}

fn second_request_forgotten(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Request { held: true, .. }));
}

fn waiting_request_dropped(node: &mut Node, event: &Event) {
    if let Event::Message { message: Message::Done { gfn, .. }, .. } = *event {
        node.directory.forget_waiting(gfn);
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

fn extent_granted_again(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Send { message: Message::GrantExtent { gfn, .. }, .. } = *action {
            if let Ok(place) = node.place(gfn) {
                node.directory.forget_extent(place.extent);
            }
        }
    }
}

fn split_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::SplitExtent { .. }));
}

fn reader_forgotten(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    after_done(node, event, |entry, _| {
        if let Entry::Shared(set) = *entry {
            *entry = Entry::Exclusive(set.first().unwrap_or(NodeId(0)));
        }
    });
}

fn last_sharer_forgotten(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    after_done(node, event, |entry, _| {
        if let Entry::Shared(set) = entry {
            if let Some(last) = set.iter().last().filter(|_| set.len() > 2) {
                set.remove(last);
            }
        }
    });
}

fn wrong_owner_recorded(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    after_done(node, event, |entry, nodes| {
        if let Entry::Exclusive(owner) = entry {
            *owner = NodeId((owner.0 + 1) % nodes);
        }
    });
}

fn held_believed(node: &mut Node, event: &Event) {
    let Event::Message { from, message: Message::Request { gfn, held: true, .. } } = *event else { return };
    let Ok(place) = node.place(gfn) else { return };
    if let Some(entry) = node.directory.entry_if_split(place) {
        let mut set = match *entry {
            Entry::Exclusive(owner) => NodeSet::only(owner),
            Entry::Shared(set) => set,
        };
        set.insert(from);
        if set.len() > 1 {
            *entry = Entry::Shared(set);
        }
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

fn deferred_order_forgotten(node: &mut Node, event: &Event) {
    if *event == Event::Tick {
        let first = node.deferred.iter().next().map(|deferred| deferred.place.gfn);
        first.and_then(|gfn| node.deferred.take(gfn));
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

const fn before(name: &'static str, before: fn(&mut Node, &Event)) -> Fault {
    Fault { name, before, after: nothing_after }
}

const fn after(name: &'static str, after: fn(&mut Node, &Event, &mut Vec<Action>)) -> Fault {
    Fault { name, before: nothing_before, after }
}

/// The mistakes.
const MUTANTS: &[Fault] = &[
    after("writable before all acknowledgements", writable_before_acknowledgements),
    after("upgraded before all acknowledgements", upgraded_before_acknowledgements),
    after("one acknowledgement too few is waited for", too_few_acknowledgements),
    after("one sharer is not told to give up", a_sharer_not_told),
    after("acknowledged before the copy is gone", acknowledged_before_discarded),
    after("copy kept when invalidated", not_discarded_when_invalidated),
    after("copy kept when recalled for a write", not_discarded_when_recalled),
    after("page sent before it is protected", sent_unprotected),
    after("page sent after it is discarded", sent_after_discard),
    after("owner writes on after a read recall", writable_again_after_a_read_recall),
    after("zeros installed instead of the page", zeros_instead_of_the_page),
    after("nobody woken by an install", not_woken),
    after("a fault on what is there is not woken", spurious_fault_not_woken),
    after("done is never said", done_not_said),
    after("done is said at the grant, not at the last acknowledgement", done_at_the_grant),
    after("an overtaken request is not answered", overtaken_request_not_answered),
    after("the write that joined a read is forgotten", second_request_forgotten),
    before("a waiting request is dropped", waiting_request_dropped),
    after("a grant is sent twice", granted_twice),
    after("an extent is granted again", extent_granted_again),
    after("the driver is not told of a split", split_not_told),
    after("a new reader is not recorded", reader_forgotten),
    after("the last of three sharers is forgotten", last_sharer_forgotten),
    after("the wrong owner is recorded", wrong_owner_recorded),
    before("the requester's word that it holds a copy is believed", held_believed),
    before("a lent page is taken", lent_page_taken),
    before("a deferred order is forgotten", deferred_order_forgotten),
    before("a torn collection does not make leases grow", collections_never_hold_on),
    after("everybody holds on against everybody", no_turns),
];

/// The mistake of this name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> Option<Fault> {
    let found = MUTANTS.iter().find(|mutant| mutant.name == name).copied();
    assert!(found.is_some(), "there is no mutant called {name:?}");
    found
}

/// Who caught a mutant, in the order of cost.
fn caught_by(mutant: Fault) -> Vec<&'static str> {
    let mut catchers = vec![];
    let model = |shape: Shape| Protocol::new(shape).with_fault(mutant);
    if explore("2 nodes", model(Shape::new(2, &[0], 1))).failure.is_some() {
        catchers.push("model of 2 nodes");
    } else if explore("3 nodes", model(Shape::new(3, &[0], 1))).failure.is_some() {
        catchers.push("model of 3 nodes");
    }
    if (1..=60).any(|seed| simulate(&Plan::random(seed, 2..=8, 600), Some(mutant)).is_err()) {
        catchers.push("simulator");
    }
    if contend(8, 4, 20_000, Some(mutant)).is_err() {
        catchers.push("contention");
    }
    catchers
}

#[test]
fn every_mutant_is_caught() {
    let mut survivors = vec![];
    for &mutant in MUTANTS {
        let catchers = caught_by(mutant);
        println!("{}: {}", mutant.name, catchers.join(", "));
        if catchers.is_empty() {
            survivors.push(mutant.name);
        }
    }
    assert!(survivors.is_empty(), "{} of {} survive: {survivors:#?}", survivors.len(), MUTANTS.len());
}

#[test]
fn without_a_mistake_nothing_is_caught() {
    assert!(caught_by(before("none", nothing_before)).is_empty());
}
