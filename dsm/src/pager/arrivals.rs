//! The pages that came, by what they came for.

use serde::{Deserialize, Serialize};

use super::batch::Came;
use crate::ids::PAGE_BYTES;
use crate::protocol::Contents;
use crate::uffd::FaultKind;

/// Pages that came for one reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Arrived {
    /// Pages whose bytes came.
    pub pages: u64,
    /// Pages of zeros: nobody had written them, or only a flag came for them.
    pub zero_pages: u64,
}

impl Arrived {
    /// The bytes of guest memory that came, without the frames around them.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }

    fn merge(&mut self, other: &Arrived) {
        self.pages += other.pages;
        self.zero_pages += other.zero_pages;
    }

    fn count(&mut self, contents: Contents, came: Came) {
        match (contents, came) {
            (Contents::Received, Came::Staged(_)) => self.pages += 1,
            _ => self.zero_pages += 1,
        }
    }
}

/// Pages that came one by one, by what they came for; whole extents, which come without bytes, are not among them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Arrivals {
    /// For a load.
    pub read: Arrived,
    /// For a store to an absent page.
    pub write: Arrived,
    /// For a store to a page of which there was a read copy, and which another node had taken meanwhile.
    pub upgrade: Arrived,
    /// Nobody waited: asked for ahead, or for a device.
    pub ahead: Arrived,
}

impl Arrivals {
    /// Adds another node's figures to these.
    pub fn merge(&mut self, other: &Arrivals) {
        let Arrivals { read, write, upgrade, ahead } = self;
        read.merge(&other.read);
        write.merge(&other.write);
        upgrade.merge(&other.upgrade);
        ahead.merge(&other.ahead);
    }

    /// A page came; `waiting` is the fault that waits for it.
    pub(super) fn record(&mut self, waiting: Option<FaultKind>, contents: Contents, came: Came) {
        let class = match waiting {
            Some(FaultKind::MissingRead) => &mut self.read,
            Some(FaultKind::MissingWrite) => &mut self.write,
            Some(FaultKind::WriteProtected) => &mut self.upgrade,
            None => &mut self.ahead,
        };
        class.count(contents, came);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_by_what_they_came_for_and_zeros_have_no_bytes() {
        let mut arrivals = Arrivals::default();
        arrivals.record(Some(FaultKind::MissingRead), Contents::Received, Came::Staged(0));
        arrivals.record(Some(FaultKind::MissingRead), Contents::Received, Came::Zeros);
        arrivals.record(Some(FaultKind::MissingWrite), Contents::Zero, Came::Nothing);
        arrivals.record(None, Contents::Received, Came::Staged(0));
        assert_eq!(arrivals.read, Arrived { pages: 1, zero_pages: 1 });
        assert_eq!(arrivals.write, Arrived { pages: 0, zero_pages: 1 });
        assert_eq!(arrivals.ahead.bytes(), PAGE_BYTES as u64);
        let mut both = arrivals;
        both.merge(&arrivals);
        assert_eq!((both.read.pages, both.write.zero_pages, both.upgrade), (2, 2, Arrived::default()));
    }
}
