//! The driver and the guest's mapping on one node, reduced to what can be checked.

use crate::ids::{Gfn, NodeId, EXTENT_PAGES};
use crate::protocol::{Access, Action, Contents, Message, Rights};

/// The pages that a test uses: the first few of each extent from frame 0 on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pages {
    pub extents: usize,
    pub each: usize,
}

impl Pages {
    pub fn len(self) -> usize {
        self.extents * self.each
    }

    pub fn gfn(self, index: usize) -> Gfn {
        Gfn((index / self.each) as u64 * EXTENT_PAGES + (index % self.each) as u64)
    }

    /// `None`: the test does not use the page, and nobody touches it.
    pub fn index(self, gfn: Gfn) -> Option<usize> {
        let (extent, page) = ((gfn.0 / EXTENT_PAGES) as usize, (gfn.0 % EXTENT_PAGES) as usize);
        (extent < self.extents && page < self.each).then_some(extent * self.each + page)
    }

    pub fn of_extent(self, extent: u64) -> std::ops::Range<usize> {
        let first = extent as usize * self.each;
        first..first + self.each
    }
}

/// One page of the guest on one node. The page's bytes are one number, its version; 0 is a page of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mapping {
    pub rights: Rights,
    /// The backing memory; absent reads as zeros.
    pub bytes: u64,
    /// The extent is not tracked.
    pub whole: bool,
    /// The guest's mapping has the page. It may lack one that it has rights on: in a split extent, never touched.
    pub present: bool,
    pub lent_read: u16,
    pub lent_write: u16,
}

impl Mapping {
    /// Whether the guest can do it without a fault.
    pub fn allows(&self, access: Access) -> bool {
        self.rights.allow(access) && (self.whole || self.present)
    }
}

/// A message on its way, with the bytes of the page if it carries one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Packet {
    pub message: Message,
    pub bytes: Option<u64>,
}

/// What actions did beyond the mapping.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub sent: Vec<(NodeId, Packet)>,
    /// Used pages (by index) whose waiting vCPUs were woken.
    pub woken: Vec<usize>,
    pub lent: Vec<(usize, Access)>,
    /// Used pages whose mapping changed.
    pub changed: Vec<usize>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    pub pages: Pages,
    pub mappings: Vec<Mapping>,
}

impl Host {
    pub fn new(pages: Pages) -> Self {
        Host { pages, mappings: vec![Mapping::default(); pages.len()] }
    }

    /// How often a page is lent.
    pub fn lent(&self, page: usize, access: Access) -> u16 {
        let mapping = &self.mappings[page];
        match access {
            Access::Read => mapping.lent_read,
            Access::Write => mapping.lent_write,
        }
    }

    /// A device gives a page back that is lent to it.
    pub fn take_back(&mut self, page: usize, access: Access) {
        let mapping = &mut self.mappings[page];
        match access {
            Access::Read => mapping.lent_read -= 1,
            Access::Write => mapping.lent_write -= 1,
        }
    }

    /// Carries out `actions` in order; `received` are the bytes that came with the message being handled.
    pub fn carry_out(
        &mut self,
        actions: &[Action],
        received: Option<u64>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        for action in actions {
            self.carry_out_one(action, received, effects).map_err(|why| format!("{action:?}: {why}"))?;
        }
        Ok(())
    }

    fn carry_out_one(
        &mut self,
        action: &Action,
        received: Option<u64>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        match *action {
            Action::Send { to, message } => {
                if let Message::Invalidated { gfn, .. } = message {
                    let kept =
                        self.pages.index(gfn).is_some_and(|at| self.mappings[at].rights != Rights::None);
                    require(!kept, "the copy is still there")?;
                }
                let bytes = if message.carries_page() { Some(self.read_for(message)?) } else { None };
                effects.sent.push((to, Packet { message, bytes }));
                return Ok(());
            }
            Action::OwnExtent { extent } => {
                let all = self.pages.of_extent(extent.0);
                let kept = self.mappings[all.start].rights;
                for index in all {
                    let mapping = &mut self.mappings[index];
                    require(mapping.rights == kept && !mapping.whole, "a part of the extent is in use")?;
                    require(kept != Rights::Read, "the extent is another's too")?;
                    require(kept == Rights::Write || mapping.bytes == 0, "memory was kept")?;
                    (mapping.rights, mapping.whole) = (Rights::Write, true);
                    effects.woken.push(index);
                    effects.changed.push(index);
                }
                return Ok(());
            }
            Action::SplitExtent { extent } => {
                for index in self.pages.of_extent(extent.0) {
                    let mapping = &mut self.mappings[index];
                    require(mapping.whole, "the extent is not owned")?;
                    mapping.whole = false;
                }
                return Ok(());
            }
            _ => {}
        }
        let gfn = match *action {
            Action::Install { gfn, .. }
            | Action::Protect { gfn }
            | Action::Unprotect { gfn }
            | Action::Discard { gfn }
            | Action::Wake { gfn, .. }
            | Action::Lend { gfn, .. } => gfn,
            _ => return Ok(()),
        };
        let Some(index) = self.pages.index(gfn) else { return Ok(()) };
        self.change(action, index, received, effects)
    }

    fn change(
        &mut self,
        action: &Action,
        index: usize,
        received: Option<u64>,
        effects: &mut Effects,
    ) -> Result<(), String> {
        let mapping = &mut self.mappings[index];
        let tracked = !mapping.whole;
        match *action {
            Action::Install { rights, contents, wake, .. } => {
                require(tracked && mapping.rights == Rights::None, "the page is there")?;
                mapping.bytes = match contents {
                    Contents::Zero => 0,
                    Contents::Received => received.ok_or("no page came")?,
                };
                (mapping.rights, mapping.present) = (rights.into(), true);
                if wake {
                    effects.woken.push(index);
                }
            }
            Action::Protect { .. } => {
                require(tracked && mapping.rights == Rights::Write, "the page is not writable")?;
                require(mapping.lent_write == 0, "the page is lent for writing")?;
                mapping.rights = Rights::Read;
            }
            Action::Unprotect { .. } => {
                require(tracked && mapping.rights == Rights::Read, "the page is not a read copy")?;
                mapping.rights = Rights::Write;
                effects.woken.push(index);
            }
            Action::Discard { .. } => {
                require(tracked && mapping.rights == Rights::Read, "the page is not protected")?;
                require(mapping.lent_read + mapping.lent_write == 0, "the page is lent")?;
                (mapping.rights, mapping.bytes, mapping.present) = (Rights::None, 0, false);
            }
            Action::Wake { rights, .. } => {
                require(mapping.rights == rights.into(), "the guest's rights are others")?;
                mapping.present = true;
                effects.woken.push(index);
                return Ok(());
            }
            Action::Lend { access, .. } => {
                require(mapping.rights.allow(access), "the page is not there to be lent")?;
                match access {
                    Access::Read => mapping.lent_read += 1,
                    Access::Write => mapping.lent_write += 1,
                }
                effects.lent.push((index, access));
                return Ok(());
            }
            _ => {}
        }
        effects.changed.push(index);
        Ok(())
    }

    fn read_for(&self, message: Message) -> Result<u64, String> {
        let Some(index) = self.pages.index(message.gfn()) else { return Ok(0) };
        let mapping = &self.mappings[index];
        require(
            !mapping.whole && mapping.rights != Rights::Write,
            "the page is sent while the guest writes",
        )?;
        require(mapping.rights == Rights::Read, "the page is sent when it is gone")?;
        Ok(mapping.bytes)
    }
}

fn require(holds: bool, why: &str) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(why.to_owned()),
    }
}
