//! An extent's directory moves from its home to another node.
//!
//! ```text
//! H, the home          H', the next           X, any other node
//! begins no transaction until the last is done
//! Directory, DirectoryEntry... -> keeps them
//! NewHome ------------->                  --> asks H' from now on
//!                      <------- HomeKnown --- (and to H)
//!                      all have said it: serves
//! ```
//! Whatever H has ever said of the extent, and it has said it to the end, is in front of its `NewHome` on every link; and H' says
//! nothing before everybody has acknowledged that. So no node ever hears of an extent from a home that it does not know. Each
//! home has a [`Term`], and whatever names another one is refused.
//!
//! **Until the last is done** the home lets new requests wait. A device may hold a page that the last transaction needs and wait for
//! one that is not served now, so the home serves again when that has gone on for [`PATIENCE_US`], for as long, and then tries again
//! for twice as long.
//!
//! A request that was on its way to H is behind nothing: H sends it back (`Moved`), as it does with those that came while the
//! last transactions came to their end, and the requester, which has read `NewHome` by then, asks H'. H knows
//! that none can come any more when it has heard `HomeKnown` from everybody.

use super::directory::Request;
use super::extent::{Entry, ExtentEntry};
use super::homes::{Home, Term};
use super::node::{Node, Outbox};
use super::table::{Place, Rights};
use super::{DirectoryState, Message, Micros, Violation};
use crate::ids::{Extent, Gfn, NodeId, NodeSet};

/// How long a home first lets requests wait so that the last transaction may end, in microseconds.
const PATIENCE_US: Micros = 10_000;
/// Most doublings of that.
const DOUBLINGS_MAX: u8 = 6;

/// A request that is not served before the extent's home has changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Parked {
    place: Place,
    request: Request,
}

/// What the old home has still to do for an extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Leaving {
    /// Its last transactions are not done yet.
    Calming(Calming),
    /// These have not said that they know the new home, of this term.
    Told { term: Term, unaware: NodeSet },
}

/// Waiting for the last transaction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Calming {
    to: NodeId,
    /// New requests wait in `parked`; else they are served.
    holds: bool,
    /// When that changes.
    until: Micros,
    /// How often it has been tried, up to [`DOUBLINGS_MAX`].
    tries: u8,
    parked: Vec<Parked>,
}

/// What the new home knows before it serves.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Arriving {
    term: Term,
    known: Option<ExtentEntry>,
    /// The old home, once it has said everything.
    from: Option<NodeId>,
    aware: NodeSet,
    parked: Vec<Parked>,
}

/// The extents whose home is changing, by dense index; seldom more than a few.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Handovers {
    leaving: Vec<(usize, Leaving)>,
    arriving: Vec<(usize, Arriving)>,
}

impl Handovers {
    fn leaving(&mut self, extent: usize) -> Option<&mut Leaving> {
        self.leaving.iter_mut().find(|(of, _)| *of == extent).map(|(_, leaving)| leaving)
    }

    fn arriving(&mut self, extent: usize) -> Option<&mut Arriving> {
        self.arriving.iter_mut().find(|(of, _)| *of == extent).map(|(_, arriving)| arriving)
    }

    /// What is known of an extent that comes, from now on if nothing was.
    fn arriving_in(&mut self, extent: usize, term: Term) -> &mut Arriving {
        if self.arriving(extent).is_none() {
            let (aware, parked) = (NodeSet::EMPTY, Vec::new());
            self.arriving.push((extent, Arriving { term, known: None, from: None, aware, parked }));
        }
        let at = self.arriving.iter().position(|(of, _)| *of == extent).unwrap_or_default();
        &mut self.arriving[at].1
    }

    /// Whether no home is changing, as far as this node has a part in it.
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty() && self.arriving.is_empty()
    }
}

fn park(parked: &mut Vec<Parked>, place: Place, request: Request) -> Result<(), Violation> {
    let (gfn, from) = (place.gfn, request.node);
    if parked.iter().any(|parked| parked.place.gfn == gfn && parked.request.node == from) {
        return Err(Violation::AskedTwice { gfn, from });
    }
    parked.push(Parked { place, request });
    Ok(())
}

