//! The directory: who owns each page whose home this node is, and what is being done about it.
//!
//! An entry changes when its transaction is done, never before: while one is under way the entry says how
//! things stood when it began.

use std::sync::Arc;

use super::extent::{Entry, ExtentEntry, Extents, Split};
use super::habit::HabitPolicy;
use super::merge::Merging;
use super::node::Outbox;
use super::table::{ForPage, InFlight, Place};
#[cfg(test)]
use super::{habit::Habit, table::Rights};
use super::{Access, Counters, Message, Micros, Turn, Txn, Violation};
use crate::ids::{Gfn, NodeId, NodeSet, EXTENT_PAGES, NODES_MAX};
use crate::layout::Layout;

/// Most requests that one node may have out at one home. A guest of 288 vCPUs with 64 asynchronous page faults
/// each stays below a third of it.
pub(super) const REQUESTS_MAX: usize = 1 << 16;

/// A request, as the directory sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Request {
    /// Who asks.
    pub node: NodeId,
    /// What for.
    pub access: Access,
    /// How long it has been collecting.
    pub turn: Turn,
}

/// Requests for one page; a node asks once at a time, so they are bounded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Queue {
    waiting: [Option<Request>; NODES_MAX],
}

impl Queue {
    const EMPTY: Queue = Queue { waiting: [None; NODES_MAX] };

    fn contains(&self, node: NodeId) -> bool {
        self.waiting.iter().flatten().any(|waiting| waiting.node == node)
    }

    /// Whether there was room: there is, when no node is in twice.
    fn push(&mut self, request: Request) -> bool {
        let free = self.waiting.iter_mut().find(|slot| slot.is_none());
        free.map(|slot| *slot = Some(request)).is_some()
    }

    /// Takes out the request with the earliest turn; of equal turns, the one that came first.
    fn pop(&mut self) -> Option<Request> {
        let mut earliest = 0;
        for (at, request) in self.waiting.iter().enumerate() {
            let (Some(request), Some(best)) = (request, self.waiting[earliest]) else { break };
            if request.turn.is_before(best.turn) {
                earliest = at;
            }
        }
        let popped = self.waiting[earliest].take();
        self.waiting[earliest..].rotate_left(1);
        popped
    }
}

/// What is being done about one page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Transaction {
    place: Place,
    /// Its number.
    pub txn: Txn,
    /// Who asked.
    pub requester: NodeId,
    /// What it is to get.
    pub access: Access,
    /// Who sends the grant: the home itself when the requester's own copy is current.
    pub supplier: NodeId,
    /// The requester has a current copy: the supplier gives nothing up.
    upgrade: bool,
    /// Who must tell the requester that its copy is gone.
    pub invalidated: NodeSet,
    /// The earliest turn of the requester and of all who wait.
    turn: Turn,
    queue: Queue,
}

impl ForPage for Transaction {
    fn gfn(&self) -> Gfn {
        self.place.gfn
    }
}

impl Transaction {
    /// Lets a request wait, and tells the holders if it is the earliest.
    fn enqueue(&mut self, request: Request, out: &mut Outbox<'_>) {
        let fits = self.queue.push(request);
        debug_assert!(fits, "no node waits twice");
        if !request.turn.is_before(self.turn) {
            return;
        }
        self.turn = request.turn;
        let mut holders = self.invalidated;
        if !self.upgrade {
            holders.insert(self.supplier);
        }
        for holder in holders.iter() {
            out.send(holder, Message::Hurry { gfn: self.place.gfn, txn: self.txn, turn: self.turn });
        }
    }
}

/// One node's directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Directory {
    me: NodeId,
    habits: HabitPolicy,
    extents: Extents,
    merging: Merging,
    transactions: InFlight<Transaction>,
    next: Txn,
    /// For each node, its requests under way or waiting.
    asked: [u32; NODES_MAX],
}

impl Directory {
    /// The directory of node `me`; nobody has anything yet.
    pub fn new(me: NodeId, layout: &Arc<Layout>, habits: HabitPolicy) -> Self {
        let merging = Merging::new(habits.merge, (layout.pages() / EXTENT_PAGES) as usize);
        let (extents, transactions) = (Extents::new(layout), InFlight::new());
        Directory { me, habits, extents, merging, transactions, next: Txn(0), asked: [0; NODES_MAX] }
    }

    /// Says that this node itself has all of an extent from the start.
    pub fn preload(&mut self, extent: usize) {
        self.extents.own(extent, self.me);
    }

