//! This node's guest: faults and releases, and the exchanges with the owner that they need.
//!
//! The owner's own guest goes the same ways, with itself as the other side and no messages.

use super::releases::ReleaseNo;
use super::segment::{Held, Out, Role, Segment};
use super::{Access, Action, Contents, Message, Outcome, PageIndex, Ticket, Violation};
use crate::ids::NodeId;

/// What is under way for a page, or waits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Need {
    /// A vCPU waits for the page.
    pub wanted: Option<Access>,
    /// The page is asked for.
    pub fetching: bool,
    /// Changes were sent for this release and are not acknowledged yet.
    pub diffing: Option<ReleaseNo>,
    /// Changes are to be sent for this release, as soon as nothing else is under way.
    pub flush: Option<ReleaseNo>,
}

impl Need {
    fn is_nothing(&self) -> bool {
        *self == Need::default()
    }

    /// Whether an answer of the owner is awaited.
    pub fn is_asking(&self) -> bool {
        self.fetching || self.diffing.is_some()
    }
}

impl Segment {
    /// The guest touched a page that it may not.
    pub fn fault(&mut self, page: PageIndex, access: Access, out: &mut Out<'_>) {
        let segment = self.id();
        if self.role == Role::Broken {
            return out.act(Action::Broken { segment });
        }
        if let Some(rights) = self.held(page).rights().filter(|rights| *rights >= access) {
            out.counters.spurious += 1;
            return out.act(Action::Wake { segment, page, rights });
        }
        let need = self.needs.entry(page).or_default();
        if need.wanted.is_some() {
            out.counters.joined += 1;
        }
        need.wanted = need.wanted.max(Some(access));
        self.advance(page, out);
        self.settle(out);
    }

    /// A vCPU that comes here will want a page.
    pub fn prefetch(&mut self, page: PageIndex, out: &mut Out<'_>) {
        let here = self.held(page).rights().is_some() || self.served().is_some() || self.role == Role::Broken;
        let need = self.needs.get(&page);
        if !here && need.is_none_or(|need| need.wanted.is_none()) {
            out.counters.prefetched += 1;
            self.needs.entry(page).or_default().wanted = Some(Access::Read);
            self.advance(page, out);
        }
    }

    /// A program is about to let others see what it wrote.
    pub fn release(&mut self, ticket: Ticket, out: &mut Out<'_>) -> Result<(), Violation> {
        let segment = self.id();
        if self.role == Role::Broken {
            out.act(Action::Released { segment, ticket, outcome: Outcome::Broken });
            return Ok(());
        }
        if !self.releases.has_room() {
            return Err(Violation::TooManyReleases { segment, limit: super::releases::RELEASES_MAX });
        }
        out.counters.releases += 1;
        out.counters.releases_empty += u64::from(self.dirty.is_empty() && self.releases.is_empty());
        self.release_all(Some(ticket), out);
        self.settle(out);
        Ok(())
    }

    /// Begins a release of all changes.
    fn release_all(&mut self, ticket: Option<Ticket>, out: &mut Out<'_>) {
        let release = self.releases.begin(ticket);
        let dirty: Vec<PageIndex> = self.dirty.iter().copied().collect();
        for page in dirty {
            let need = self.needs.entry(page).or_default();
            // What an earlier release is about to send needs no second sending: this release ends after that one.
            if need.flush.is_none() {
                need.flush = Some(release);
                self.releases.add_page(release);
            }
            self.advance(page, out);
        }
    }

    /// Tells who waited for releases that are over.
    pub fn end_releases(&mut self, out: &mut Out<'_>) {
        let segment = self.id();
        while let Some(ticket) = self.releases.pop_over() {
            if let Some(ticket) = ticket {
                out.act(Action::Released { segment, ticket, outcome: Outcome::Visible });
            }
        }
    }

    /// Does for a page what can be done now.
    pub fn advance(&mut self, page: PageIndex, out: &mut Out<'_>) {
        let Some(mut need) = self.needs.remove(&page) else { return };
        if !self.is_frozen() && !need.is_asking() {
            if let Some(release) = need.flush.take() {
                need.diffing = self.send_changes(page, release, out);
            }
        }
        self.serve(page, &mut need, out);
        if !need.is_nothing() {
            self.needs.insert(page, need);
        }
    }

    /// Sends a page's changes to the owner; gives the release that waits for the answer.
    fn send_changes(&mut self, page: PageIndex, release: ReleaseNo, out: &mut Out<'_>) -> Option<ReleaseNo> {
        let segment = self.id();
        let held = self.held(page);
        if held == Held::Dirty {
            out.act(Action::Protect { segment, page });
        }
        if self.served().is_none() {
            out.counters.diffs_sent += 1;
            out.send(self.owner, Message::Diff { segment, page, changed: true });
        }
        out.act(Action::Settle { segment, page });
        self.hold(page, if held == Held::Dirty { Held::Read } else { Held::None });
        if self.served().is_some() {
            out.counters.diffs_applied += 1;
            if !self.throw_copies_away(page, out.me, out) {
                self.releases.page_done(release);
                return None;
            }
        }
        Some(release)
    }

