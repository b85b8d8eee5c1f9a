//! Dense tables: what this node may do with each page, and sorted lists of the few things under way.

use std::sync::Arc;

use super::lease::History;
use super::{Access, Holdings, Micros};
use crate::ids::{Gfn, NodeId, EXTENT_PAGES};
use crate::layout::Layout;

/// What a node's guest may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Rights {
    /// Nothing: the page is absent.
    #[default]
    None,
    /// Load and fetch; others may do so too.
    Read,
    /// Everything; no other node has the page.
    Write,
}

impl Rights {
    /// Whether `access` is allowed.
    pub fn allow(self, access: Access) -> bool {
        self >= Rights::from(access)
    }

    /// The same as an [`Access`], or `None` if nothing is allowed.
    pub fn access(self) -> Option<Access> {
        match self {
            Rights::None => None,
            Rights::Read => Some(Access::Read),
            Rights::Write => Some(Access::Write),
        }
    }
}

impl From<Access> for Rights {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Rights::Read,
            Access::Write => Rights::Write,
        }
    }
}

/// A page of the guest's RAM: its frame, looked up once in the layout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    /// The frame.
    pub gfn: Gfn,
    /// The node that keeps its directory entry; where the place has been kept for a while, the one that did then.
    pub home: NodeId,
    /// Dense index of its extent.
    pub extent: usize,
    /// Its place in the extent.
    pub page: usize,
}

/// This node's share in one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Page {
    /// What the guest here may do with it.
    pub rights: Rights,
    /// How long it is kept once granted.
    pub history: History,
    /// How often it is lent to devices.
    pub lent: u16,
    /// When the rights last changed.
    pub since: Micros,
}

/// This node's share in one extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct ExtentShare {
    /// The whole extent is this node's; each page's own `rights` mean nothing then.
    whole: bool,
    /// When it became so.
    since: Micros,
    /// Pages with rights, in an extent that is not whole.
    held: u16,
    /// Of these, pages that may be written.
    writable: u16,
    /// Allocated when a page of the extent first comes or goes by itself, or is lent.
    pages: Option<Box<[Page]>>,
}

impl ExtentShare {
    fn pages(&mut self) -> &mut [Page] {
        self.pages.get_or_insert_with(|| vec![Page::default(); EXTENT_PAGES as usize].into_boxed_slice())
    }
}

/// What this node holds, by [`Place`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct PageTable {
    extents: Vec<ExtentShare>,
    holdings: Holdings,
}

impl PageTable {
    /// A table for `layout` in which nothing is held.
    pub fn new(layout: &Arc<Layout>) -> Self {
        let extents = layout.pages() / EXTENT_PAGES;
        PageTable { extents: vec![ExtentShare::default(); extents as usize], holdings: Holdings::default() }
    }

    /// How much is held.
    pub fn holdings(&self) -> Holdings {
        self.holdings
    }

    /// Whether the extent of `place` is this node's as a whole.
    pub fn is_whole(&self, place: Place) -> bool {
        self.extents[place.extent].whole
    }

    /// Whether this node holds no page of the extent.
    pub fn is_bare(&self, place: Place) -> bool {
        let share = &self.extents[place.extent];
        !share.whole && share.held == 0
    }

    /// The page's state, as if it were by itself also where the whole extent is owned.
    pub fn page(&self, place: Place) -> Page {
        let share = &self.extents[place.extent];
        let page = share.pages.as_ref().map_or_else(Page::default, |pages| pages[place.page]);
        match share.whole {
            true => Page { rights: Rights::Write, since: share.since, ..page },
            false => page,
        }
    }

    /// What the guest here may do with the page.
    pub fn rights(&self, place: Place) -> Rights {
        self.page(place).rights
    }

    /// Keeps only a read copy of a writable page. Its lease runs on.
    pub fn downgrade(&mut self, place: Place) {
        let since = self.page(place).since;
        self.set_rights(place, Rights::Read, since);
    }

    /// Changes what the guest may do with a page of an extent that is not owned as a whole; `now` is when.
    pub fn set_rights(&mut self, place: Place, rights: Rights, now: Micros) {
        let share = &mut self.extents[place.extent];
        debug_assert!(!share.whole, "a page of an owned extent changes hands before the split");
        let page = &mut share.pages()[place.page];
        let before = std::mem::replace(&mut page.rights, rights);
        page.since = now;
        let changed =
            |sum: u16, test: fn(Rights) -> bool| sum + u16::from(test(rights)) - u16::from(test(before));
        share.held = changed(share.held, |rights| rights != Rights::None);
        share.writable = changed(share.writable, |rights| rights == Rights::Write);
        let mut count = |rights: Rights, by: i64| {
            let total = match rights {
                Rights::None => return,
                Rights::Read => &mut self.holdings.readable_pages,
                Rights::Write => &mut self.holdings.writable_pages,
            };
            *total = total.wrapping_add_signed(by);
        };
        count(before, -1);
        count(rights, 1);
    }

