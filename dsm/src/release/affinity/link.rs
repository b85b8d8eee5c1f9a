//! How strongly a vCPU is linked to a segment.

use serde::{Deserialize, Serialize};

use super::Heat;

/// Below this part of a vCPU's faults, of 1000, its link to a segment is weak.
pub const WEAK_PER_MILLE: u16 = 250;
/// From this part on it is strong.
pub const STRONG_PER_MILLE: u16 = 500;
/// Weighted faults of a vCPU, over all memory, below which its links stay as they are: too little to judge by.
const EVIDENCE: Heat = Heat::of(32);

/// A vCPU's link to a segment, as migShm classed processes: with a weak link a vCPU moves without the segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Strength {
    /// Less than a quarter of the vCPU's faults are in the segment.
    #[default]
    Weak,
    /// At least half are.
    Strong,
}

impl Strength {
    /// The class after this one, when `here` of the vCPU's `all` faults are in the segment. Between a quarter and a half it
    /// stays, so that noise does not change it to and fro.
    #[must_use]
    pub fn after(self, here: Heat, all: Heat) -> Strength {
        if all < EVIDENCE {
            return self;
        }
        match here.per_mille_of(all) {
            share if share >= STRONG_PER_MILLE => Strength::Strong,
            share if share < WEAK_PER_MILLE => Strength::Weak,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Strength::{Strong, Weak};

    #[test]
    fn a_quarter_and_a_half_are_the_borders_and_between_them_nothing_changes() {
        let after = |before: Strength, here| before.after(Heat::of(here), Heat::of(1000));
        assert_eq!([after(Weak, 249), after(Strong, 249)], [Weak, Weak]);
        assert_eq!([after(Weak, 250), after(Strong, 250)], [Weak, Strong]);
        assert_eq!([after(Weak, 499), after(Strong, 499)], [Weak, Strong]);
        assert_eq!([after(Weak, 500), after(Strong, 500)], [Strong, Strong]);
    }

    #[test]
    fn a_few_faults_say_nothing() {
        assert_eq!(Weak.after(Heat::of(31), Heat::of(31)), Weak);
        assert_eq!(Strong.after(Heat::NONE, Heat::of(31)), Strong);
        assert_eq!(Weak.after(Heat::of(32), Heat::of(32)), Strong);
    }
}