    /// Pages that no node but `node` has.
    pub fn pages_only_at(&self, node: NodeId) -> u64 {
        self.extents.pages_only_at(node)
    }

    /// Who has the extent.
    pub fn extent(&self, extent: usize) -> &ExtentEntry {
        self.extents.get(extent)
    }

    /// Whether something is being done about a page of the extent.
    pub fn is_busy(&self, extent: usize) -> bool {
        matches!(self.extents.get(extent), ExtentEntry::Split(split) if split.is_busy())
    }

    /// Whether `node` has asked for something and has not said that it is done.
    pub fn awaits(&self, node: NodeId) -> bool {
        self.asked[node.index()] > 0
    }

    /// Whether `node` has a page whose entry is here, or has asked for one.
    pub fn concerns(&self, node: NodeId) -> bool {
        let has = |entry: &ExtentEntry| match entry {
            ExtentEntry::Untouched => false,
            ExtentEntry::Whole(owner) => *owner == node,
            ExtentEntry::Split(split) => split.entries().any(|entry| entry.holders().contains(node)),
        };
        self.awaits(node) || self.extents.iter().any(has)
    }

    /// Gives away what is known of an extent, in which nothing is under way.
    pub fn take_extent(&mut self, extent: usize) -> ExtentEntry {
        self.merging.forget(extent);
        self.extents.take(extent)
    }

    /// Takes over what another home knows of an extent.
    pub fn put_extent(&mut self, now: Micros, place: Place, entry: ExtentEntry) {
        self.extents.put(place.extent, entry);
        let calm = self.extents.pages_mut(place.extent).is_some_and(|split| split.settle(place.page, now));
        if calm {
            self.merging.note(place, now, &mut self.extents);
        }
    }

    /// What is being done about the page.
    pub fn transaction(&self, gfn: Gfn) -> Option<&Transaction> {
        self.transactions.get(gfn)
    }

    /// Whether `from` may ask for the page now.
    ///
    /// # Errors
    /// If it has asked already, or asked for too much.
    pub fn check_request(&self, from: NodeId, place: Place) -> Result<(), Violation> {
        let gfn = place.gfn;
        if let Some(transaction) = self.transactions.get(gfn) {
            if transaction.requester == from || transaction.queue.contains(from) {
                return Err(Violation::AskedTwice { gfn, from });
            }
        }
        if self.asked[from.index()] as usize >= REQUESTS_MAX {
            return Err(Violation::Flood { gfn, from, limit: REQUESTS_MAX });
        }
        Ok(())
    }

    /// A node asks for a page ([`Directory::check_request`] has passed).
    pub fn request(&mut self, request: Request, place: Place, out: &mut Outbox<'_>, counters: &mut Counters) {
        let (gfn, from) = (place.gfn, request.node);
        match *self.extents.get(place.extent) {
            ExtentEntry::Untouched => {
                self.extents.own(place.extent, from);
                let txn = self.number();
                return out.send(from, Message::GrantExtent { gfn, txn });
            }
            ExtentEntry::Whole(owner) if owner == from => {
                return out.send(from, Message::AlreadyYours { gfn });
            }
            ExtentEntry::Whole(owner) => self.extents.split(place.extent, owner),
            ExtentEntry::Split(_) => {}
        }
        if let Some(transaction) = self.transactions.get_mut(gfn) {
            self.asked[from.index()] += 1;
            counters.queued += 1;
            return transaction.enqueue(request, out);
        }
        if let Some(transaction) = self.begin(request, place, Queue::EMPTY, out, counters) {
            self.transactions.put(transaction);
            self.pages_mut(place).begin();
            self.asked[from.index()] += 1;
        }
    }

    /// Whether `from` may say that transaction `txn` of the page is done.
    ///
    /// # Errors
    /// If there is none, another one, or another node's.
    pub fn check_done(&self, from: NodeId, place: Place, txn: Txn) -> Result<(), Violation> {
        let transaction = self.transactions.get(place.gfn);
        match transaction.filter(|transaction| transaction.requester == from) {
            Some(transaction) if transaction.txn == txn => Ok(()),
            other => Err(Violation::Transaction {
                kind: "Done",
                gfn: place.gfn,
                from,
                seen: txn,
                expected: other.map(|transaction| transaction.txn),
            }),
        }
    }

