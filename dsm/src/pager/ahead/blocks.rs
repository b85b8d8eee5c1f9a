//! Which blocks of pages may be asked for as a whole, learned from what became of it.

use super::BLOCK;
use crate::layout::Layout;

/// Faults in a block for which nothing is asked ahead after its first loss.
const PENALTY_FIRST: u8 = 4;

/// For each block, for how many faults in it nothing more is asked for: a byte each, in memory that is only there where
/// losses are.
pub(super) struct Blocks(Vec<u8>);

impl Blocks {
    pub(super) fn new(layout: &Layout) -> Self {
        Blocks(vec![0; (layout.pages() / BLOCK + 1) as usize])
    }

    /// A page of the block is waited for: whether to ask for the others too.
    pub(super) fn fault(&mut self, page_index: usize) -> bool {
        let Some(penalty) = self.of(page_index) else { return false };
        let free = *penalty == 0;
        *penalty = penalty.saturating_sub(1);
        free
    }

    /// Another node writes a page of the block, and took it away.
    pub(super) fn lost(&mut self, page_index: usize) {
        if let Some(penalty) = self.of(page_index) {
            *penalty = penalty.saturating_mul(2).max(PENALTY_FIRST);
        }
    }

    fn of(&mut self, page_index: usize) -> Option<&mut u8> {
        self.0.get_mut(page_index / BLOCK as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_is_lost_is_left_alone_and_the_longer_the_more_often() {
        let mut blocks = Blocks(vec![0; 2]);
        let refused = |blocks: &mut Blocks| (0..).take_while(|_| !blocks.fault(3)).count();
        assert_eq!(refused(&mut blocks), 0);
        blocks.lost(7);
        assert!(blocks.fault(8), "another block");
        assert_eq!(refused(&mut blocks), 4);
        (0..3).for_each(|_| blocks.lost(0));
        assert_eq!(refused(&mut blocks), 16);
        (0..30).for_each(|_| blocks.lost(0));
        assert_eq!(refused(&mut blocks), 255);
        assert!(!blocks.fault(16), "there is no such block");
    }
}
