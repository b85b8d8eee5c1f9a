//! One segment at one node: what the node holds of it, and who may say what about it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::handover::{Freeze, Leaving};
use super::local::Need;
use super::releases::Releases;
use super::serve::Served;
use super::{Access, Action, Counters, Message, PageIndex, SegmentId, Term, Violation};
use crate::ids::{NodeId, NodeSet};

/// Most segments of one guest.
pub const SEGMENTS_MAX: usize = 256;
/// Most pages of one segment: 1 GiB.
pub const SEGMENT_PAGES_MAX: u32 = 1 << 18;
/// Usual limit of pages with unreleased changes, per segment and node: 4 MiB of twins.
pub const DIRTY_PAGES_MAX: u32 = 1024;

/// What a segment is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SegmentSpec {
    /// Its number.
    pub segment: SegmentId,
    /// Its size in pages, 1 to [`SEGMENT_PAGES_MAX`].
    pub pages: u32,
    /// Its first owner.
    pub owner: NodeId,
    /// Most pages of it with unreleased changes at one node, at least 1. A node that reaches it releases by itself, which
    /// programs cannot notice. One instruction may write several pages: leave room for ten.
    pub dirty_max: u32,
}

/// What a node has of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Held {
    /// Nothing. At the owner: nobody has released a write to it, it reads as zero.
    #[default]
    None,
    /// A copy that the guest may read.
    Read,
    /// A copy that the guest may write, and its twin.
    Dirty,
    /// No copy, but unreleased changes that are set aside.
    Aside,
}

impl Held {
    /// What the guest may do with the page.
    pub fn rights(self) -> Option<Access> {
        match self {
            Held::None | Held::Aside => None,
            Held::Read => Some(Access::Read),
            Held::Dirty => Some(Access::Write),
        }
    }
}

/// What this node is to a segment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Role {
    /// One that uses it.
    User,
    /// Its owner.
    Owner(Served),
    /// Its next owner, being handed the pages in order: what was handed so far, and the next page that may come.
    Arriving(Served, PageIndex),
    /// Its last owner, which has handed over everything and waits for the next one to say so.
    Departed,
    /// It is broken.
    Broken,
}

/// Where a handler puts what is to be done, with what it must know of the node.
pub(super) struct Out<'a> {
    pub me: NodeId,
    /// This node and its peers, without those that are lost.
    pub alive: NodeSet,
    pub actions: &'a mut Vec<Action>,
    pub counters: &'a mut Counters,
}

impl Out<'_> {
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn send(&mut self, to: NodeId, message: Message) {
        debug_assert!(to != self.me, "a node does not send {message:?} to itself");
        self.actions.push(Action::Send { to, message });
    }

    /// Says `message` to all peers that live.
    pub fn tell_all(&mut self, message: Message) {
        for peer in self.alive.without(self.me).iter() {
            self.send(peer, message);
        }
    }
}

/// One segment at this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Segment {
    pub spec: SegmentSpec,
    /// Who owns it, as this node knows.
    pub owner: NodeId,
    /// The last move of its ownership that this node has heard of.
    pub term: Term,
    pub role: Role,
    /// The ownership is on the move.
    pub freeze: Option<Freeze>,
    pub held: Vec<Held>,
    /// Pages with unreleased changes: those that are `Dirty` or `Aside`.
    pub dirty: BTreeSet<PageIndex>,
    /// What is under way or waits, by page.
    pub needs: BTreeMap<PageIndex, Need>,
    pub releases: Releases,
    /// Somebody waits until there may be one more dirty page.
    pub crowded: bool,
}

impl Segment {
    /// A new segment at node `me`.
    pub fn new(spec: SegmentSpec, me: NodeId) -> Self {
        let role = match spec.owner == me {
            true => Role::Owner(Served::new(spec.pages)),
            false => Role::User,
        };
        Segment {
            owner: spec.owner,
            term: Term::default(),
            role,
            freeze: None,
            held: vec![Held::None; spec.pages as usize],
            dirty: BTreeSet::new(),
            needs: BTreeMap::new(),
            releases: Releases::default(),
            crowded: false,
            spec,
        }
    }

    pub fn id(&self) -> SegmentId {
        self.spec.segment
    }

    /// What this node has of a page.
    pub fn held(&self, page: PageIndex) -> Held {
        self.held[page.index()]
    }

