//! Proof that the checks would see a mistake: nodes with one mistake each, all of which must be caught.
//!
//! A mistake is built in from outside, by changing a node's state before or after an event, or the actions that it asks
//! for. The product contains no trace of it.

// All mistakes have one signature, also those that add or take no action.
#![allow(clippy::ptr_arg)]

use super::cluster::{Fault, Shape, SEGMENT};
use super::model::{explore, Bounds, Protocol};
use super::simulation::simulate;
use crate::ids::{NodeId, NodeSet};
use crate::release::segment::{Role, Segment};
use crate::release::serve::{Round, Served};
use crate::release::{Access, Action, Contents, Event, Held, Message, Node, Outcome, PageIndex};

fn nothing_before(_: &mut Node, _: &Event) {}

fn nothing_after(_: &mut Node, _: &Event, _: &mut Vec<Action>) {}

fn segment(node: &mut Node) -> Option<&mut Segment> {
    node.segments.get_mut(&SEGMENT)
}

fn served(node: &mut Node) -> Option<&mut Served> {
    segment(node).and_then(Segment::served)
}

fn is_sent(action: &Action, which: fn(&Message) -> bool) -> bool {
    matches!(action, Action::Send { message, .. } if which(message))
}

fn lost(actions: &mut Vec<Action>, which: fn(&Message) -> bool) {
    actions.retain(|action| !is_sent(action, which));
}

/// Lets a later action go before the one that comes first.
fn swap(actions: &mut [Action], first: fn(&Action) -> bool, later: fn(&Action) -> bool) {
    let at = actions.iter().position(first);
    if let Some(at) = at {
        if let Some(behind) = actions[at..].iter().position(later) {
            actions.swap(at, at + behind);
        }
    }
}

/// The page of a message of one kind that is taken in.
fn taken_in(event: &Event, which: fn(&Message) -> bool) -> Option<(NodeId, PageIndex)> {
    match event {
        Event::Message { from, message } if which(message) => message.page().map(|page| (*from, page)),
        _ => None,
    }
}

fn is_diff(message: &Message) -> bool {
    matches!(message, Message::Diff { changed: true, .. })
}

fn is_invalidate(message: &Message) -> bool {
    matches!(message, Message::Invalidate { .. })
}

fn is_invalidated(message: &Message) -> bool {
    matches!(message, Message::Invalidated { .. })
}

fn sent_unprotected(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    swap(actions, |a| matches!(a, Action::Protect { .. }), |a| is_sent(a, is_diff));
}

fn settled_before_sent(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    swap(actions, |a| is_sent(a, is_diff), |a| matches!(a, Action::Settle { .. }));
}

fn never_settled(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::Settle { .. }));
}

fn acknowledged_before_discarded(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    swap(actions, |a| matches!(a, Action::Discard { .. }), |a| is_sent(a, is_invalidated));
}

fn kept_when_invalidated(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::Discard { .. }));
}

fn changes_not_set_aside(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::SetAside { segment: id, page } = *action {
            *action = Action::Settle { segment: id, page };
            if let Some(segment) = segment(node) {
                segment.hold(page, Held::None);
            }
        }
    }
}

fn changes_not_made_again(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Merge { segment, page } = *action {
            let (rights, contents) = (Access::Write, Contents::Received);
            *action = Action::Install { segment, page, rights, contents };
        }
    }
}

fn differences_not_applied(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    actions.retain(|action| !matches!(action, Action::Apply { .. }));
}

fn zeros_instead_of_the_page(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Install { contents, .. } = action {
            *contents = Contents::Zero;
        }
    }
}

fn released_at_once(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let (Event::Release { .. }, Some(segment)) = (event, segment(node)) else { return };
    while let Some(ticket) = segment.releases.pop() {
        let outcome = Outcome::Visible;
        actions.extend(ticket.map(|ticket| Action::Released { segment: SEGMENT, ticket, outcome }));
    }
}

fn released_when_nothing_is_dirty(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Event::Release { ticket, .. } = *event else { return };
    if actions.is_empty() && segment(node).is_some_and(|segment| segment.dirty.is_empty()) {
        if let Some(segment) = segment(node) {
            segment.releases.forget_last();
        }
        actions.push(Action::Released { segment: SEGMENT, ticket, outcome: Outcome::Visible });
    }
}

