//! What the liar does: with the words of its core, with words of long ago, and out of nothing.

use super::input::Input;
use super::world::{World, LIAR, NODES};
use crate::ids::{Gfn, NodeId, NodeSet, EXTENT_PAGES};
use crate::protocol::tests::host::{Packet, Pages};
use crate::protocol::{Access, DirectoryState, Message, Term, Turn, Txn};
use crate::wire::{self, Body, WireError, FRAME_BYTES};

/// Bytes of a page that nobody ever wrote.
const GARBAGE: u64 = u64::MAX;

/// A frame as the liar sends it.
pub struct Frame {
    header: [u8; FRAME_BYTES],
    /// What its page holds, if it turns out to carry one.
    bytes: u64,
}

impl Frame {
    fn of(message: &Message, bytes: Option<u64>) -> Self {
        Frame { header: wire::encode(message, false), bytes: bytes.unwrap_or(GARBAGE) }
    }

    /// What the receiver's link makes of it. A frame about a page that the run does not use is about one that it does: the
    /// receiver's host knows no others.
    pub fn decode(&self, pages: Pages) -> Result<Packet, WireError> {
        let frame = wire::decode(&self.header)?;
        let message = about(frame.message, pages);
        let bytes = match frame.body {
            Body::None => None,
            Body::Page => Some(self.bytes),
            Body::ZeroPage => Some(0),
        };
        Ok(Packet { message, bytes })
    }
}

fn about(mut message: Message, pages: Pages) -> Message {
    match &mut message {
        Message::Request { gfn, .. }
        | Message::GrantExtent { gfn, .. }
        | Message::Merge { gfn, .. }
        | Message::AlreadyYours { gfn }
        | Message::Recall { gfn, .. }
        | Message::Invalidate { gfn, .. }
        | Message::Hurry { gfn, .. }
        | Message::Grant { gfn, .. }
        | Message::Invalidated { gfn, .. }
        | Message::Done { gfn, .. }
        | Message::Directory { gfn, .. }
        | Message::DirectoryEntry { gfn, .. }
        | Message::NewHome { gfn, .. }
        | Message::HomeKnown { gfn, .. }
        | Message::Moved { gfn } => {
            if gfn.extent().0 < pages.extents as u64 {
                *gfn = Gfn(gfn.0 - gfn.0 % EXTENT_PAGES + gfn.0 % EXTENT_PAGES % pages.each as u64);
            }
        }
    }
    message
}

/// One deed.
pub fn lie(world: &mut World, input: &mut Input<'_>) {
    let to = input.below(LIAR.index());
    match input.below(8) {
        0 => drop_one(world, to),
        1 => repeat_one(world, to),
        2 => swap_two(world, to),
        3 => change_one(world, to, input),
        4 => say_again(world, to, input),
        5 => {
            let header = input.bytes::<FRAME_BYTES>();
            world.say(to, &Frame { header, bytes: GARBAGE });
        }
        _ => {
            let message = made_up(world, input);
            world.say(to, &Frame::of(&message, None));
        }
    }
}

fn drop_one(world: &mut World, to: usize) {
    if let Some(dropped) = world.link(LIAR.index(), to).pop_front() {
        world.lied_about(dropped.message.gfn());
    }
}

fn repeat_one(world: &mut World, to: usize) {
    if let Some(&first) = world.link(LIAR.index(), to).front() {
        world.lied_about(first.message.gfn());
        world.link(LIAR.index(), to).push_back(first);
    }
}

fn swap_two(world: &mut World, to: usize) {
    let link = world.link(LIAR.index(), to);
    if link.len() >= 2 {
        link.swap(0, 1);
        let about = [link[0].message.gfn(), link[1].message.gfn()];
        about.into_iter().for_each(|gfn| world.lied_about(gfn));
    }
}

/// Some byte of the next frame is another one.
fn change_one(world: &mut World, to: usize, input: &mut Input<'_>) {
    if let Some(packet) = world.link(LIAR.index(), to).pop_front() {
        world.lied_about(packet.message.gfn());
        let mut frame = Frame::of(&packet.message, packet.bytes);
        frame.header[input.below(wire::SEQ_OFFSET)] ^= input.byte();
        world.say(to, &frame);
    }
}

/// Something of long ago, to whomever.
fn say_again(world: &mut World, to: usize, input: &mut Input<'_>) {
    if world.heard.is_empty() {
        return;
    }
    let packet = world.heard[input.below(world.heard.len())];
    world.say(to, &Frame::of(&packet.message, packet.bytes));
}

/// A message about a page in use, with the number of the transaction under way if it fits.
fn made_up(world: &World, input: &mut Input<'_>) -> Message {
    let gfn = world.pages.gfn(input.below(world.pages.len()));
    let home = world.nodes.iter().find(|node| node.is_home(gfn));
    let under_way = home.and_then(|home| home.directory.transaction(gfn));
    let txn = match (under_way, input.below(4)) {
        (Some(transaction), 1..) => transaction.txn,
        _ => Txn(u32::from(input.byte())),
    };
    let access = World::some_access(input);
    let requester = NodeId(input.below(NODES + 1) as u8);
    let (turn, acks, flag) = (Turn(u32::from(input.byte()) << 2), input.below(NODES) as u8, input.flag());
    match input.below(16) {
        0 => Message::Request { gfn, access, held: flag, turn },
        1 => Message::GrantExtent { gfn, txn },
        2 => Message::AlreadyYours { gfn },
        3 => Message::Recall { gfn, txn, requester, turn, access, acks },
        4 => Message::Invalidate { gfn, txn, requester, turn },
        5 => Message::Hurry { gfn, txn, turn },
        6 | 7 => {
            let fitting = under_way.filter(|_| flag);
            let rights = fitting.map_or(access, |transaction| transaction.access);
            let acks = fitting.map_or(acks, |transaction| transaction.invalidated.len() as u8);
            let page = rights == Access::Read || input.below(4) > 0;
            Message::Grant { gfn, txn, rights, page, acks }
        }
        8 => Message::Invalidated { gfn, txn },
        9 | 10 => Message::Done { gfn, txn },
        _ => about_homes(world, gfn, requester, input),
    }
}

/// A message about the home of the page's extent, of a term that fits more often than not.
fn about_homes(world: &World, gfn: Gfn, node: NodeId, input: &mut Input<'_>) -> Message {
    let first = gfn.extent().first();
    let known = world.nodes[input.below(NODES)].home_of(gfn).map_or(Term::default(), |home| home.term);
    let term = match input.below(4) {
        0 => Term(u32::from(input.byte())),
        1 => known,
        _ => known.next(),
    };
    match input.below(6) {
        0 => {
            let states =
                [DirectoryState::Untouched, DirectoryState::Whole(node), DirectoryState::Split(node)];
            Message::Directory { gfn: first, term, state: states[input.below(states.len())] }
        }
        1 => Message::DirectoryEntry { gfn, holders: NodeSet::from_bits(u32::from(input.byte())) },
        2 => Message::NewHome { gfn: first, term, home: node },
        3 => Message::Moved { gfn },
        _ => Message::HomeKnown { gfn: first, term },
    }
}
