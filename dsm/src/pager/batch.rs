//! What several events give rise to, gathered, to be done together.
//!
//! A vCPU that goes through memory makes pages come and go one behind the other, and a system call for a run of pages
//! costs little more than one for a page. So actions are gathered here and carried out kind by kind, runs of pages at once:
//!
//! 1. pages are put in,
//! 2. pages are write-protected,
//! 3. frames are queued (the bytes of a page that travels are read now),
//! 4. pages are discarded.
//!
//! Nothing that was queued leaves the node before all four are done. For different pages the order does not matter. For one
//! page the core's own order is the same (put in before protected, protected before sent, sent before discarded), but
//! for a page that comes back after it went: [`Batch::takes`] does not take that, nor what is none of the four, and what is
//! gathered must be carried out first.

use crate::ids::{Gfn, NodeId, Run, PAGE_BYTES};
use crate::protocol::{Access, Action, Message};
use crate::uffd::Waiters;

/// Most messages that are handled before what they gave rise to is done and sent: few enough that no answer waits long for
/// the next ones' system calls, and that a page is there long before the lease is over that began when its message was
/// handled.
pub(super) const MESSAGES_MAX: usize = 8;

/// The bytes of a page that came with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Came {
    /// No page came.
    Nothing,
    /// They are in this [slot](Batch::staged).
    Staged(usize),
    /// They are all zero.
    Zeros,
}

/// Where the bytes of pages to be put in are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// In the slots from this one on.
    Staged(usize),
    /// They are all zero.
    Zeros,
}

/// Pages to be put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Install {
    pub run: Run,
    pub source: Source,
    pub rights: Access,
    pub waiters: Waiters,
}

impl Install {
    /// Takes another one in if it goes on where this one ends; whether it does.
    fn grow(&mut self, other: Install) -> bool {
        let goes_on = match (self.source, other.source) {
            (Source::Staged(first), Source::Staged(next)) => next == first + self.run.pages() as usize,
            (Source::Zeros, Source::Zeros) => true,
            _ => false,
        };
        let alike = (self.rights, self.waiters) == (other.rights, other.waiters);
        alike && goes_on && self.run.grow(other.run.first())
    }
}

/// What is to be done, by kind.
pub(super) struct Batch {
    /// Pages that came with the messages being handled.
    slots: Box<[[u8; PAGE_BYTES]]>,
    /// How many of them are in use.
    used: usize,
    pub installs: Vec<Install>,
    pub protects: Vec<Run>,
    pub sends: Vec<(NodeId, Message)>,
    pub discards: Vec<Run>,
}

impl Batch {
    pub fn new() -> Self {
        Batch {
            slots: vec![[0; PAGE_BYTES]; MESSAGES_MAX].into_boxed_slice(),
            used: 0,
            installs: Vec::new(),
            protects: Vec::new(),
            sends: Vec::new(),
            discards: Vec::new(),
        }
    }

    /// The next [`MESSAGES_MAX`] messages begin: all slots are free. What was gathered must have been done.
    pub fn begin(&mut self) {
        self.used = 0;
    }

    /// Keeps the bytes of a page that has come; `None` if more pages came than messages may.
    pub fn stage(&mut self, page: &[u8; PAGE_BYTES]) -> Option<Came> {
        let slot = self.used;
        self.slots.get_mut(slot)?.copy_from_slice(page);
        self.used += 1;
        Some(Came::Staged(slot))
    }

    /// The bytes for a run of pages whose first is in this slot.
    pub fn staged(&self, slot: usize, run: Run) -> Option<&[[u8; PAGE_BYTES]]> {
        self.slots.get(slot..slot + run.pages() as usize)
    }

    /// Whether the action may be gathered; else what is gathered must be done first.
    pub fn takes(&self, action: &Action) -> bool {
        match action {
            Action::Send { .. } | Action::Lend { .. } | Action::Protect { .. } | Action::Discard { .. } => {
                true
            }
            Action::Install { .. } => self.protects.is_empty() && self.discards.is_empty(),
            Action::Unprotect { .. }
            | Action::OwnExtent { .. }
            | Action::SplitExtent { .. }
            | Action::Wake { .. } => self.is_empty(),
        }
    }

    fn is_empty(&self) -> bool {
        self.installs.is_empty()
            && self.protects.is_empty()
            && self.sends.is_empty()
            && self.discards.is_empty()
    }

    /// A page is to be put in.
    pub fn install(&mut self, install: Install) {
        if !self.installs.last_mut().is_some_and(|last| last.grow(install)) {
            self.installs.push(install);
        }
    }

