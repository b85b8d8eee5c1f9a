//! Who has each extent, and, where it is split, each page of it, as its home's directory says.

use std::sync::Arc;

use super::habit::Habit;
use super::{Access, Micros};
use crate::ids::{NodeId, NodeSet, EXTENT_PAGES, NODES_MAX};
use crate::layout::Layout;

/// Most tables of merged extents that are kept for the next split.
const SPARE_MAX: usize = 16;

/// Who has a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Entry {
    /// One node may write it.
    Exclusive(NodeId),
    /// These, two or more, may read it.
    Shared(NodeSet),
}

impl Entry {
    /// Whether `node` may do `access` already.
    pub fn allows(self, node: NodeId, access: Access) -> bool {
        match (self, access) {
            (Entry::Exclusive(owner), _) => owner == node,
            (Entry::Shared(set), Access::Read) => set.contains(node),
            (Entry::Shared(_), Access::Write) => false,
        }
    }

    /// These have it, one alone or more for reading; `None` of nobody.
    pub fn of(holders: NodeSet) -> Option<Self> {
        match holders.len() {
            0 => None,
            1 => holders.first().map(Entry::Exclusive),
            _ => Some(Entry::Shared(holders)),
        }
    }

    /// Who has the page in any way.
    pub fn holders(self) -> NodeSet {
        match self {
            Entry::Exclusive(owner) => NodeSet::only(owner),
            Entry::Shared(set) => set,
        }
    }
}

/// Who has an extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum ExtentEntry {
    /// Nobody touched it yet: it reads as zero.
    Untouched,
    /// One node has all of it.
    Whole(NodeId),
    /// Page by page.
    Split(Box<Split>),
}

impl ExtentEntry {
    /// A split extent all of whose pages are `owner`'s alone.
    pub fn split_of(owner: NodeId) -> Self {
        ExtentEntry::Split(Box::new(Split::of(owner)))
    }
}

/// A page of a split extent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Tracked {
    entry: Entry,
    habit: Habit,
}

/// An extent page by page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Split {
    pages: [Tracked; EXTENT_PAGES as usize],
    /// For each node, how many pages are its alone.
    alone: [u16; NODES_MAX],
    /// About how many pages something is being done.
    busy: u16,
    /// Since when all pages have been one node's alone, with nothing under way.
    pub calm_since: Option<Micros>,
    /// Somebody has noted to look at the extent again.
    pub noted: bool,
}

impl Split {
    fn of(owner: NodeId) -> Self {
        let page = Tracked { entry: Entry::Exclusive(owner), habit: Habit::default() };
        let mut alone = [0; NODES_MAX];
        alone[owner.index()] = EXTENT_PAGES as u16;
        Split { pages: [page; EXTENT_PAGES as usize], alone, busy: 0, calm_since: None, noted: false }
    }

    /// Who has a page, and what is known of how it is used.
    pub fn page_mut(&mut self, page: usize) -> (Entry, &mut Habit) {
        let Tracked { entry, habit } = &mut self.pages[page];
        (*entry, habit)
    }

    /// Who has a page.
    pub fn entry(&self, page: usize) -> Entry {
        self.pages[page].entry
    }

    /// Who has which page.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.pages.iter().map(|page| page.entry)
    }

    /// The node that is the only owner of the most pages.
    pub fn usual_owner(&self) -> NodeId {
        let mut most = 0;
        for node in 1..NODES_MAX {
            if self.alone[node] > self.alone[most] {
                most = node;
            }
        }
        NodeId(most as u8)
    }

    /// Whether anything is being done about a page.
    pub fn is_busy(&self) -> bool {
        self.busy > 0
    }

    /// A page changes hands.
    pub fn set(&mut self, page: usize, entry: Entry) {
        let before = std::mem::replace(&mut self.pages[page].entry, entry);
        if let Entry::Exclusive(owner) = before {
            self.alone[owner.index()] -= 1;
        }
        if let Entry::Exclusive(owner) = entry {
            self.alone[owner.index()] += 1;
        }
    }

    /// Something begins to be done about a page.
    pub fn begin(&mut self) {
        self.busy += 1;
        self.calm_since = None;
    }

    /// Nothing is done about the page any more, of which somebody has just got what he asked for. True if the whole extent is
    /// one node's now.
    pub fn end(&mut self, page: usize, now: Micros) -> bool {
        self.busy -= 1;
        self.settle(page, now)
    }

    /// Looks, at one of the pages, whether the whole extent is one node's with nothing under way, and since when that is so.
    pub fn settle(&mut self, page: usize, now: Micros) -> bool {
        let sole = matches!(self.pages[page].entry, Entry::Exclusive(owner) if self.is_sole(owner));
        let calm = sole && self.busy == 0;
        self.calm_since = calm.then_some(now);
        calm
    }

    fn is_sole(&self, owner: NodeId) -> bool {
        u64::from(self.alone[owner.index()]) == EXTENT_PAGES
    }

    /// Whose the whole extent is, and since when, if nothing is under way.
    pub fn sole_owner(&self) -> Option<(NodeId, Micros)> {
        let since = self.calm_since?;
        let Entry::Exclusive(owner) = self.pages[0].entry else { return None };
        Some((owner, since))
    }
}

