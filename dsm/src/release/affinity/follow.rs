//! Whether a segment's ownership moves along when a vCPU, or a group of them, moves.

use super::{Heat, Strength};

/// What ties who moves to a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bond {
    /// The link. For a group, the strongest of its members'.
    pub strength: Strength,
    /// The movers' heat in the segment.
    pub own: Heat,
    /// The greatest heat in it of any vCPU that stays.
    pub busiest_other: Heat,
}

/// What placement says about two moves that could be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gains {
    /// Moving everybody who is strongly linked to the segment, and the segment, is a gain.
    pub group: bool,
    /// Moving the vCPU alone, with the segment staying, is a gain all the same.
    pub alone: bool,
}

/// What moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// The vCPU; its pages come on demand.
    Alone,
    /// The vCPU, and the segment's ownership with it.
    WithSegment,
    /// All vCPUs with strong links to the segment, and its ownership.
    WithGroup,
    /// Nothing: the segment is shared by vCPUs that would have to move too.
    Stay,
}

/// Decides as migShm did: a weakly linked vCPU moves without the segment; a strongly linked one takes it along if it is the
/// most active there. Where migShm left a strongly linked, but not dominant one to itself, its group moves if that is a
/// gain.
pub fn follow(bond: Bond, gains: Gains) -> Follow {
    match bond.strength {
        Strength::Weak => Follow::Alone,
        Strength::Strong if bond.own.dominates(bond.busiest_other) => Follow::WithSegment,
        Strength::Strong if gains.group => Follow::WithGroup,
        Strength::Strong if gains.alone => Follow::Alone,
        Strength::Strong => Follow::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_GAIN: Gains = Gains { group: false, alone: false };
    const BOTH_GAIN: Gains = Gains { group: true, alone: true };

    fn bond(strength: Strength, own: u64, other: u64) -> Bond {
        Bond { strength, own: Heat::of(own), busiest_other: Heat::of(other) }
    }

    #[test]
    fn a_weak_link_moves_the_vcpu_without_the_segment_however_active_it_is() {
        for gains in [NO_GAIN, BOTH_GAIN] {
            assert_eq!(follow(bond(Strength::Weak, 1000, 1), gains), Follow::Alone);
        }
    }

    #[test]
    fn the_most_active_of_strong_links_takes_the_segment_along() {
        for gains in [NO_GAIN, BOTH_GAIN] {
            assert_eq!(follow(bond(Strength::Strong, 400, 300), gains), Follow::WithSegment);
            assert_eq!(follow(bond(Strength::Strong, 1, 0), gains), Follow::WithSegment);
        }
    }

    #[test]
    fn a_strong_link_that_others_share_moves_the_group_or_the_vcpu_or_nothing() {
        let shared = bond(Strength::Strong, 399, 300);
        assert_eq!(follow(shared, BOTH_GAIN), Follow::WithGroup);
        assert_eq!(follow(shared, Gains { group: true, alone: false }), Follow::WithGroup);
        assert_eq!(follow(shared, Gains { group: false, alone: true }), Follow::Alone);
        assert_eq!(follow(shared, NO_GAIN), Follow::Stay);
    }
}