    /// A page is to be write-protected.
    pub fn protect(&mut self, gfn: Gfn) {
        add(&mut self.protects, gfn);
    }

    /// A frame is to be queued.
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.sends.push((to, message));
    }

    /// A page is to be discarded.
    pub fn discard(&mut self, gfn: Gfn) {
        add(&mut self.discards, gfn);
    }

    /// All has been done.
    pub fn clear(&mut self) {
        self.installs.clear();
        self.protects.clear();
        self.sends.clear();
        self.discards.clear();
    }
}

fn add(runs: &mut Vec<Run>, gfn: Gfn) {
    if !runs.last_mut().is_some_and(|last| last.grow(gfn)) {
        runs.push(Run::from(gfn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Contents, Txn};

    fn install(gfn: u64, source: Source, rights: Access) -> Install {
        Install { run: Run::from(Gfn(gfn)), source, rights, waiters: Waiters::Wake }
    }

    fn runs(installs: &[Install]) -> Vec<(u64, u64)> {
        installs.iter().map(|install| (install.run.first().0, install.run.pages())).collect()
    }

    fn action(gfn: u64) -> Action {
        let (rights, contents) = (Access::Read, Contents::Received);
        Action::Install { gfn: Gfn(gfn), rights, contents, wake: true }
    }

    #[test]
    fn pages_one_behind_the_other_are_put_in_together() {
        let mut batch = Batch::new();
        for (slot, gfn) in [10, 11, 12, 14].into_iter().enumerate() {
            batch.install(install(gfn, Source::Staged(slot), Access::Read));
        }
        assert_eq!(runs(&batch.installs), [(10, 3), (14, 1)]);
        // Their bytes lie elsewhere, or more may be done with them.
        batch.install(install(15, Source::Staged(9), Access::Read));
        batch.install(install(16, Source::Staged(10), Access::Write));
        assert_eq!(runs(&batch.installs), [(10, 3), (14, 1), (15, 1), (16, 1)]);
    }

    #[test]
    fn zeros_are_put_in_together_with_zeros_only() {
        let mut batch = Batch::new();
        batch.install(install(1, Source::Zeros, Access::Write));
        batch.install(install(2, Source::Zeros, Access::Write));
        batch.install(install(3, Source::Staged(0), Access::Write));
        assert_eq!(runs(&batch.installs), [(1, 2), (3, 1)]);
    }

    #[test]
    fn no_run_goes_beyond_an_extent() {
        let mut batch = Batch::new();
        (510..514).for_each(|gfn| batch.protect(Gfn(gfn)));
        (510..514).for_each(|gfn| batch.discard(Gfn(gfn)));
        let expected = [(510, 2), (512, 2)];
        for runs in [&batch.protects, &batch.discards] {
            assert_eq!(runs.iter().map(|run| (run.first().0, run.pages())).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_page_that_comes_back_waits_until_it_has_gone() {
        let mut batch = Batch::new();
        assert!(batch.takes(&action(5)));
        batch.discard(Gfn(5));
        assert!(!batch.takes(&action(5)));
        batch.clear();
        batch.protect(Gfn(5));
        assert!(!batch.takes(&action(5)));
    }

    #[test]
    fn what_is_done_by_itself_waits_for_everything_gathered() {
        let mut batch = Batch::new();
        let unprotect = Action::Unprotect { gfn: Gfn(1) };
        assert!(batch.takes(&unprotect));
        batch.send(NodeId(1), Message::Done { gfn: Gfn(1), txn: Txn(1) });
        assert!(!batch.takes(&unprotect));
    }

    #[test]
    fn slots_are_free_again_only_for_the_next_messages() {
        let mut batch = Batch::new();
        let page = |byte| [byte; PAGE_BYTES];
        assert_eq!(batch.stage(&page(1)), Some(Came::Staged(0)));
        batch.clear();
        assert_eq!(batch.stage(&page(2)), Some(Came::Staged(1)), "the first may still be to be put in");
        for _ in 2..MESSAGES_MAX {
            assert!(batch.stage(&page(3)).is_some());
        }
        assert_eq!(batch.stage(&page(4)), None);
        let mut run = Run::from(Gfn(7));
        assert!(run.grow(Gfn(8)));
        assert_eq!(batch.staged(0, run), Some(&[page(1), page(2)][..]));
        assert_eq!(batch.staged(MESSAGES_MAX - 1, run), None);
        batch.begin();
        assert_eq!(batch.stage(&page(5)), Some(Came::Staged(0)));
    }
}
