//! One node's side of the protocol, as a pure state machine: the way in, and the messages to itself.

use std::collections::VecDeque;
use std::sync::Arc;

use super::directory::{Directory, Request, REQUESTS_MAX};
use super::drain::Drain;
use super::habit::HabitPolicy;
use super::handover::Handovers;
use super::homes::{Home, Homes, Membership};
use super::lease::{LeasePolicy, Leases, Pace};
use super::owner::Deferred;
use super::requester::Wanted;
use super::table::{InFlight, PageTable, Place, Rights};
use super::{Action, Counters, Event, Holdings, Message, Micros, Violation};
use crate::ids::{Extent, Gfn, NodeId, EXTENT_PAGES};
use crate::layout::Layout;

/// What a node must know to begin.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub me: NodeId,
    /// How many nodes the guest may have, 1 to [`NODES_MAX`](crate::ids::NODES_MAX).
    pub nodes: u8,
    /// Who belongs to the guest now.
    pub membership: Membership,
    /// The guest's RAM; the same on all nodes.
    pub layout: Arc<Layout>,
    /// How long granted pages are kept.
    pub lease: LeasePolicy,
    /// What this node makes of the way in which the pages are used whose home it is.
    pub habits: HabitPolicy,
    /// Ranges of pages that have content before the guest starts. Every extent that holds such a page belongs to its
    /// home as a whole from the start; give all nodes the same list. Frames outside RAM are skipped.
    pub preloaded: Vec<(Gfn, u64)>,
}

/// Where a handler puts what is to be done.
pub(super) struct Outbox<'a> {
    me: NodeId,
    actions: &'a mut Vec<Action>,
    loopback: VecDeque<Message>,
}

#[cfg(test)]
impl<'a> Outbox<'a> {
    /// For what a test makes a node do outside an event.
    pub fn new(me: NodeId, actions: &'a mut Vec<Action>) -> Self {
        Outbox { me, actions, loopback: VecDeque::new() }
    }
}

impl Outbox<'_> {
    /// An action for the driver.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// A message, which stays inside if it is for this node itself.
    pub fn send(&mut self, to: NodeId, message: Message) {
        match to == self.me {
            true => self.loopback.push_back(message),
            false => self.actions.push(Action::Send { to, message }),
        }
    }
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub(super) me: NodeId,
    pub(super) nodes: u8,
    layout: Arc<Layout>,
    /// What this node's guest may do with each page.
    pub(super) pages: PageTable,
    /// Requests of this node's that are not fulfilled yet.
    pub(super) wanted: InFlight<Wanted>,
    /// Recalls and invalidations that this node has not obeyed yet.
    pub(super) deferred: InFlight<Deferred>,
    pub(super) leases: Leases,
    /// Who has what, for the pages whose home this node is.
    pub(super) directory: Directory,
    /// Who the nodes are, and which is the home of what.
    pub(super) homes: Homes,
    pub(super) handovers: Handovers,
    /// The node whose pages are taken over.
    pub(super) draining: Option<Drain>,
    pub(super) counters: Counters,
    /// Empty between events; kept for its memory.
    loopback: VecDeque<Message>,
}

impl Node {
    /// A node that holds nothing but the preloaded extents whose home it is (see [`Node::whole_extents`]).
    ///
    /// # Panics
    /// If `me` is not below `nodes` or no member, `nodes` is above [`NODES_MAX`](crate::ids::NODES_MAX), or the layout names a
    /// home or there is a member that is not below `nodes`: the configuration is checked where it enters.
    pub fn new(config: NodeConfig) -> Self {
        let NodeConfig { me, nodes, membership, layout, lease, habits, preloaded } = config;
        assert!(me.0 < nodes, "{me} is none of {nodes} nodes");
        assert!(usize::from(nodes) <= crate::ids::NODES_MAX, "a guest of {nodes} nodes is too wide");
        let homes = layout.regions().iter().map(|region| region.home);
        homes.for_each(|home| assert!(home.0 < nodes, "the layout's {home} is none of {nodes} nodes"));
        let members = membership.members;
        assert!(members.contains(me) && members.is_subset_of(Membership::all(nodes).members), "{members:?}");
        let mut node = Node {
            me,
            nodes,
            pages: PageTable::new(&layout),
            wanted: InFlight::new(),
            deferred: InFlight::new(),
            leases: Leases::new(lease, me, nodes),
            directory: Directory::new(me, &layout, habits),
            homes: Homes::new(&layout, &membership),
            handovers: Handovers::default(),
            draining: None,
            counters: Counters::default(),
            loopback: VecDeque::new(),
            layout,
        };
        for (first, pages) in preloaded {
            node.preload(first, pages);
        }
        node
    }

