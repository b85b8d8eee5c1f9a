//! Releases under way at one node, in the order in which they began.

use std::collections::VecDeque;

use super::Ticket;

/// Most releases of one segment under way at one node: one for each vCPU that a guest may have, and room.
pub(super) const RELEASES_MAX: usize = 4096;

/// Numbers a node's releases of one segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct ReleaseNo(u64);

/// One release.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Release {
    /// Who waits for it; nobody if the node released by itself.
    ticket: Option<Ticket>,
    /// Pages whose changes are not acknowledged yet.
    pages: u32,
}

/// The releases under way. They end in order: what a program wrote may have left with another program's earlier
/// release, so a release is over only when all before it are.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Releases {
    /// The number of the first in the queue.
    first: u64,
    queue: VecDeque<Release>,
}

impl Releases {
    /// Whether one more may begin.
    pub fn has_room(&self) -> bool {
        self.queue.len() < RELEASES_MAX
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A release begins.
    pub fn begin(&mut self, ticket: Option<Ticket>) -> ReleaseNo {
        let number = ReleaseNo(self.first + self.queue.len() as u64);
        self.queue.push_back(Release { ticket, pages: 0 });
        number
    }

    /// A page's changes are to be acknowledged for it.
    pub fn add_page(&mut self, release: ReleaseNo) {
        if let Some(release) = self.get(release) {
            release.pages += 1;
        }
    }

    /// A page's changes are acknowledged.
    pub fn page_done(&mut self, release: ReleaseNo) {
        if let Some(release) = self.get(release) {
            release.pages = release.pages.saturating_sub(1);
        }
    }

    /// Takes out the first release if it is over; gives who waited for it.
    pub fn pop_over(&mut self) -> Option<Option<Ticket>> {
        let over = self.queue.front().is_some_and(|release| release.pages == 0);
        over.then(|| self.pop()).flatten()
    }

    /// Takes out the first release, over or not.
    pub fn pop(&mut self) -> Option<Option<Ticket>> {
        let release = self.queue.pop_front()?;
        self.first += 1;
        Some(release.ticket)
    }

    fn get(&mut self, release: ReleaseNo) -> Option<&mut Release> {
        let place = release.0.checked_sub(self.first)?;
        self.queue.get_mut(usize::try_from(place).ok()?)
    }
}

/// What only tests may see.
#[cfg(test)]
impl Releases {
    /// Counts from 0 again; gives by how much all numbers shrink.
    pub fn rebase(&mut self) -> u64 {
        std::mem::take(&mut self.first)
    }

    /// Forgets the release that began last.
    pub fn forget_last(&mut self) {
        self.queue.pop_back();
    }
}

#[cfg(test)]
impl ReleaseNo {
    /// The number after [`Releases::rebase`]. (A node with a mistake may have numbers that are over.)
    pub fn rebased(self, by: u64) -> ReleaseNo {
        ReleaseNo(self.0.saturating_sub(by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_over_when_its_pages_and_all_before_it_are() {
        let mut releases = Releases::default();
        let first = releases.begin(Some(Ticket(1)));
        releases.add_page(first);
        releases.add_page(first);
        let second = releases.begin(Some(Ticket(2)));
        assert_eq!(releases.pop_over(), None, "the second has no pages, but waits for the first");
        releases.page_done(first);
        assert_eq!(releases.pop_over(), None);
        releases.page_done(first);
        assert_eq!(releases.pop_over(), Some(Some(Ticket(1))));
        assert_eq!(releases.pop_over(), Some(Some(Ticket(2))));
        assert_eq!(releases.pop_over(), None);
        releases.page_done(second);
        let third = releases.begin(None);
        assert_ne!(third, second, "numbers are not used again");
        assert_eq!(releases.pop_over(), Some(None));
        assert!(releases.is_empty());
    }
}
