//! Where a test's variables are in memory. What may go wrong between hosts goes wrong page by page.

use crate::value::Alignment;

/// A way of placing variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// Each variable has a page of its own; those of one instance have the same home.
    Apart,
    /// Each variable has a page of its own; those of one instance have different homes.
    Homes,
    /// All variables of an instance are in one page, in one cache line.
    Together,
    /// Each variable lies across two pages, one half in each.
    Straddle,
    /// The second variable lies in the page-table page that leads to the first one.
    Table,
}

impl Placement {
    /// All of them.
    pub const ALL: [Placement; 5] =
        [Placement::Apart, Placement::Homes, Placement::Together, Placement::Straddle, Placement::Table];

    /// Its word on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Placement::Apart => "apart",
            Placement::Homes => "homes",
            Placement::Together => "together",
            Placement::Straddle => "straddle",
            Placement::Table => "table",
        }
    }

    /// The placement of that word.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|placement| placement.name() == name)
    }

    /// How variables lie that are placed so.
    pub const fn alignment(self) -> Alignment {
        match self {
            Placement::Straddle => Alignment::Straddling,
            _ => Alignment::Aligned,
        }
    }
}