    fn preload(&mut self, first: Gfn, pages: u64) {
        let end = first.0.saturating_add(pages);
        for region in self.layout.regions() {
            if region.home != self.me {
                continue;
            }
            let from = first.0.max(region.start.0) / EXTENT_PAGES;
            let to = end.min(region.end().0).div_ceil(EXTENT_PAGES);
            for extent in from..to {
                let Some(index) = self.layout.extent_index(Extent(extent)) else { continue };
                let place = self.homes.place(&self.layout, Extent(extent).first());
                if pages > 0 && place.is_some_and(|place| self.pages.is_bare(place)) {
                    self.directory.preload(index);
                    self.pages.own(index, 0);
                }
            }
        }
    }

    /// Takes in `event` at time `now` and appends what must be done for it to `actions`.
    ///
    /// # Errors
    /// If the protocol does not allow the event. Then nothing is appended and nothing has changed
    /// (except for [`Violation::Internal`]), and the guest cannot go on.
    pub fn handle(&mut self, now: Micros, event: Event, actions: &mut Vec<Action>) -> Result<(), Violation> {
        let loopback = std::mem::take(&mut self.loopback);
        let mut out = Outbox { me: self.me, actions, loopback };
        let result = self.take_in(now, event, &mut out);
        self.loopback = out.loopback;
        result
    }

    fn take_in(&mut self, now: Micros, event: Event, out: &mut Outbox<'_>) -> Result<(), Violation> {
        match event {
            Event::Fault { gfn, access } => self.fault(now, self.place(gfn)?, access, out)?,
            Event::Borrow { gfn, access } => self.borrow(now, self.place(gfn)?, access, out)?,
            Event::Return { gfn } => self.give_back(now, self.place(gfn)?, out)?,
            Event::Tick => {
                self.obey_due(now, out);
                self.directory.merge_due(now, out);
                self.handovers_due(now, out);
            }
            Event::HandOver { extent, to } => self.hand_over(now, extent, to)?,
            Event::Drain { node } => self.drain(node)?,
            Event::Admit { node } => self.admit(node)?,
            Event::Dismiss { node } => self.dismiss(node)?,
            Event::Message { from, message } => {
                if from == self.me || !self.homes.members.contains(from) {
                    let (kind, gfn) = (message.kind(), message.gfn());
                    return Err(Violation::Sender { kind, gfn, from, nodes: self.nodes });
                }
                self.receive(now, from, message, out)?;
            }
        }
        loop {
            while let Some(message) = out.loopback.pop_front() {
                let result = self.receive(now, self.me, message, out);
                debug_assert!(result.is_ok(), "{} refuses its own {message:?}: {result:?}", self.me);
                result.map_err(|violation| Violation::Internal(Box::new(violation)))?;
            }
            self.leave_where_calm(out);
            self.drain_on(now, out)?;
            if out.loopback.is_empty() {
                return Ok(());
            }
        }
    }

    /// One message, from a peer or from this node itself.
    fn receive(
        &mut self,
        now: Micros,
        from: NodeId,
        message: Message,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let place = self.place(message.gfn())?;
        self.check_home(from, place, &message)?;
        match message {
            Message::Request { access, turn, held: _, .. } => {
                self.requested(now, place, Request { node: from, access, turn }, out)
            }
            Message::Directory { .. } => self.directory_came(from, place, message),
            Message::DirectoryEntry { holders, .. } => self.directory_entry_came(from, place, holders),
            Message::NewHome { term, home, .. } => {
                self.new_home(now, from, place, Home { node: home, term }, out)
            }
            Message::HomeKnown { term, .. } => self.home_known(now, from, place, term, out),
            Message::Moved { .. } => self.moved(now, from, place, out),
            Message::Done { txn, .. } => self.done(now, from, place, txn, out),
            Message::GrantExtent { .. } => self.extent_granted(now, from, place, out),
            Message::Merge { .. } => self.merged(now, from, place, out),
            Message::AlreadyYours { .. } => self.already_ours(now, from, place, out),
            Message::Grant { .. } => self.granted(now, from, place, message, out),
            Message::Invalidated { txn, .. } => self.acknowledged(now, from, place, txn, out),
            Message::Hurry { txn, turn, .. } => {
                self.hurried(now, place, txn, turn, out);
                Ok(())
            }
            Message::Recall { .. } | Message::Invalidate { .. } => {
                self.recalled(now, from, place, message, out)
            }
        }
    }