    /// Gives the guest what it waits for, or asks for it.
    fn serve(&mut self, page: PageIndex, need: &mut Need, out: &mut Out<'_>) {
        let segment = self.id();
        let Some(access) = need.wanted else { return };
        match (self.held(page), access) {
            (Held::Dirty, _) | (Held::Read, Access::Read) => need.wanted = None,
            (Held::Read, Access::Write) if self.is_full() => self.crowded = true,
            (Held::Read, Access::Write) => {
                out.counters.twins += 1;
                out.act(Action::AllowWrites { segment, page });
                self.hold(page, Held::Dirty);
                need.wanted = None;
            }
            // While the ownership moves, what is not there must not appear: the next owner is being told who has what.
            (Held::None | Held::Aside, _) if self.is_frozen() || need.fetching => {}
            (Held::None | Held::Aside, _) if self.served().is_some() => {
                self.put_in(page, access, Contents::Zero, out);
                self.serve(page, need, out);
            }
            (Held::None | Held::Aside, _) => {
                need.fetching = true;
                out.counters.fetches += 1;
                out.send(self.owner, Message::Fetch { segment, page });
            }
        }
    }

    /// Puts a page where there was none.
    pub fn put_in(&mut self, page: PageIndex, wanted: Access, contents: Contents, out: &mut Out<'_>) {
        let segment = self.id();
        if self.held(page) == Held::Aside {
            out.act(Action::Merge { segment, page });
            return self.hold(page, Held::Dirty);
        }
        let rights = if self.is_full() { Access::Read } else { wanted };
        out.act(Action::Install { segment, page, rights, contents });
        match rights {
            Access::Read => self.hold(page, Held::Read),
            Access::Write => {
                out.counters.twins += 1;
                self.hold(page, Held::Dirty);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.dirty.len() >= self.spec.dirty_max as usize
    }

    /// Makes room for those who wait to write.
    pub fn relieve(&mut self, out: &mut Out<'_>) {
        self.crowded = false;
        let all_leave =
            self.dirty.iter().all(|page| self.needs.get(page).is_some_and(|need| need.flush.is_some()));
        if self.is_full() && !self.is_frozen() && !all_leave {
            out.counters.relieved += 1;
            self.release_all(None, out);
        }
        let waits = |need: &Need| need.wanted == Some(Access::Write);
        let waiting: Vec<PageIndex> =
            self.needs.iter().filter(|(_, need)| waits(need)).map(|(page, _)| *page).collect();
        waiting.into_iter().for_each(|page| self.advance(page, out));
    }

    /// The owner sent a page.
    pub fn page_came(&mut self, from: NodeId, page: PageIndex, out: &mut Out<'_>) -> Result<(), Violation> {
        let (kind, segment) = ("Page", self.id());
        let need = self.needs.get_mut(&page).filter(|need| need.fetching);
        let need = need.ok_or(Violation::Unasked { kind, segment, page, from })?;
        need.fetching = false;
        let wanted = need.wanted.unwrap_or(Access::Read);
        self.put_in(page, wanted, Contents::Received, out);
        self.advance(page, out);
        Ok(())
    }

    /// The owner has merged changes, and all copies without them are gone.
    pub fn applied(&mut self, from: NodeId, page: PageIndex, out: &mut Out<'_>) -> Result<(), Violation> {
        let (kind, segment) = ("Applied", self.id());
        let diffing = self.needs.get_mut(&page).and_then(|need| need.diffing.take());
        let release = diffing.ok_or(Violation::Unasked { kind, segment, page, from })?;
        self.releases.page_done(release);
        self.advance(page, out);
        Ok(())
    }

    /// The owner wants this node's copy gone.
    pub fn invalidate(&mut self, from: NodeId, page: PageIndex, out: &mut Out<'_>) -> Result<(), Violation> {
        let (kind, segment, seen) = ("Invalidate", self.id(), self.held(page));
        match seen {
            Held::None | Held::Aside => {
                let expected = "a copy";
                return Err(Violation::Holds { kind, segment, page, from, seen, expected });
            }
            Held::Read => self.hold(page, Held::None),
            Held::Dirty => {
                out.counters.set_aside += 1;
                out.act(Action::Protect { segment, page });
                out.act(Action::SetAside { segment, page });
                self.hold(page, Held::Aside);
            }
        }
        out.counters.invalidations_obeyed += 1;
        out.act(Action::Discard { segment, page });
        out.send(from, Message::Invalidated { segment, page });
        self.advance(page, out);
        Ok(())
    }
}