impl Node {
    /// Whether [`Event::HandOver`](super::Event::HandOver) is possible: this node is the extent's home and serves, `to` is another
    /// member, and the last change of the extent's home that this node had a part in is over.
    pub fn may_hand_over(&self, extent: Extent, to: NodeId) -> bool {
        let Ok(place) = self.place(extent.first()) else { return false };
        let concerns = |of: &usize| *of == place.extent;
        place.home == self.me
            && to != self.me
            && self.homes.members.contains(to)
            && !self.handovers.leaving.iter().any(|(of, _)| concerns(of))
            && !self.handovers.arriving.iter().any(|(of, _)| concerns(of))
    }

    /// The extents whose home is not the one that the layout names, and their homes.
    pub fn homes(&self) -> impl Iterator<Item = (Extent, Home)> + '_ {
        let moved = self.homes.iter().filter(|(_, home)| home.term != Term::default());
        moved.filter_map(|(extent, home)| Some((self.extent_at(extent)?, home)))
    }

    /// The extents whose directory this node keeps.
    pub fn home_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let own = self.homes.iter().filter(|(_, home)| home.node == self.me);
        own.filter_map(|(extent, _)| self.extent_at(extent))
    }

    pub(super) fn hand_over(&mut self, now: Micros, extent: Extent, to: NodeId) -> Result<(), Violation> {
        let place = self.place(extent.first())?;
        if !self.may_hand_over(extent, to) {
            return Err(Violation::NotHandedOver { gfn: place.gfn, to });
        }
        let until = now.saturating_add(PATIENCE_US);
        let calming = Calming { to, holds: true, until, tries: 0, parked: Vec::new() };
        self.handovers.leaving.push((place.extent, Leaving::Calming(calming)));
        Ok(())
    }

    /// Passes extents on that are to leave and in which nothing is under way any more. What this node has to say to itself as their
    /// home has been said.
    pub(super) fn leave_where_calm(&mut self, out: &mut Outbox<'_>) {
        while let Some(place) = self.next_calm() {
            self.leave(place, out);
        }
    }

    /// An extent that can be passed on.
    fn next_calm(&self) -> Option<Place> {
        let waits = |(extent, leaving): &&(usize, Leaving)| {
            matches!(leaving, Leaving::Calming(_)) && !self.directory.is_busy(*extent)
        };
        let &(extent, _) = self.handovers.leaving.iter().find(waits)?;
        self.place(self.extent_at(extent)?.first()).ok()
    }

    /// Passes an extent on that is to leave.
    fn leave(&mut self, place: Place, out: &mut Outbox<'_>) {
        let Some(leaving) = self.handovers.leaving(place.extent) else { return };
        let Leaving::Calming(Calming { to, parked, .. }) = leaving else { return };
        let (to, parked) = (*to, std::mem::take(parked));
        let term = self.homes.get(place.extent).term.next();
        let others = self.homes.members.without(self.me);
        *leaving = Leaving::Told { term, unaware: others };
        let Some(gfn) = self.first_of(place) else { return };
        let known = self.directory.take_extent(place.extent);
        send_directory(&known, (gfn, term), to, out);
        for node in others.iter() {
            out.send(node, Message::NewHome { gfn, term, home: to });
        }
        self.homes.set(place.extent, Home { node: to, term });
        for Parked { place, request } in parked {
            out.send(request.node, Message::Moved { gfn: place.gfn });
        }
    }

    /// When [`Node::handovers_due`] has something to do.
    pub(super) fn next_handover(&self) -> Option<Micros> {
        let waits = |(_, leaving): &(usize, Leaving)| match leaving {
            Leaving::Calming(calming) => Some(calming.until),
            Leaving::Told { .. } => None,
        };
        self.handovers.leaving.iter().filter_map(waits).min()
    }

    /// Where requests have waited for long enough they are served, and where they were served for long enough they wait.
    pub(super) fn handovers_due(&mut self, now: Micros, out: &mut Outbox<'_>) {
        for (_, leaving) in &mut self.handovers.leaving {
            let Leaving::Calming(calming) = leaving else { continue };
            if calming.until > now {
                continue;
            }
            calming.holds = !calming.holds;
            calming.tries = (calming.tries + u8::from(calming.holds)).min(DOUBLINGS_MAX);
            calming.until = now.saturating_add(PATIENCE_US << calming.tries);
            for Parked { place, request } in std::mem::take(&mut calming.parked) {
                self.directory.request(request, place, out, &mut self.counters);
            }
        }
    }

    /// What becomes of a request for an extent whose home is changing: `Ok(false)` if it is not.
    pub(super) fn park_request(
        &mut self,
        place: Place,
        request: Request,
        out: &mut Outbox<'_>,
    ) -> Result<bool, Violation> {
        let is_home = place.home == self.me;
        match self.handovers.leaving(place.extent) {
            Some(Leaving::Calming(Calming { holds: true, parked, .. })) => {
                return park(parked, place, request).map(|()| true);
            }
            Some(Leaving::Told { unaware, .. }) if unaware.contains(request.node) => {
                out.send(request.node, Message::Moved { gfn: place.gfn });
                return Ok(true);
            }
            _ => {}
        }
        match self.handovers.arriving(place.extent) {
            Some(arriving) if is_home || arriving.aware.contains(request.node) => {
                park(&mut arriving.parked, place, request).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// The home says what it knows of an extent.
    pub(super) fn directory_came(
        &mut self,
        from: NodeId,
        place: Place,
        message: Message,
    ) -> Result<(), Violation> {
        let Message::Directory { gfn, term, state } = message else { return Ok(()) };
        let named = state.node();
        self.check_term("Directory", from, place, term)?;
        if place.page != 0 || named.is_some_and(|node| !self.homes.members.contains(node)) {
            return Err(Violation::unexpected(
                "Directory",
                gfn,
                from,
                "it for a whole extent and about members",
            ));
        }
        let arriving = self.handovers.arriving_in(place.extent, term);
        if arriving.known.is_some() {
            return Err(Violation::unexpected("Directory", gfn, from, "one for each change of the home"));
        }
        arriving.known = Some(match state {
            DirectoryState::Untouched => ExtentEntry::Untouched,
            DirectoryState::Whole(owner) => ExtentEntry::Whole(owner),
            DirectoryState::Split(owner) => ExtentEntry::split_of(owner),
        });
        Ok(())
    }

    /// The home says who has a page of the extent that it hands over.
    pub(super) fn directory_entry_came(
        &mut self,
        from: NodeId,
        place: Place,
        holders: NodeSet,
    ) -> Result<(), Violation> {
        let members = self.homes.members;
        let known = self.handovers.arriving(place.extent).and_then(|arriving| arriving.known.as_mut());
        match (known, Entry::of(holders)) {
            (Some(ExtentEntry::Split(split)), Some(entry)) if holders.is_subset_of(members) => {
                split.set(place.page, entry);
                Ok(())
            }
            _ => {
                let expected = "it behind the Directory of a split extent, and about members";
                Err(Violation::unexpected("DirectoryEntry", place.gfn, from, expected))
            }
        }
    }

    /// The home says that another node, perhaps this one, is the home from now on.
    pub(super) fn new_home(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        home: Home,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let (kind, gfn) = ("NewHome", place.gfn);
        self.check_term(kind, from, place, home.term)?;
        if place.page != 0 || home.node == from || !self.homes.members.contains(home.node) {
            return Err(Violation::unexpected(kind, gfn, from, "it for a whole extent and another member"));
        }
        let refused = |expected| Err(Violation::unexpected(kind, gfn, from, expected));
        if self.is_under_way(place.extent) {
            return refused("it when every transaction is done");
        }
        let coming = self.handovers.arriving.iter().find(|(of, _)| *of == place.extent);
        if home.node == self.me {
            let known = coming.and_then(|(_, coming)| coming.known.as_ref());
            if !known.is_some_and(|known| self.fits(place, known)) {
                return refused("it behind a Directory that is true of this node");
            }
            self.handovers.arriving_in(place.extent, home.term).from = Some(from);
        } else {
            // (The Directory is this home's word; that others know of it, perhaps only theirs.)
            if coming.is_some() {
                return refused("this node to be named, which got the Directory or of which others know");
            }
            out.send(home.node, Message::HomeKnown { gfn, term: home.term });
        }
        out.send(from, Message::HomeKnown { gfn, term: home.term });
        self.homes.set(place.extent, home);
        self.serve_if_known(now, place, out);
        Ok(())
    }

    /// Whether this node has a part in a transaction of the extent.
    fn is_under_way(&self, extent: usize) -> bool {
        self.deferred.iter().any(|deferred| deferred.place.extent == extent)
            || self.wanted.iter().any(|wanted| wanted.place().extent == extent && wanted.is_being_served())
    }

    /// Whether what the old home says of this node itself is so.
    fn fits(&self, place: Place, known: &ExtentEntry) -> bool {
        let whole = *known == ExtentEntry::Whole(self.me);
        let ExtentEntry::Split(split) = known else {
            return self.pages.is_whole(place) == whole && (whole || self.pages.is_bare(place));
        };
        let rights = |entry: Entry| match entry {
            Entry::Exclusive(owner) if owner == self.me => Rights::Write,
            Entry::Shared(set) if set.contains(self.me) => Rights::Read,
            _ => Rights::None,
        };
        let agrees = |(page, entry)| self.pages.rights(Place { page, ..place }) == rights(entry);
        !self.pages.is_whole(place) && split.entries().enumerate().all(agrees)
    }

    fn check_term(
        &self,
        kind: &'static str,
        from: NodeId,
        place: Place,
        term: Term,
    ) -> Result<(), Violation> {
        let known = self.homes.get(place.extent);
        match term == known.term.next() {
            true => Ok(()),
            false => Err(Violation::WrongTerm { kind, gfn: place.gfn, from, seen: term, known: known.term }),
        }
    }

    /// Another node knows who the new home is: this one, or that this is the old one.
    pub(super) fn home_known(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        term: Term,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let twice =
            |gfn| Violation::unexpected("HomeKnown", gfn, from, "it once for each change of the home");
        if let Some(Leaving::Told { term: told, unaware }) = self.handovers.leaving(place.extent) {
            if *told == term {
                if !unaware.contains(from) {
                    return Err(twice(place.gfn));
                }
                unaware.remove(from);
                let over = unaware.is_empty();
                self.handovers.leaving.retain(|(of, _)| !(over && *of == place.extent));
                return Ok(());
            }
        }
        // The new home may hear of it from others before it hears from the old one.
        let is_known = self.handovers.arriving(place.extent).is_some_and(|arriving| arriving.term == term);
        if !is_known {
            self.check_term("HomeKnown", from, place, term)?;
            if place.home == self.me {
                let expected = "it once this home has handed the extent over";
                return Err(Violation::unexpected("HomeKnown", place.gfn, from, expected));
            }
        }
        let arriving = self.handovers.arriving_in(place.extent, term);
        if arriving.aware.contains(from) {
            return Err(twice(place.gfn));
        }
        arriving.aware.insert(from);
        self.serve_if_known(now, place, out);
        Ok(())
    }

    /// The new home begins to serve when the old one has said everything and all know of it.
    fn serve_if_known(&mut self, now: Micros, place: Place, out: &mut Outbox<'_>) {
        let others = self.homes.members.without(self.me);
        let ready = |arriving: &Arriving| {
            arriving.from.is_some_and(|from| others.without(from).is_subset_of(arriving.aware))
        };
        let at = self.handovers.arriving.iter().position(|(of, coming)| *of == place.extent && ready(coming));
        let Some((_, arriving)) = at.map(|at| self.handovers.arriving.swap_remove(at)) else { return };
        let Some(known) = arriving.known else { return };
        self.directory.put_extent(now, place, known);
        self.counters.homes_taken += 1;
        for Parked { place, request } in arriving.parked {
            self.directory.request(request, place, out, &mut self.counters);
        }
    }

    /// Our request came too late to a home: asks the new one.
    pub(super) fn moved(
        &mut self,
        now: Micros,
        from: NodeId,
        place: Place,
        out: &mut Outbox<'_>,
    ) -> Result<(), Violation> {
        let (kind, gfn) = ("Moved", place.gfn);
        let wanted = self.wanted.get(gfn).ok_or(Violation::Unasked { kind, gfn, from })?;
        let Home { node: asked, term } = wanted.asked_of();
        if wanted.is_being_served() || asked != from || term == self.homes.get(place.extent).term {
            return Err(Violation::unexpected(kind, gfn, from, "it of an old home that was asked"));
        }
        self.ask_again(now, place, out);
        Ok(())
    }

    fn first_of(&self, place: Place) -> Option<Gfn> {
        self.extent_at(place.extent).map(Extent::first)
    }
}

/// Tells `to` all that is known of an extent.
fn send_directory(known: &ExtentEntry, (gfn, term): (Gfn, Term), to: NodeId, out: &mut Outbox<'_>) {
    let state = match known {
        ExtentEntry::Untouched => DirectoryState::Untouched,
        ExtentEntry::Whole(owner) => DirectoryState::Whole(*owner),
        ExtentEntry::Split(split) => DirectoryState::Split(split.usual_owner()),
    };
    out.send(to, Message::Directory { gfn, term, state });
    let ExtentEntry::Split(split) = known else { return };
    let usual = Entry::Exclusive(split.usual_owner());
    for (page, entry) in split.entries().enumerate().filter(|(_, entry)| *entry != usual) {
        out.send(to, Message::DirectoryEntry { gfn: Gfn(gfn.0 + page as u64), holders: entry.holders() });
    }
}

/// What only tests may see.
#[cfg(test)]
impl Handovers {
    /// All nodes count as told of every extent that comes.
    pub fn believe_all_know(&mut self, members: NodeSet) {
        self.arriving.iter_mut().for_each(|(_, arriving)| arriving.aware = members);
    }

    /// Forgets who asked for a page of an extent that comes.
    pub fn forget_early_requests(&mut self) {
        self.arriving.iter_mut().for_each(|(_, arriving)| arriving.parked.clear());
    }

    /// What waits for the last transaction waits for ever.
    pub fn forget_deadlines(&mut self) {
        for (_, leaving) in &mut self.leaving {
            if let Leaving::Calming(calming) = leaving {
                calming.until = Micros::MAX;
            }
        }
    }

    /// Forgets past times and how often it was tried.
    pub fn forget_times(&mut self) {
        for (_, leaving) in &mut self.leaving {
            if let Leaving::Calming(calming) = leaving {
                calming.tries = 0;
                if calming.until < Micros::MAX {
                    calming.until = PATIENCE_US;
                }
            }
        }
    }
}

#[cfg(test)]
impl Node {
    /// What `node` has still to say of the page's home: the term that this node, as the old home, has told it and has not heard back;
    /// and the term for which this node is the next home, and whether `node` has said that it knows it.
    pub fn awaits_home_known(&self, gfn: Gfn, node: NodeId) -> (Option<Term>, Option<(Term, bool)>) {
        let Ok(Place { extent, .. }) = self.place(gfn) else { return (None, None) };
        let told = self.handovers.leaving.iter().find_map(|(of, leaving)| match leaving {
            Leaving::Told { term, unaware } if *of == extent && unaware.contains(node) => Some(*term),
            _ => None,
        });
        let arriving = self.handovers.arriving.iter().find(|(of, _)| *of == extent);
        (told, arriving.map(|(_, arriving)| (arriving.term, arriving.aware.contains(node))))
    }

    /// Passes an extent on that is to leave, whatever is under way in it.
    pub(super) fn leave_at_once(&mut self, place: Place, actions: &mut Vec<super::Action>) {
        let mut out = Outbox::new(self.me, actions);
        self.leave(place, &mut out);
    }
}