    /// The requester has what it asked for ([`Directory::check_done`] has passed): the entry changes, and the next
    /// request is served.
    pub fn done(&mut self, now: Micros, place: Place, out: &mut Outbox<'_>, counters: &mut Counters) {
        let Some(mut done) = self.transactions.take(place.gfn) else { return };
        let requester = done.requester;
        let pages = self.pages_mut(place);
        let entry = match done.access {
            Access::Write => Entry::Exclusive(requester),
            Access::Read => {
                let mut set = pages.page_mut(place.page).0.holders();
                set.insert(requester);
                Entry::Shared(set)
            }
        };
        pages.set(place.page, entry);
        self.asked[requester.index()] -= 1;
        while let Some(waiting) = done.queue.pop() {
            if let Some(transaction) = self.begin(waiting, place, done.queue, out, counters) {
                return self.transactions.put(transaction);
            }
            self.asked[waiting.node.index()] -= 1;
        }
        if self.pages_mut(place).end(place.page, now) {
            self.merging.note(place, now, &mut self.extents);
        }
    }

    /// When [`Directory::merge_due`] has something to do.
    pub fn next_deadline(&self) -> Option<Micros> {
        self.merging.next_deadline()
    }

    /// Makes extents whole again whose time has come.
    pub fn merge_due(&mut self, now: Micros, out: &mut Outbox<'_>) {
        let mut looked = 0;
        while let Some((place, owner)) = self.merging.next_due(now, &mut looked, &mut self.extents) {
            self.extents.own(place.extent, owner);
            let txn = self.number();
            out.send(owner, Message::Merge { gfn: place.gfn, txn });
        }
    }

    /// Begins a transaction, or answers at once if there is nothing to do.
    fn begin(
        &mut self,
        Request { node, access, turn }: Request,
        place: Place,
        queue: Queue,
        out: &mut Outbox<'_>,
        counters: &mut Counters,
    ) -> Option<Transaction> {
        let gfn = place.gfn;
        let policy = self.habits;
        let (entry, habit) = self.pages_mut(place).page_mut(place.page);
        if entry.allows(node, access) {
            out.send(node, Message::AlreadyYours { gfn });
            return None;
        }
        let asked = access;
        let access = habit.meets(policy, entry, node, asked);
        counters.reads_given_to_write += u64::from(access > asked);
        let txn = self.number();
        counters.transactions += 1;
        let holders = entry.holders();
        let upgrade = holders.contains(node);
        let supplier = match holders.contains(self.me) || upgrade {
            true => self.me,
            false => holders.first().unwrap_or(self.me),
        };
        let invalidated = match access {
            Access::Read => NodeSet::EMPTY,
            Access::Write if upgrade => holders.without(node),
            Access::Write => holders.without(supplier),
        };
        let acks = invalidated.len() as u8;
        if upgrade {
            out.send(node, Message::Grant { gfn, txn, rights: access, page: false, acks });
        } else {
            out.send(supplier, Message::Recall { gfn, txn, requester: node, turn, access, acks });
        }
        for sharer in invalidated.iter() {
            out.send(sharer, Message::Invalidate { gfn, txn, requester: node, turn });
        }
        Some(Transaction { place, txn, requester: node, access, supplier, upgrade, invalidated, turn, queue })
    }

    /// The pages of an extent that is split: transactions are only of such.
    fn pages_mut(&mut self, place: Place) -> &mut Split {
        let pages = self.extents.pages_mut(place.extent);
        pages.unwrap_or_else(|| unreachable!("{place:?} has an entry of its own only after the split"))
    }

    fn number(&mut self) -> Txn {
        let txn = self.next;
        self.next = Txn(txn.0.wrapping_add(1));
        txn
    }
}

/// What only tests may see.
#[cfg(test)]
impl Directory {
    /// What is under way.
    pub fn transactions(&self) -> &InFlight<Transaction> {
        &self.transactions
    }

    /// Makes the next transaction's number the lowest that is free, so that numbers do not grow.
    pub fn reuse_numbers(&mut self) {
        let used = |txn: &Txn| self.transactions.iter().any(|transaction| transaction.txn == *txn);
        self.next = (0..).map(Txn).find(|txn| !used(txn)).unwrap_or_default();
    }

    /// How many requests count as under way or waiting.
    pub fn counts_requests(&self) -> u32 {
        self.asked.iter().sum()
    }

    /// The page's entry, once its extent is split.
    pub fn entry_if_split(&mut self, place: Place) -> Option<Entry> {
        self.extents.pages_mut(place.extent).map(|pages| pages.page_mut(place.page).0)
    }

