//! Mistakes of whoever drives a session, or of the session itself, to see that they are caught.

/// One mistake, in both nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// What a link took before it broke is not sent again.
    NothingIsSentAgain,
    /// What is to be sent while there is no link is forgotten.
    NothingIsKeptWithoutALink,
    /// A side says that one frame more has come than has.
    MoreIsSaidToHaveCome,
    /// A side says that one frame less has come than has, and nobody looks at positions.
    LessIsSaidToHaveCome,
    /// What was on its way over the old link is taken behind the new link's greeting.
    TheOldLinkIsReadOn,
    /// The same, and nobody looks at positions.
    TheOldLinkIsReadOnUnseen,
    /// A link that broke is not made anew.
    NobodyDialsAgain,
    /// The acceptor takes a link and says nothing.
    NoAnswerToADialler,
}

/// All of them.
pub const ALL: [Mistake; 8] = [
    Mistake::NothingIsSentAgain,
    Mistake::NothingIsKeptWithoutALink,
    Mistake::MoreIsSaidToHaveCome,
    Mistake::LessIsSaidToHaveCome,
    Mistake::TheOldLinkIsReadOn,
    Mistake::TheOldLinkIsReadOnUnseen,
    Mistake::NobodyDialsAgain,
    Mistake::NoAnswerToADialler,
];

impl Mistake {
    /// Whether frames are taken wherever they belong.
    pub fn overlooks_positions(self) -> bool {
        matches!(self, Mistake::LessIsSaidToHaveCome | Mistake::TheOldLinkIsReadOnUnseen)
    }

    /// Whether what came over an old link is kept.
    pub fn keeps_the_old_link(self) -> bool {
        matches!(self, Mistake::TheOldLinkIsReadOn | Mistake::TheOldLinkIsReadOnUnseen)
    }

    /// What a side says has come.
    pub fn said(mistake: Option<Mistake>, received: u64) -> u64 {
        match mistake {
            Some(Mistake::MoreIsSaidToHaveCome) => received.wrapping_add(1),
            Some(Mistake::LessIsSaidToHaveCome) => received.saturating_sub(1),
            _ => received,
        }
    }
}