fn a_dirty_page_forgotten(node: &mut Node, event: &Event) {
    if let (Event::Release { .. }, Some(segment)) = (event, segment(node)) {
        segment.dirty.pop_first();
    }
}

fn sent_while_the_page_is_fetched(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let (Event::Release { .. }, Some(found)) = (event, segment(node)) else { return };
    let owner = found.owner;
    let pages: Vec<PageIndex> = found.dirty.iter().copied().collect();
    for page in pages {
        let Some(need) = found.needs.get_mut(&page) else { continue };
        if need.fetching && need.diffing.is_none() && need.flush.is_some() {
            need.diffing = need.flush.take();
            let message = Message::Diff { segment: SEGMENT, page, changed: true };
            actions.push(Action::Send { to: owner, message });
            actions.push(Action::Settle { segment: SEGMENT, page });
            found.hold(page, Held::None);
        }
    }
}

fn answered_before_copies_are_gone(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((from, page)) = taken_in(event, is_diff) else { return };
    let rounds = served(node).and_then(|served| served.rounds.get_mut(&page));
    for round in rounds.into_iter().flatten().filter(|round| round.by == from) {
        // Nobody gets the answer when the copies are gone.
        round.by = NodeId(31);
        actions.push(Action::Send { to: from, message: Message::Applied { segment: SEGMENT, page } });
    }
}

fn a_reader_not_told(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let Some(at) = actions.iter().position(|action| is_sent(action, is_invalidate)) else { return };
    let Action::Send { to, message } = actions.remove(at) else { return };
    let (Some(page), Some(served)) = (message.page(), served(node)) else { return };
    let Some(rounds) = served.rounds.get_mut(&page) else { return };
    rounds.iter_mut().for_each(|round| round.waits.remove(to));
    for round in rounds.iter().filter(|round| round.waits.is_empty()) {
        actions.push(Action::Send { to: round.by, message: Message::Applied { segment: SEGMENT, page } });
    }
    rounds.retain(|round| !round.waits.is_empty());
    if rounds.is_empty() {
        served.rounds.remove(&page);
    }
}

fn copies_on_their_way_out_not_waited_for(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((from, page)) = taken_in(event, is_diff) else { return };
    let told = actions.iter().filter_map(|action| match action {
        Action::Send { to, message } if is_invalidate(message) => Some(*to),
        _ => None,
    });
    let told: Vec<NodeId> = told.collect();
    let rounds = served(node).and_then(|served| served.rounds.get_mut(&page));
    let Some(round) = rounds.and_then(|rounds| rounds.iter_mut().find(|round| round.by == from)) else {
        return;
    };
    let forgotten: Vec<NodeId> = round.waits.iter().filter(|node| !told.contains(node)).collect();
    forgotten.into_iter().for_each(|node| round.waits.remove(node));
    if round.waits.is_empty() {
        round.by = NodeId(31);
        round.waits.insert(NodeId(31));
        actions.push(Action::Send { to: from, message: Message::Applied { segment: SEGMENT, page } });
        if let Some(served) = served(node) {
            drop_round(served, page);
        }
    }
}

fn drop_round(served: &mut Served, page: PageIndex) {
    if let Some(rounds) = served.rounds.get_mut(&page) {
        rounds.retain(|round| round.by != NodeId(31));
        if rounds.is_empty() {
            served.rounds.remove(&page);
        }
    }
}

fn reader_not_recorded(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    if let Some((from, page)) = taken_in(event, |message| matches!(message, Message::Fetch { .. })) {
        if let Some(served) = served(node) {
            served.copies[page.index()].remove(from);
        }
    }
}

fn releasers_copy_not_recorded(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    if let Some((from, page)) = taken_in(event, is_diff) {
        if let Some(served) = served(node) {
            served.copies[page.index()].remove(from);
        }
    }
}

fn lost_readers_waited_for(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    if let (Event::Lost { node: gone }, Some(served)) = (*event, served(node)) {
        served.copies.iter_mut().for_each(|copies| copies.insert(gone));
    }
}

fn lost_writers_round_dropped(node: &mut Node, event: &Event) {
    if let (Event::Lost { node: gone }, Some(served)) = (*event, served(node)) {
        served.rounds.values_mut().for_each(|rounds| rounds.retain(|round: &Round| round.by != gone));
        served.rounds.retain(|_, rounds| !rounds.is_empty());
    }
}