    pub fn hold(&mut self, page: PageIndex, held: Held) {
        self.held[page.index()] = held;
        match held {
            Held::Dirty | Held::Aside => self.dirty.insert(page),
            Held::None | Held::Read => self.dirty.remove(&page),
        };
    }

    /// Whether nothing new may be asked of the owner.
    pub fn is_frozen(&self) -> bool {
        self.freeze.is_some()
    }

    pub fn check_page(&self, page: PageIndex) -> Result<(), Violation> {
        match page.0 < self.spec.pages {
            true => Ok(()),
            false => Err(Violation::NoPage { segment: self.id(), page, pages: self.spec.pages }),
        }
    }

    /// Why the segment cannot be closed now.
    pub fn check_idle(&self) -> Result<(), Violation> {
        let why = match &self.role {
            Role::Broken => return Ok(()),
            _ if self.is_frozen() => "its ownership is on the move",
            _ if !self.dirty.is_empty() => "there are unreleased changes",
            _ if !self.releases.is_empty() => "a release is not over",
            _ if !self.needs.is_empty() => "an exchange with its owner is not over",
            Role::Owner(served) if !served.is_idle() => "copies are still being thrown away",
            _ => return Ok(()),
        };
        Err(Violation::InUse { segment: self.id(), why })
    }

    /// Takes a message in.
    pub fn receive(&mut self, from: NodeId, message: Message, out: &mut Out<'_>) -> Result<(), Violation> {
        if self.role == Role::Broken {
            // Peers may not know it yet.
            return Ok(());
        }
        if let Some(page) = message.page() {
            self.check_page(page)?;
        }
        self.check_owner(from, &message)?;
        match message {
            Message::Fetch { page, .. } => self.fetched(from, page, out)?,
            Message::Page { page, .. } => self.page_came(from, page, out)?,
            Message::Diff { page, changed: false, .. } => self.check_diff(from, page).map(|()| {
                self.answer(from, page, out);
            })?,
            Message::Diff { page, changed: true, .. } => self.changed(from, page, out)?,
            Message::Applied { page, .. } => self.applied(from, page, out)?,
            Message::Invalidate { page, .. } => self.invalidate(from, page, out)?,
            Message::Invalidated { page, .. } => self.invalidated(from, page, out)?,
            Message::Freeze { term, to, .. } => self.freeze(from, term, to)?,
            Message::Frozen { term, .. } => self.frozen(from, term),
            Message::Hand { page, copies, bytes, .. } => self.handed(from, page, copies, bytes, out)?,
            Message::Taken { .. } => self.taken(from)?,
            Message::HandedOver { term, .. } => self.handed_over(from, term, out)?,
            Message::Thaw { term, .. } => self.thaw(from, term, out)?,
            Message::Broken { .. } => self.break_up(out),
        }
        self.settle(out);
        Ok(())
    }

    /// Whether the segment's owner is at the right end of the message.
    fn check_owner(&self, from: NodeId, message: &Message) -> Result<(), Violation> {
        let (kind, segment, owner) = (message.kind(), self.id(), self.owner);
        match message {
            Message::Fetch { .. }
            | Message::Diff { .. }
            | Message::Invalidated { .. }
            | Message::Frozen { .. }
            | Message::Taken { .. } => match &self.role {
                Role::Owner(_) => Ok(()),
                _ => Err(Violation::NotOwner { kind, segment, from, owner }),
            },
            Message::Page { .. }
            | Message::Applied { .. }
            | Message::Invalidate { .. }
            | Message::Freeze { .. }
            | Message::Hand { .. }
            | Message::HandedOver { .. } => match from == owner {
                true => Ok(()),
                false => Err(Violation::NotFromOwner { kind, segment, from, owner }),
            },
            Message::Thaw { .. } | Message::Broken { .. } => Ok(()),
        }
    }

    /// Does what an event has made possible beyond its own page.
    pub fn settle(&mut self, out: &mut Out<'_>) {
        if self.crowded {
            self.relieve(out);
        }
        self.end_releases(out);
        self.report_frozen(out);
        self.hand_on(out);
    }

    /// The owner's side, where this node is the owner.
    pub fn served(&mut self) -> Option<&mut Served> {
        match &mut self.role {
            Role::Owner(served) => Some(served),
            _ => None,
        }
    }

    /// The move of the ownership away from this node.
    pub fn leaving(&mut self) -> Option<&mut Leaving> {
        self.served().and_then(|served| served.leaving.as_mut())
    }
}
