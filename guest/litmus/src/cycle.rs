//! Cycles of edges between loads and stores, as diy (Alglave, Maranget) writes them.
//!
//! An edge leads from one access to the next: along one thread's program (`PodWR`: program order, different
//! locations, a store and then a load; `PosRR`: the same location; `MFencedWW`, `MFencesWW`: with an MFENCE between), or
//! from thread to thread (`Rfe`: a load reads from a store; `Fre`: a load reads what was there before a store;
//! `Coe` or `Wse`: a store overwrites a store). `Rfi` reads from a store of the same thread. A cycle describes an
//! outcome in which each access comes before the next: impossible if memory were one and in order.
//!
//! Beyond diy: `LockdWR`, `LocksWR` have a locked operation on a private word between, `RmwdWR`, `RmwsWR` begin with a
//! locked operation (XCHG for a store, LOCK XADD of 0 for a load).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Most edges of a cycle.
pub const EDGES_MAX: usize = 24;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// It loads.
    R,
    /// It stores.
    W,
}

/// What stands between two accesses of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// Nothing.
    Plain,
    /// MFENCE.
    MFence,
    /// A locked operation on a private word.
    Lock,
    /// Nothing, but the first access is a locked operation.
    Rmw,
}

impl Order {
    /// All of them.
    pub const ALL: [Order; 4] = [Order::Plain, Order::MFence, Order::Lock, Order::Rmw];

    const fn edge(self) -> &'static str {
        match self {
            Order::Plain => "Po",
            Order::MFence => "MFence",
            Order::Lock => "Lock",
            Order::Rmw => "Rmw",
        }
    }
}

/// Which location an access in program order has, as compared to the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// Another one.
    Different,
    /// The same one.
    Same,
}

/// From one access to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// Another thread's load reads from the store.
    Rfe,
    /// The load reads what was there before another thread's store.
    Fre,
    /// Another thread's store overwrites the store.
    Coe,
    /// The same thread's load reads from the store.
    Rfi,
    /// Program order.
    Po {
        /// What stands between.
        order: Order,
        /// Whether the location changes.
        location: Location,
        /// The first access.
        from: Access,
        /// The second one.
        to: Access,
    },
}

impl Edge {
    /// The access that it leads from.
    pub fn from(&self) -> Access {
        match *self {
            Edge::Fre => Access::R,
            Edge::Rfe | Edge::Coe | Edge::Rfi => Access::W,
            Edge::Po { from, .. } => from,
        }
    }

    /// The access that it leads to.
    pub fn to(&self) -> Access {
        match *self {
            Edge::Rfe | Edge::Rfi => Access::R,
            Edge::Fre | Edge::Coe => Access::W,
            Edge::Po { to, .. } => to,
        }
    }

    /// Whether it leads to another thread.
    pub fn is_external(&self) -> bool {
        matches!(self, Edge::Rfe | Edge::Fre | Edge::Coe)
    }

    /// Whether it leads to another location.
    pub fn changes_location(&self) -> bool {
        matches!(self, Edge::Po { location: Location::Different, .. })
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edge::Rfe => f.write_str("Rfe"),
            Edge::Fre => f.write_str("Fre"),
            Edge::Coe => f.write_str("Coe"),
            Edge::Rfi => f.write_str("Rfi"),
            Edge::Po { order, location, from, to } => {
                let location = if *location == Location::Same { "s" } else { "d" };
                write!(f, "{}{location}{from:?}{to:?}", order.edge())
            }
        }
    }
}

/// Why a text is no cycle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CycleError {
    /// A word is no edge.
    #[error("{0:?} is no edge")]
    Edge(String),
    /// An edge does not begin with the access where the one before ends.
    #[error("{before} does not lead to {after}")]
    Mismatch {
        /// The edge before.
        before: Edge,
        /// The edge that does not fit.
        after: Edge,
    },
    /// More edges than [`EDGES_MAX`].
    #[error("a cycle has at most {EDGES_MAX} edges, not {0}")]
    Long(usize),
    /// No edge leads to another thread, or all do.
    #[error("a cycle has edges along a thread and edges between threads")]
    OneKind,
    /// One edge alone leads to another location.
    #[error("a single edge leads to another location: no way leads back")]
    OneWay,
}

impl FromStr for Edge {
    type Err = CycleError;