    /// Changes the page's entry, if its extent is split.
    pub fn set_entry(&mut self, place: Place, entry: Entry) {
        self.extents.pages_mut(place.extent).into_iter().for_each(|pages| pages.set(place.page, entry));
    }

    /// What is known of how the page is used, once its extent is split.
    pub fn habit(&self, place: Place) -> Option<Habit> {
        match self.extents.get(place.extent) {
            ExtentEntry::Split(pages) => Some(pages.habit(place.page)),
            _ => None,
        }
    }

    /// What the page's requester is to get, as far as the entry will say.
    pub fn access_mut(&mut self, gfn: Gfn) -> Option<&mut Access> {
        self.transactions.get_mut(gfn).map(|transaction| &mut transaction.access)
    }

    /// Forgets past times, and how often habits were wrong.
    pub fn forget_past(&mut self) {
        self.merging.forget_times();
        self.extents.forget_past();
    }

    /// Forgets to whom an extent was granted.
    pub fn forget_extent(&mut self, extent: usize) {
        self.extents.forget(extent);
    }

    /// Forgets the request that would be served next for the page.
    pub fn forget_waiting(&mut self, gfn: Gfn) {
        if let Some(forgotten) =
            self.transactions.get_mut(gfn).and_then(|transaction| transaction.queue.pop())
        {
            self.asked[forgotten.node.index()] -= 1;
        }
    }

    /// Forgets what is being done about the page, and who waits.
    pub fn forget_transaction(&mut self, gfn: Gfn) {
        let forgotten = self.transactions.take(gfn);
        forgotten.into_iter().for_each(|transaction| self.asked[transaction.requester.index()] -= 1);
    }

    /// Counts a request of `node` that there is not.
    pub fn count_request(&mut self, node: NodeId) {
        self.asked[node.index()] += 1;
    }

    /// Whoever waits for the page with the latest turn is now the first.
    pub fn latest_waits_first(&mut self, gfn: Gfn) {
        let Some(transaction) = self.transactions.get_mut(gfn) else { return };
        let waiting = &mut transaction.queue.waiting;
        waiting.iter_mut().flatten().for_each(|request| request.turn.0 = request.turn.0.wrapping_neg());
        // Of equal turns, the one that came last.
        let count = waiting.iter().flatten().count();
        waiting[..count].reverse();
    }

    /// Who has a page.
    pub fn recorded(&self, place: Place) -> Vec<(NodeId, Rights)> {
        match self.extents.get(place.extent) {
            ExtentEntry::Untouched => vec![],
            ExtentEntry::Whole(owner) => vec![(*owner, Rights::Write)],
            ExtentEntry::Split(pages) => match pages.entry(place.page) {
                Entry::Exclusive(owner) => vec![(owner, Rights::Write)],
                Entry::Shared(set) => set.iter().map(|node| (node, Rights::Read)).collect(),
            },
        }
    }

    /// Who has the page's extent as a whole.
    pub fn whole_owner(&self, place: Place) -> Option<NodeId> {
        match self.extents.get(place.extent) {
            ExtentEntry::Whole(owner) => Some(*owner),
            _ => None,
        }
    }

    /// Some node has all of the extent.
    pub fn own_extent(&mut self, extent: usize, owner: NodeId) {
        self.extents.own(extent, owner);
    }

    /// The extent is split, and all pages are some node's.
    pub fn split_extent(&mut self, extent: usize, owner: NodeId) {
        self.extents.split(extent, owner);
    }

    /// Every extent that is one node's counts as calm, whatever is under way.
    pub fn calm_extents(&mut self) {
        self.extents.calm();
    }

    /// No extent is looked at any more.
    pub fn forget_looks(&mut self) {
        self.merging.forget_looks();
    }

    /// Whether extents are merged.
    pub fn merges(&self) -> bool {
        self.habits.merge.is_some()
    }

    /// Whether the page's extent could be whole but is split.
    pub fn could_merge(&self, place: Place) -> bool {
        matches!(self.extents.get(place.extent), ExtentEntry::Split(pages) if pages.sole_owner().is_some())
    }

    /// What is counted of a split extent is so.
    pub fn check_counts(&self) -> Result<(), String> {
        let under_way = |extent| self.transactions.iter().filter(|t| t.place.extent == extent).count();
        self.extents.check_counts(under_way)
    }
}