    /// The page's lease history.
    pub fn history_mut(&mut self, place: Place) -> &mut History {
        &mut self.extents[place.extent].pages()[place.page].history
    }

    /// How often the page is lent.
    pub fn lent_mut(&mut self, place: Place) -> &mut u16 {
        &mut self.extents[place.extent].pages()[place.page].lent
    }

    /// Takes a bare extent over as a whole.
    pub fn own(&mut self, extent: usize, now: Micros) {
        let share = &mut self.extents[extent];
        debug_assert!(!share.whole && share.held == 0, "only a bare extent is granted");
        share.whole = true;
        share.since = now;
        self.holdings.whole_extents += 1;
    }

    /// Makes the extent's pages separate, all writable.
    pub fn split(&mut self, extent: usize) {
        let share = &mut self.extents[extent];
        debug_assert!(share.whole, "only a whole extent is split");
        let since = share.since;
        for page in share.pages() {
            page.rights = Rights::Write;
            page.since = since;
        }
        share.whole = false;
        (share.held, share.writable) = (EXTENT_PAGES as u16, EXTENT_PAGES as u16);
        self.holdings.whole_extents -= 1;
        self.holdings.writable_pages += EXTENT_PAGES;
    }

    /// Whether every page of the place's extent is this node's by itself, and may be written.
    pub fn is_all_writable(&self, place: Place) -> bool {
        let share = &self.extents[place.extent];
        !share.whole && u64::from(share.writable) == EXTENT_PAGES
    }

    /// Makes an extent whole again of which every page may be written.
    pub fn merge(&mut self, extent: usize, now: Micros) {
        let share = &mut self.extents[extent];
        debug_assert!(!share.whole && u64::from(share.writable) == EXTENT_PAGES, "some pages are others'");
        share.whole = true;
        share.since = now;
        (share.held, share.writable) = (0, 0);
        self.holdings.whole_extents += 1;
        self.holdings.writable_pages -= EXTENT_PAGES;
    }

    /// Dense indices of the extents owned as a whole.
    pub fn whole(&self) -> impl Iterator<Item = usize> + '_ {
        self.extents.iter().enumerate().filter_map(|(i, share)| share.whole.then_some(i))
    }
}

#[cfg(test)]
impl PageTable {
    /// Forgets when rights changed.
    pub fn forget_times(&mut self) {
        for share in &mut self.extents {
            share.since = 0;
            share.pages.iter_mut().flat_map(|pages| pages.iter_mut()).for_each(|page| page.since = 0);
        }
    }
}

/// Something under way for one page.
pub(super) trait ForPage {
    /// The page.
    fn gfn(&self) -> Gfn;
}

/// The few things of one kind that are under way, at most one for each page, sorted by page.
///
/// A sorted vector: it holds at most a few hundred entries (vCPUs and devices that wait), looks up in a few
/// steps of one cache line each, allocates nothing once it has grown, and its contents do not depend on the
/// order of what happened, which keeps the model checker's state space small.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct InFlight<T> {
    entries: Vec<T>,
}

impl<T: ForPage> InFlight<T> {
    /// Nothing is under way.
    pub fn new() -> Self {
        InFlight { entries: Vec::new() }
    }

    fn find(&self, gfn: Gfn) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&gfn, ForPage::gfn)
    }

    /// What is under way for `gfn`.
    pub fn get(&self, gfn: Gfn) -> Option<&T> {
        self.find(gfn).ok().map(|i| &self.entries[i])
    }

    /// What is under way for `gfn`, to be changed.
    pub fn get_mut(&mut self, gfn: Gfn) -> Option<&mut T> {
        self.find(gfn).ok().map(|i| &mut self.entries[i])
    }

    /// Adds an entry, in place of the page's earlier one if there is one.
    pub fn put(&mut self, entry: T) {
        match self.find(entry.gfn()) {
            Ok(i) => self.entries[i] = entry,
            Err(i) => self.entries.insert(i, entry),
        }
    }

    /// Takes the page's entry out.
    pub fn take(&mut self, gfn: Gfn) -> Option<T> {
        self.find(gfn).ok().map(|i| self.entries.remove(i))
    }

    /// All entries, by page.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter()
    }

    /// All entries, by page, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
