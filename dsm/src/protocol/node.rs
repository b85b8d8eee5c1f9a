//! One node's side of the protocol, as a pure state machine: the way in, and the messages to itself.

use std::collections::VecDeque;
use std::sync::Arc;

use super::directory::{Directory, Request, REQUESTS_MAX};
use super::habit::HabitPolicy;
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
    /// How many nodes the guest has, 1 to [`NODES_MAX`](crate::ids::NODES_MAX).
    pub nodes: u8,
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
    pub(super) counters: Counters,
    /// Empty between events; kept for its memory.
    loopback: VecDeque<Message>,
}

impl Node {
    /// A node that holds nothing but the preloaded extents whose home it is (see [`Node::whole_extents`]).
    ///
    /// # Panics
    /// If `me` is not below `nodes`, `nodes` is above [`NODES_MAX`](crate::ids::NODES_MAX), or the layout names a home
    /// that is not below `nodes`: the configuration is checked where it enters.
    pub fn new(config: NodeConfig) -> Self {
        let NodeConfig { me, nodes, layout, lease, habits, preloaded } = config;
        assert!(me.0 < nodes, "{me} is none of {nodes} nodes");
        assert!(usize::from(nodes) <= crate::ids::NODES_MAX, "a guest of {nodes} nodes is too wide");
        let homes = layout.regions().iter().map(|region| region.home);
        homes.for_each(|home| assert!(home.0 < nodes, "the layout's {home} is none of {nodes} nodes"));
        let mut node = Node {
            me,
            nodes,
            pages: PageTable::new(&layout),
            wanted: InFlight::new(),
            deferred: InFlight::new(),
            leases: Leases::new(lease, me, nodes),
            directory: Directory::new(me, &layout, habits),
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
                let place = Place::find(&self.layout, Extent(extent).first());
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
            }
            Event::Message { from, message } => {
                if from == self.me || from.0 >= self.nodes {
                    let (kind, gfn) = (message.kind(), message.gfn());
                    return Err(Violation::Sender { kind, gfn, from, nodes: self.nodes });
                }
                self.receive(now, from, message, out)?;
            }
        }
        while let Some(message) = out.loopback.pop_front() {
            let result = self.receive(now, self.me, message, out);
            debug_assert!(result.is_ok(), "{} refuses its own {message:?}: {result:?}", self.me);
            result.map_err(|violation| Violation::Internal(Box::new(violation)))?;
        }
        Ok(())
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
                self.directory.check_request(from, place)?;
                self.leases.heard(turn);
                let request = Request { node: from, access, turn };
                self.directory.request(request, place, out, &mut self.counters);
                Ok(())
            }
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

    /// Whether the page's home is at the right end of the message.
    fn check_home(&self, from: NodeId, place: Place, message: &Message) -> Result<(), Violation> {
        let Place { gfn, home, .. } = place;
        let kind = message.kind();
        match message {
            Message::Request { .. } | Message::Done { .. } if home != self.me => {
                Err(Violation::NotHome { kind, gfn, from, home })
            }
            Message::GrantExtent { .. }
            | Message::Merge { .. }
            | Message::AlreadyYours { .. }
            | Message::Recall { .. }
            | Message::Invalidate { .. }
            | Message::Hurry { .. }
            | Message::Grant { page: false, .. }
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

    /// When [`Event::Tick`] is due: the earliest time at which a deferred recall may be obeyed, or an extent may become
    /// whole again. `None`: nothing waits for time. It changes with every event; a time in the past means at once.
    pub fn next_deadline(&self) -> Option<Micros> {
        let orders = self.deferred.iter().filter_map(|deferred| self.obeys_at(deferred));
        orders.chain(self.directory.next_deadline()).min()
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
        let first = |extent: usize| self.layout.gfn_at(extent * EXTENT_PAGES as usize);
        self.pages.whole().filter_map(move |extent| first(extent).map(Gfn::extent))
    }

    /// Requests of this node's that are not fulfilled yet.
    pub fn requests_out(&self) -> usize {
        self.wanted.len()
    }

    pub(super) fn place(&self, gfn: Gfn) -> Result<Place, Violation> {
        Place::find(&self.layout, gfn).ok_or(Violation::NotRam { gfn })
    }

    /// Whether one more request may go out.
    pub(super) fn check_room(&self, gfn: Gfn) -> Result<(), Violation> {
        match self.wanted.len() < REQUESTS_MAX {
            true => Ok(()),
            false => Err(Violation::Flood { gfn, from: self.me, limit: REQUESTS_MAX }),
        }
    }
}
