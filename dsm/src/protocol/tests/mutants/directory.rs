//! Mistakes of a page's home.

use super::tamper::{after, after_done, before, is_sent, lost, message, misdirect, rewrite};
use crate::ids::{NodeId, NodeSet};
use crate::protocol::extent::Entry;
use crate::protocol::tests::cluster::Mutant;
use crate::protocol::{Access, Action, Event, Message, Node, Rights};

use Access::Write;

pub const MUTANTS: &[Mutant] = &[
    after("an extent is merged while a page of it is another's", merged_too_early),
    before("an extent is merged while something is under way", merged_while_busy),
    after("the merge of an extent goes to another node", merge_to_another),
    after("the merge of an extent is not told", merge_not_told),
    after("the merge of an extent is not recorded", merge_not_recorded),
    before("extents are never merged", never_merged),
    after("one acknowledgement too few is waited for", too_few_acknowledgements),
    after("one acknowledgement too many is waited for", too_many_acknowledgements),
    after("one sharer is not told to give up", a_sharer_not_told),
    after("an overtaken request is not answered", overtaken_request_not_answered),
    before("a waiting request is dropped", waiting_request_dropped),
    before("the next request is served before the first is done", served_before_done),
    after("an extent is granted again", extent_granted_again),
    before("an extent of the home's own is granted", own_extent_granted),
    after("an extent is granted to another node than asked", extent_granted_to_another),
    after("the split gives a page to another node", split_gives_a_page_away),
    after("a recall goes to another node than the owner", recalled_from_another),
    after("a page is recalled for another node than asked", recalled_for_another),
    after("an upgrade is answered as if nothing were to be done", upgrade_already_yours),
    after("a read takes the page from its owner", read_recalled_for_write),
    after("a new reader is not recorded", reader_forgotten),
    after("the home forgets its own copy", own_copy_forgotten),
    after("the last of three sharers is forgotten", last_sharer_forgotten),
    after("the wrong owner is recorded", wrong_owner_recorded),
    after("a writer is recorded as one of the readers", writer_recorded_as_reader),
    before("a page taken from its only owner is recorded as shared", taken_page_recorded_as_shared),
    after("a reader gets a page to write while others have copies", shared_page_given_to_write),
    before("the requester's word that it holds a copy is believed", held_believed),
    after("requests that are done go on counting", requests_count_for_ever),
];

fn merged_too_early(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((_, place, Message::Done { txn, .. })) = message(node, event) else { return };
    let other = place.gfn.extent().pages().find(|gfn| *gfn != place.gfn);
    let Some(Ok(other)) = other.map(|gfn| node.place(gfn)) else { return };
    let idle = node.directory.transactions().len() == 0;
    if let (true, Some(Entry::Exclusive(owner))) =
        (idle && node.directory.merges(), node.directory.entry_if_split(other))
    {
        if owner != node.me {
            node.directory.own_extent(place.extent, owner);
            actions.push(Action::Send { to: owner, message: Message::Merge { gfn: place.gfn, txn } });
        }
    }
}

fn merged_while_busy(node: &mut Node, event: &Event) {
    if *event == Event::Tick {
        node.directory.calm_extents();
    }
}

fn merge_to_another(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    misdirect(node, actions, |message| matches!(message, Message::Merge { .. }));
}

fn merge_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::Merge { .. }));
}

fn merge_not_recorded(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Send { to, message: Message::Merge { gfn, .. } } = *action {
            if let Ok(place) = node.place(gfn) {
                node.directory.split_extent(place.extent, to);
            }
        }
    }
}

