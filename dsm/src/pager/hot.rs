//! Which pages fault most.

use serde::{Deserialize, Serialize};

use crate::ids::Gfn;
use crate::layout::Layout;
use crate::protocol::Access;

/// How many pages are named.
pub const HOTTEST_MAX: usize = 20;

/// A page that faults often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HotPage {
    /// The page.
    pub gfn: Gfn,
    /// Loads that had to wait for it.
    pub reads: u32,
    /// Stores that had to wait for it.
    pub writes: u32,
}

/// Counts faults by page: eight bytes each, in memory that is only there where faults are.
pub(crate) struct HotPages(Vec<(u32, u32)>);

impl HotPages {
    pub(crate) fn new(layout: &Layout) -> Self {
        HotPages(vec![(0, 0); layout.pages() as usize])
    }

    pub(crate) fn record(&mut self, index: usize, access: Access) {
        if let Some((reads, writes)) = self.0.get_mut(index) {
            let count = if access == Access::Read { reads } else { writes };
            *count = count.saturating_add(1);
        }
    }

    /// The pages that faulted most, the hottest first.
    pub(crate) fn hottest(&self, layout: &Layout) -> Vec<HotPage> {
        let total = |index: usize| u64::from(self.0[index].0) + u64::from(self.0[index].1);
        let mut touched: Vec<usize> = (0..self.0.len()).filter(|&index| total(index) > 0).collect();
        touched.sort_unstable_by_key(|&index| std::cmp::Reverse(total(index)));
        touched.truncate(HOTTEST_MAX);
        let page = |index: usize| {
            let (reads, writes) = self.0[index];
            Some(HotPage { gfn: layout.gfn_at(index)?, reads, writes })
        };
        touched.into_iter().filter_map(page).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::layout::Region;

    #[test]
    fn the_hottest_come_first() {
        let region = Region { start: Gfn(512), pages: 512, home: NodeId(0) };
        let layout = Layout::new(vec![region]).expect("a layout");
        let mut pages = HotPages::new(&layout);
        for index in 0..30 {
            (0..=index).for_each(|_| pages.record(index, Access::Write));
        }
        (0..40).for_each(|_| pages.record(5, Access::Read));
        pages.record(9999, Access::Read);
        let hottest = pages.hottest(&layout);
        assert_eq!(hottest.len(), HOTTEST_MAX);
        assert_eq!(hottest[0], HotPage { gfn: Gfn(517), reads: 40, writes: 6 });
        assert_eq!(hottest[1], HotPage { gfn: Gfn(541), reads: 0, writes: 30 });
    }
}
