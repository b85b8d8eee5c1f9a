//! Between two workers of a guest, on their control connection.

use serde::{Deserialize, Serialize};

use super::ask::{Ask, Outcome};
use super::ending::EndCause;

/// Most questions that a node may have open at another one.
pub const ASKS_OPEN_MAX: usize = 32;

/// One frame of a control connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum PeerFrame {
    /// The machine's: relayed interrupts, device accesses, moves. What is in it is the machine's own affair.
    Machine(Vec<u8>),
    /// This node is alive. Once a second; a node not heard of for four is lost.
    Alive {
        /// Pages that no other node has a copy of: what is gone if this node is.
        pages_alone: u64,
    },
    /// Clock comparison: answer with [`PeerFrame::ClockPong`] at once.
    ClockPing {
        /// The sender's TSC.
        sent: u64,
    },
    /// The answer.
    ClockPong {
        /// As in the question.
        sent: u64,
        /// The TSC of who answers.
        there: u64,
    },
    /// The clock comparison before the start is over.
    ClocksCompared,
    /// A question, or an order, from a user by way of another node.
    Ask {
        /// Marks the answer.
        id: u64,
        /// The question.
        ask: Ask,
    },
    /// The answer.
    Answer {
        /// As in the question.
        id: u64,
        /// The answer.
        outcome: Box<Outcome>,
    },
    /// The guest ends. Sent once by each node to each; who has got it from all need not fear to be taken for
    /// lost.
    Ending(EndCause),
}