    /// Somebody asks for a page.
    fn requested(
        &mut self,
        now: Micros,
        place: Place,
        request: Request,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let Place { gfn, home, .. } = place;
        self.directory.check_request(request.node, place)?;
        if self.park_request(place, request, out)? {
            self.leases.heard(request.turn);
            return Ok(());
        }
        if home != self.me && request.node == self.me {
            // It went out in the step in which the home changed.
            self.ask_again(now, place, out);
            return Ok(());
        }
        if home != self.me {
            return Err(Violation::NotHome { kind: "Request", gfn, from: request.node, home });
        }
        self.leases.heard(request.turn);
        self.directory.request(request, place, out, &mut self.counters);
        Ok(())
    }

    /// Whether the page's home is at the right end of the message.
    fn check_home(&self, from: NodeId, place: Place, message: &Message) -> Result<(), Violation> {
        let Place { gfn, home, .. } = place;
        let kind = message.kind();
        match message {
            Message::Done { .. } if home != self.me => Err(Violation::NotHome { kind, gfn, from, home }),
            Message::GrantExtent { .. }
            | Message::Merge { .. }
            | Message::AlreadyYours { .. }
            | Message::Recall { .. }
            | Message::Invalidate { .. }
            | Message::Hurry { .. }
            | Message::Grant { page: false, .. }
            | Message::Directory { .. }
            | Message::DirectoryEntry { .. }
            | Message::NewHome { .. }
                if home != from =>
            {
                Err(Violation::NotFromHome { kind, gfn, from, home })
            }
            _ => Ok(()),
        }
    }

    /// The requester says that it has what it asked for.
    fn done(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        txn: super::Txn,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        self.directory.check_done(from, place, txn)?;
        if self.deferred.get(place.gfn).is_some() {
            return Err(Violation::Unexpected {
                kind: "Done",
                gfn: place.gfn,
                from,
                expected: "it after this node's own part in the transaction",
            });
        }
        self.directory.done(now, place, out, &mut self.counters);
        Ok(())
    }

    /// When [`Event::Tick`] is due: the earliest time at which a deferred recall may be obeyed, an extent may become
    /// whole again, or a change of home must wait no longer. `None`: nothing waits for time. It changes with every event; a time in the past means at once.
    pub fn next_deadline(&self) -> Option<Micros> {
        let orders = self.deferred.iter().filter_map(|deferred| self.obeys_at(deferred));
        orders.chain(self.directory.next_deadline()).chain(self.next_handover()).min()
    }

    /// What this core is about, for others that share the node's memory with it.
    pub fn pace(&self) -> Pace {
        self.leases.pace(self.wanted.len() > 0)
    }

    /// What the node does in memory that is not this core's (all other cores together). Without this the core takes its
    /// memory for all there is. It decides only how long pages are held.
    pub fn hear_elsewhere(&mut self, pace: Pace) {
        self.leases.hear_elsewhere(pace);
    }

    /// Whether pages may be held only for as long as the node waits for others elsewhere: once it does not,
    /// [`Node::next_deadline`] may be earlier.
    pub fn holds_for_elsewhere(&self) -> bool {
        self.leases.waits_elsewhere()
            && self.deferred.iter().any(|deferred| self.obeys_at(deferred).is_some())
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much this node holds.
    pub fn holdings(&self) -> Holdings {
        self.pages.holdings()
    }

    /// How many pages only `node` may have, of those whose home this node is: they are gone if `node` is. Pages that were
    /// never written count too, in extents that it has as a whole. Looks at every page's entry.
    pub fn pages_only_at(&self, node: NodeId) -> u64 {
        self.directory.pages_only_at(node)
    }

    /// What this node's guest may do with a page; nothing where no RAM is.
    pub fn rights(&self, gfn: Gfn) -> Rights {
        self.place(gfn).map_or(Rights::None, |place| self.pages.rights(place))
    }

    /// The extents that are this node's as a whole, so that the driver need not track them. At the start these are the
    /// preloaded ones, for which there is no [`Action::OwnExtent`].
    pub fn whole_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.pages.whole().filter_map(|extent| self.extent_at(extent))
    }

    /// Requests of this node's that are not fulfilled yet.
    pub fn requests_out(&self) -> usize {
        self.wanted.len()
    }

    pub(super) fn place(&self, gfn: Gfn) -> Result<Place, Violation> {
        self.homes.place(&self.layout, gfn).ok_or(Violation::NotRam { gfn })
    }

    /// The extent at a dense index.
    pub(super) fn extent_at(&self, index: usize) -> Option<Extent> {
        self.layout.gfn_at(index * EXTENT_PAGES as usize).map(Gfn::extent)
    }

    /// Whether one more request may go out.
    pub(super) fn check_room(&self, gfn: Gfn) -> Result<(), Violation> {
        match self.wanted.len() < REQUESTS_MAX {
            true => Ok(()),
            false => Err(Violation::Flood { gfn, from: self.me, limit: REQUESTS_MAX }),
        }
    }
}