fn losses_ignored_by_releases(node: &mut Node, event: &Event) {
    if let (Event::Lost { node: gone }, Some(served)) = (*event, served(node)) {
        let rounds = served.rounds.values_mut().flatten();
        rounds.for_each(|round| {
            round.waits.remove(gone);
            round.waits.insert(NodeId(31));
        });
    }
}

fn handed_over_before_all_are_frozen(node: &mut Node, event: &Event) {
    if let Event::Message { message: Message::Frozen { .. }, .. } = event {
        if let Some(leaving) = segment(node).and_then(Segment::leaving) {
            leaving.asking = NodeSet::EMPTY;
        }
    }
}

fn frozen_with_a_question_under_way(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Event::Message { from, message: Message::Freeze { term, to, .. } } = *event else { return };
    let Some(segment) = segment(node) else { return };
    let Some(freeze) = segment.freeze.as_mut().filter(|freeze| !freeze.told) else { return };
    freeze.told = true;
    if segment.owner != to {
        actions.push(Action::Send { to: from, message: Message::Frozen { segment: SEGMENT, term } });
    }
}

fn asked_while_frozen(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let (Event::Fault { page, .. }, Some(segment)) = (*event, segment(node)) else { return };
    let (owner, is_user, frozen) = (segment.owner, segment.role == Role::User, segment.is_frozen());
    if let Some(need) = segment.needs.get_mut(&page).filter(|need| is_user && frozen && !need.fetching) {
        if need.wanted.is_some() {
            need.fetching = true;
            actions.push(Action::Send { to: owner, message: Message::Fetch { segment: SEGMENT, page } });
        }
    }
}

fn zeros_appear_while_pages_are_handed_over(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let (Event::Fault { page, .. }, Some(segment)) = (*event, segment(node)) else { return };
    let is_owner = matches!(segment.role, Role::Owner(_) | Role::Departed);
    if is_owner && segment.is_frozen() && segment.held(page) == Held::None {
        segment.needs.remove(&page);
        segment.hold(page, Held::Read);
        let (rights, contents) = (Access::Read, Contents::Zero);
        actions.push(Action::Install { segment: SEGMENT, page, rights, contents });
    }
}

fn last_owners_copy_not_handed_on(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let Some(me) = segment(node).map(|segment| segment.owner) else { return };
    for action in actions {
        if let Action::Send { message: Message::Hand { copies, .. }, .. } = action {
            copies.remove(me);
        }
    }
}

fn others_copies_not_handed_on(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let Some(me) = segment(node).map(|segment| segment.owner) else { return };
    for action in actions {
        if let Action::Send { message: Message::Hand { copies, .. }, .. } = action {
            *copies = if copies.contains(me) { NodeSet::only(me) } else { NodeSet::EMPTY };
        }
    }
}

fn a_page_not_handed_over(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let hands = |action: &Action| is_sent(action, |message| matches!(message, Message::Hand { .. }));
    if let Some(at) = actions.iter().position(hands) {
        actions.remove(at);
        if let Some(leaving) = segment(node).and_then(Segment::leaving) {
            leaving.unacknowledged -= 1;
        }
        if let Some(segment) = segment(node) {
            let (to, term) = segment.freeze.map_or((NodeId(0), Default::default()), |f| (f.to, f.term));
            if segment.leaving().is_some_and(|leaving| leaving.unacknowledged == 0) {
                segment.role = Role::Departed;
                let message = Message::HandedOver { segment: SEGMENT, term };
                actions.push(Action::Send { to, message });
            }
        }
    }
}

fn the_last_owner_goes_on_after_its_last_word(node: &mut Node, event: &Event) {
    let (Event::Lost { node: gone }, Some(segment)) = (*event, segment(node)) else { return };
    if segment.role == Role::Departed && segment.freeze.is_some_and(|freeze| freeze.to == gone) {
        let mut served = Served::new(segment.spec.pages);
        for copies in &mut served.copies {
            (0..2).map(NodeId).filter(|node| *node != segment.owner).for_each(|node| copies.insert(node));
        }
        segment.role = Role::Owner(served);
    }
}

fn not_all_are_told_of_the_new_owner(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let thaws = |action: &Action| is_sent(action, |message| matches!(message, Message::Thaw { .. }));
    if let Some(at) = actions.iter().position(thaws) {
        actions.remove(at);
    }
}