/// All extents of a layout; only those of one home are ever used.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Extents {
    /// By dense index.
    entries: Vec<ExtentEntry>,
    /// Tables of extents that were merged: the next split allocates nothing.
    #[allow(clippy::vec_box)] // They move between here and the entries, and are large.
    spare: Vec<Box<Split>>,
}

impl Extents {
    /// Nobody has touched anything.
    pub fn new(layout: &Arc<Layout>) -> Self {
        let count = (layout.pages() / EXTENT_PAGES) as usize;
        Extents { entries: vec![ExtentEntry::Untouched; count], spare: Vec::new() }
    }

    /// Who has the extent.
    pub fn get(&self, extent: usize) -> &ExtentEntry {
        &self.entries[extent]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ExtentEntry> {
        self.entries.iter()
    }

    /// The whole extent is `owner`'s.
    pub fn own(&mut self, extent: usize, owner: NodeId) {
        let before = std::mem::replace(&mut self.entries[extent], ExtentEntry::Whole(owner));
        match before {
            ExtentEntry::Split(table) if self.spare.len() < SPARE_MAX => self.spare.push(table),
            _ => {}
        }
    }

    /// From now on page by page, all of them `owner`'s alone.
    pub fn split(&mut self, extent: usize, owner: NodeId) {
        let table = match self.spare.pop() {
            Some(mut table) => {
                *table = Split::of(owner);
                table
            }
            None => Box::new(Split::of(owner)),
        };
        self.entries[extent] = ExtentEntry::Split(table);
    }

    /// Takes out what is known of an extent that goes to another home.
    pub fn take(&mut self, extent: usize) -> ExtentEntry {
        std::mem::replace(&mut self.entries[extent], ExtentEntry::Untouched)
    }

    /// This is known of an extent.
    pub fn put(&mut self, extent: usize, entry: ExtentEntry) {
        self.entries[extent] = entry;
    }

    /// The pages of a split extent.
    pub fn pages_mut(&mut self, extent: usize) -> Option<&mut Split> {
        match &mut self.entries[extent] {
            ExtentEntry::Split(split) => Some(split),
            _ => None,
        }
    }

    /// How many pages no node but `node` has.
    pub fn pages_only_at(&self, node: NodeId) -> u64 {
        let count = |extent: &ExtentEntry| match extent {
            ExtentEntry::Untouched => 0,
            ExtentEntry::Whole(owner) => u64::from(*owner == node) * EXTENT_PAGES,
            ExtentEntry::Split(split) => split.alone.get(node.index()).copied().unwrap_or(0).into(),
        };
        self.entries.iter().map(count).sum()
    }
}

/// What only tests may see.
#[cfg(test)]
impl Split {
    pub fn habit(&self, page: usize) -> Habit {
        self.pages[page].habit
    }
}

#[cfg(test)]
impl Extents {
    /// Nobody has touched the extent.
    pub fn forget(&mut self, extent: usize) {
        self.entries[extent] = ExtentEntry::Untouched;
    }

    /// Every extent that is one node's counts as calm, whatever is under way.
    pub fn calm(&mut self) {
        for entry in &mut self.entries {
            if let ExtentEntry::Split(split) = entry {
                let sole = matches!(split.pages[0].entry, Entry::Exclusive(owner) if split.is_sole(owner));
                split.calm_since = sole.then_some(0);
            }
        }
    }

    /// Takes out what makes states differ that behave alike: past times, how often habits were wrong, spare tables.
    pub fn forget_past(&mut self) {
        self.spare.clear();
        for split in self.entries.iter_mut().filter_map(|entry| match entry {
            ExtentEntry::Split(split) => Some(split),
            _ => None,
        }) {
            split.calm_since = split.calm_since.map(|_| 0);
            split.pages.iter_mut().for_each(|page| page.habit.forgive());
        }
    }

    /// What is counted is so; `under_way` knows how many transactions an extent has.
    pub fn check_counts(&self, under_way: impl Fn(usize) -> usize) -> Result<(), String> {
        for (extent, entry) in self.entries.iter().enumerate() {
            let ExtentEntry::Split(split) = entry else { continue };
            let alone = |node: usize| {
                let own = Entry::Exclusive(NodeId(node as u8));
                split.pages.iter().filter(|page| page.entry == own).count()
            };
            let wrong = (0..NODES_MAX).find(|&node| alone(node) != usize::from(split.alone[node]));
            if wrong.is_some() || usize::from(split.busy) != under_way(extent) {
                return Err(format!("extent {extent}: {wrong:?}, {} busy", split.busy));
            }
        }
        Ok(())
    }
}