    fn from_str(text: &str) -> Result<Self, CycleError> {
        let unknown = || CycleError::Edge(text.to_owned());
        match text {
            "Rfe" => return Ok(Edge::Rfe),
            "Fre" => return Ok(Edge::Fre),
            "Coe" | "Wse" => return Ok(Edge::Coe),
            "Rfi" => return Ok(Edge::Rfi),
            _ => {}
        }
        let order =
            Order::ALL.into_iter().find(|order| text.starts_with(order.edge())).ok_or_else(unknown)?;
        let access = |letter: char| match letter {
            'R' => Ok(Access::R),
            'W' => Ok(Access::W),
            _ => Err(unknown()),
        };
        match text[order.edge().len()..].chars().collect::<Vec<_>>()[..] {
            [location @ ('d' | 's'), from, to] => {
                let location = if location == 's' { Location::Same } else { Location::Different };
                Ok(Edge::Po { order, location, from: access(from)?, to: access(to)? })
            }
            _ => Err(unknown()),
        }
    }
}

/// A cycle: edges each of which begins where the one before ends, the first one where the last one ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cycle(Vec<Edge>);

impl Cycle {
    /// Checks the edges.
    ///
    /// # Errors
    /// When they make no cycle.
    pub fn new(edges: Vec<Edge>) -> Result<Self, CycleError> {
        if edges.len() > EDGES_MAX {
            return Err(CycleError::Long(edges.len()));
        }
        for (index, &after) in edges.iter().enumerate() {
            let before = edges[(index + edges.len() - 1) % edges.len()];
            if before.to() != after.from() {
                return Err(CycleError::Mismatch { before, after });
            }
        }
        let external = edges.iter().filter(|edge| edge.is_external()).count();
        if external == 0 || external == edges.len() {
            return Err(CycleError::OneKind);
        }
        if edges.iter().filter(|edge| edge.changes_location()).count() == 1 {
            return Err(CycleError::OneWay);
        }
        Ok(Cycle(edges))
    }

    /// Its edges; edge n leads from access n.
    pub fn edges(&self) -> &[Edge] {
        &self.0
    }

    /// The same cycle, written from each place where a thread begins.
    pub fn rotations(&self) -> impl Iterator<Item = Cycle> + '_ {
        let count = self.0.len();
        let begins = (0..count).filter(move |&at| self.0[(at + count - 1) % count].is_external());
        begins.map(|at| {
            let mut edges = self.0.clone();
            edges.rotate_left(at);
            Cycle(edges)
        })
    }

    /// The rotation that stands for all.
    pub fn canonical(&self) -> Cycle {
        self.rotations().min().unwrap_or_else(|| self.clone())
    }

    /// Its edges along the threads, thread by thread from the first that begins; a thread with one access has none.
    pub fn threads(&self) -> Vec<Vec<Edge>> {
        let Some(first) = self.rotations().next() else { return Vec::new() };
        let parts = first.0.split_inclusive(Edge::is_external);
        parts.map(|part| part[..part.len() - 1].to_vec()).collect()
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, edge) in self.0.iter().enumerate() {
            write!(f, "{}{edge}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Cycle {
    type Err = CycleError;

    fn from_str(text: &str) -> Result<Self, CycleError> {
        Cycle::new(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(text: &str) -> Result<Cycle, CycleError> {
        text.parse()
    }

    #[test]
    fn text_and_cycle_are_the_same() {
        for text in ["Rfe PodRR Fre MFencedWW", "Fre LockdWR Fre RmwdWR", "Rfi MFencesRR Fre PosWW Coe"] {
            assert_eq!(cycle(text).unwrap().to_string(), text);
        }
        assert_eq!(cycle("Wse PodWW Wse PodWW"), cycle("Coe PodWW Coe PodWW"));
    }

    #[test]
    fn rotations_begin_with_threads_and_are_one_cycle() {
        let mp = cycle("PodRR Fre PodWW Rfe").unwrap();
        assert_eq!(mp.rotations().count(), 2);
        assert_eq!(mp.canonical(), cycle("PodWW Rfe PodRR Fre").unwrap().canonical());
        assert_eq!(mp.threads().len(), 2);
        let rwc = cycle("Rfe PodRR Fre PodWR Fre").unwrap();
        assert_eq!(rwc.threads().iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1]);
    }

    #[test]
    fn what_is_no_cycle_is_refused() {
        assert!(matches!(cycle("Rfe PodWW"), Err(CycleError::Mismatch { .. })));
        assert_eq!(cycle("Rfe PodRR Fre Bad"), Err(CycleError::Edge("Bad".into())));
        for bad in ["Pod", "PodR", "PodRX", "PoxRR", "MFencedRRR", "é"] {
            assert_eq!(cycle(bad), Err(CycleError::Edge(bad.into())));
        }
        assert_eq!(cycle(""), Err(CycleError::OneKind));
        assert_eq!(cycle("Coe Coe"), Err(CycleError::OneKind));
        assert_eq!(cycle("PodWW PodWW"), Err(CycleError::OneKind));
        assert_eq!(cycle("Rfe PodRR Fre"), Err(CycleError::OneWay));
        assert_eq!(cycle(&"Fre PodWR ".repeat(13)), Err(CycleError::Long(26)));
    }
}