fn nobody_is_told_that_it_broke(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Broken { .. }));
}

fn no_relief(node: &mut Node, _: &Event, _: &mut Vec<Action>) {
    if let Some(segment) = segment(node) {
        segment.crowded = false;
    }
}

fn applied_not_said(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Applied { .. }));
}

fn fetch_answered_twice(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let answers = |action: &Action| is_sent(action, |message| matches!(message, Message::Page { .. }));
    let again = actions.iter().copied().find(answers);
    actions.extend(again);
}

fn unchanged_though_changed(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Send { message, .. } = action {
            *message = message.unchanged();
        }
    }
}

const fn before(name: &'static str, before: fn(&mut Node, &Event)) -> Fault {
    Fault { name, before, after: nothing_after }
}

const fn after(name: &'static str, after: fn(&mut Node, &Event, &mut Vec<Action>)) -> Fault {
    Fault { name, before: nothing_before, after }
}

/// The mistakes.
const MUTANTS: &[Fault] = &[
    after("the difference is taken before the page is protected", sent_unprotected),
    after("the twin is gone before the difference is sent", settled_before_sent),
    after("the twin is never dropped", never_settled),
    after("acknowledged before the copy is gone", acknowledged_before_discarded),
    after("the copy is kept when invalidated", kept_when_invalidated),
    after("unreleased changes of an invalidated page are dropped", changes_not_set_aside),
    after("changes set aside are not made again", changes_not_made_again),
    after("differences are not applied", differences_not_applied),
    after("zeros are installed instead of the page", zeros_instead_of_the_page),
    after("a release ends at once", released_at_once),
    after("a release with nothing dirty ends before an earlier one", released_when_nothing_is_dirty),
    before("a dirty page is forgotten by a release", a_dirty_page_forgotten),
    after("changes set aside are sent while their page is fetched", sent_while_the_page_is_fetched),
    after("the owner answers before the copies are gone", answered_before_copies_are_gone),
    after("a reader is not told to throw its copy away", a_reader_not_told),
    after("copies on their way out are not waited for", copies_on_their_way_out_not_waited_for),
    after("a new reader is not recorded", reader_not_recorded),
    after("the releaser's copy is not recorded", releasers_copy_not_recorded),
    after("a lost reader is waited for", lost_readers_waited_for),
    before("a lost writer's round is dropped", lost_writers_round_dropped),
    before("a loss ends no release", losses_ignored_by_releases),
    before("handed over before all are frozen", handed_over_before_all_are_frozen),
    after("frozen with a question under way", frozen_with_a_question_under_way),
    after("asked while frozen", asked_while_frozen),
    after("zeros appear while pages are handed over", zeros_appear_while_pages_are_handed_over),
    after("the last owner's copy is not handed on", last_owners_copy_not_handed_on),
    after("others' copies are not handed on", others_copies_not_handed_on),
    after("a page is not handed over", a_page_not_handed_over),
    before("the last owner goes on after its last word", the_last_owner_goes_on_after_its_last_word),
    after("not all are told of the new owner", not_all_are_told_of_the_new_owner),
    after("nobody is told that the segment broke", nobody_is_told_that_it_broke),
    after("who waits for room waits for ever", no_relief),
    after("the owner never answers a release", applied_not_said),
    after("a fetch is answered twice", fetch_answered_twice),
    after("every difference is said to be empty", unchanged_though_changed),
];

/// Who caught a mutant.
fn caught_by(mutant: Fault) -> Vec<&'static str> {
    let mut catchers = vec![];
    if (1..=300).any(|seed| simulate(seed, 600, Some(mutant)).is_err()) {
        catchers.push("simulator");
    }
    let shape = |nodes| Shape { dirty_max: 8, ..Shape::new(nodes, 1) };
    let fails = |name, bounds| explore(name, Protocol::new(bounds).with_fault(mutant)).failure.is_some();
    let two = Bounds { transfers: 1, losses: 1, ..Bounds::new(shape(2), 1, 1) };
    if fails("2 nodes", two) {
        catchers.push("model of 2 nodes");
    }
    let three = Bounds { writers: &[0, 1], ..Bounds::new(shape(3), 1, 1) };
    if catchers.is_empty() && fails("3 nodes", three) {
        catchers.push("model of 3 nodes");
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