fn never_merged(node: &mut Node, _: &Event) {
    node.directory.forget_looks();
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

fn too_many_acknowledgements(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    rewrite(actions, |message| match message {
        Message::Recall { access: Write, acks, .. } | Message::Grant { page: false, acks, .. } => *acks += 1,
        _ => {}
    });
}

fn a_sharer_not_told(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let told = |action: &Action| is_sent(action, |m| matches!(m, Message::Invalidate { .. }));
    if let Some(at) = actions.iter().position(told) {
        actions.remove(at);
        expect_fewer_acknowledgements(actions);
    }
}

fn overtaken_request_not_answered(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    lost(actions, |message| matches!(message, Message::AlreadyYours { .. }));
}

fn waiting_request_dropped(node: &mut Node, event: &Event) {
    if let Event::Message { message: Message::Done { gfn, .. }, .. } = *event {
        node.directory.forget_waiting(gfn);
    }
}

fn served_before_done(node: &mut Node, event: &Event) {
    if let Some((_, place, Message::Request { .. })) = message(node, event) {
        node.directory.forget_transaction(place.gfn);
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

fn own_extent_granted(node: &mut Node, event: &Event) {
    let Some((_, place, Message::Request { .. })) = message(node, event) else { return };
    if node.pages.is_whole(place) {
        node.directory.forget_extent(place.extent);
    }
}

fn extent_granted_to_another(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    misdirect(node, actions, |message| matches!(message, Message::GrantExtent { .. }));
}

fn split_gives_a_page_away(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((from, place, Message::Request { .. })) = message(node, event) else { return };
    let recalled = actions.iter().any(|action| is_sent(action, |m| matches!(m, Message::Recall { .. })));
    let mut entry = |gfn| node.place(gfn).ok().and_then(|place| node.directory.entry_if_split(place));
    let as_at_the_split =
        |entry: Option<Entry>| matches!(entry, Some(Entry::Exclusive(owner)) if owner != from);
    if !recalled || !place.gfn.extent().pages().all(|gfn| as_at_the_split(entry(gfn))) {
        return;
    }
    let other = place.gfn.extent().pages().find(|gfn| *gfn != place.gfn);
    if let Some(Ok(other)) = other.map(|gfn| node.place(gfn)) {
        node.directory.set_entry(other, Entry::Exclusive(from));
    }
}

fn recalled_from_another(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    misdirect(node, actions, |message| matches!(message, Message::Recall { .. }));
}

fn recalled_for_another(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    for action in actions {
        if let Action::Send { message: Message::Recall { requester, .. }, .. } = action {
            requester.0 = (requester.0 + 1) % node.nodes;
        }
    }
}

fn upgrade_already_yours(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    rewrite(actions, |message| {
        if let Message::Grant { gfn, page: false, .. } = *message {
            *message = Message::AlreadyYours { gfn };
        }
    });
    lost(actions, |message| matches!(message, Message::Invalidate { .. }));
}

fn read_recalled_for_write(_: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    rewrite(actions, |message| {
        if let Message::Recall { access, .. } = message {
            *access = Write;
        }
    });
}

fn reader_forgotten(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    after_done(node, event, |entry, _| {
        if let Entry::Shared(set) = *entry {
            *entry = Entry::Exclusive(set.first().unwrap_or(NodeId(0)));
        }
    });
}

fn own_copy_forgotten(node: &mut Node, _: &Event, actions: &mut Vec<Action>) {
    let (me, nodes) = (node.me, node.nodes);
    let installed = actions.iter().find_map(|action| match action {
        Action::Install { gfn, .. } => Some(*gfn),
        _ => None,
    });
    let Some(Ok(place)) = installed.map(|gfn| node.place(gfn)) else { return };
    if let Some(Entry::Shared(set)) = node.directory.entry_if_split(place) {
        if set.len() > 2 || nodes == 2 {
            node.directory.set_entry(place, Entry::Shared(set.without(me)));
        }
    }
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

fn writer_recorded_as_reader(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    after_done(node, event, |entry, nodes| {
        if let Entry::Exclusive(owner) = *entry {
            let mut set = NodeSet::only(owner);
            set.insert(NodeId((owner.0 + 1) % nodes));
            *entry = Entry::Shared(set);
        }
    });
}

fn taken_page_recorded_as_shared(node: &mut Node, event: &Event) {
    let Some((_, place, Message::Done { .. })) = message(node, event) else { return };
    let had = node.directory.recorded(place);
    let alone = had.len() == 1 && had[0].1 == Rights::Write;
    if let Some(access) = node.directory.access_mut(place.gfn).filter(|_| alone) {
        *access = Access::Read;
    }
}

fn shared_page_given_to_write(node: &mut Node, event: &Event, actions: &mut Vec<Action>) {
    let Some((_, place, Message::Request { access: Access::Read, .. })) = message(node, event) else {
        return;
    };
    read_recalled_for_write(node, event, actions);
    if let Some(access) = node.directory.access_mut(place.gfn) {
        *access = Write;
    }
}

fn held_believed(node: &mut Node, event: &Event) {
    let Event::Message { from, message: Message::Request { gfn, held: true, .. } } = *event else { return };
    let Ok(place) = node.place(gfn) else { return };
    if let Some(entry) = node.directory.entry_if_split(place) {
        let mut set = match entry {
            Entry::Exclusive(owner) => NodeSet::only(owner),
            Entry::Shared(set) => set,
        };
        set.insert(from);
        if set.len() > 1 {
            node.directory.set_entry(place, Entry::Shared(set));
        }
    }
}

fn requests_count_for_ever(node: &mut Node, event: &Event, _: &mut Vec<Action>) {
    if let Some((from, _, Message::Done { .. })) = message(node, event) {
        node.directory.count_request(from);
    }
}
