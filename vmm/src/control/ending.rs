//! How a guest ends, and the exit status that `tessera run` makes of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_dsm::NodeId;

/// Exit status of the launcher for its own errors: bad input, unusable host, failed start.
pub const EXIT_ERROR: u8 = 1;
/// Exit status after a reset with `--on-reboot exit`.
pub const EXIT_RESET: u8 = 10;
/// Exit status after the guest announced a panic.
pub const EXIT_PANIC: u8 = 11;
/// Exit status when a node was lost.
pub const EXIT_NODE_LOST: u8 = 12;
/// Exit status when somebody else stopped the guest: `tessera stop`, a daemon that was shut down, a signal to
/// a worker.
pub const EXIT_STOPPED: u8 = 13;
/// Exit status when the launcher was interrupted.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Added to a payload's exit code other than 0.
const EXIT_PAYLOAD_BASE: u8 = 20;
/// Greater payload exit codes are reported as this one.
const EXIT_PAYLOAD_MOST: u32 = 100;
/// Most bytes of a text about a cause that comes from a peer.
const TEXT_BYTES_MAX: usize = 1024;

/// Who asked for a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// `tessera stop`.
    Command,
    /// The launcher, because it was interrupted.
    Interrupt,
    /// The launcher's connection ended without a word.
    LauncherGone,
    /// A daemon that is shutting down.
    DaemonShutdown,
    /// A signal to a worker.
    WorkerTerminated,
}

/// Why a guest ended. All nodes agree on the first cause that one of them saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndCause {
    /// The guest turned itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// The guest said that it panicked.
    Panic,
    /// A payload ended with a code.
    PayloadExit(u32),
    /// A node no longer answers.
    NodeLost {
        /// Which.
        node: NodeId,
        /// Its daemon's address.
        host: String,
        /// What was seen of it: `connection reset`.
        how: String,
        /// Pages that only this node had when it was last heard of, if that is known.
        pages_alone: Option<u64>,
    },
    /// A node cannot go on.
    Failed {
        /// Which.
        node: NodeId,
        /// Its daemon's address.
        host: String,
        /// The error.
        what: String,
    },
    /// Somebody stopped it.
    Stopped(StopReason),
}

impl EndCause {
    /// The exit status of `tessera run`.
    pub fn exit_status(&self) -> u8 {
        match self {
            EndCause::PowerOff | EndCause::PayloadExit(0) => 0,
            EndCause::Reset => EXIT_RESET,
            EndCause::Panic => EXIT_PANIC,
            EndCause::PayloadExit(code) => EXIT_PAYLOAD_BASE + (*code).min(EXIT_PAYLOAD_MOST) as u8,
            EndCause::NodeLost { .. } => EXIT_NODE_LOST,
            EndCause::Failed { .. } => EXIT_ERROR,
            EndCause::Stopped(StopReason::Interrupt) => EXIT_INTERRUPTED,
            // Whoever reads this status is the launcher: it lost a node that says so of it.
            EndCause::Stopped(StopReason::LauncherGone) => EXIT_NODE_LOST,
            EndCause::Stopped(_) => EXIT_STOPPED,
        }
    }

    /// Whether the guest ended by itself, and not because something went wrong or somebody stopped it.
    pub fn is_guests_own(&self) -> bool {
        matches!(self, EndCause::PowerOff | EndCause::Reset | EndCause::Panic | EndCause::PayloadExit(_))
    }

    /// The cause with texts cut to a bounded length and made one line, as a peer's cause must be before it is
    /// shown.
    #[must_use]
    pub fn tidied(mut self) -> Self {
        match &mut self {
            EndCause::NodeLost { host, how, .. } => {
                *host = tidy(host);
                *how = tidy(how);
            }
            EndCause::Failed { host, what, .. } => {
                *host = tidy(host);
                *what = tidy(what);
            }
            _ => {}
        }
        self
    }
}

/// `text` as one line of bounded length without control characters.
pub fn tidy(text: &str) -> String {
    let mut line = String::new();
    for c in text.trim().chars() {
        if line.len() >= TEXT_BYTES_MAX {
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndCause::PowerOff => write!(f, "the guest powered off"),
            EndCause::Reset => write!(f, "the guest reset itself"),
            EndCause::Panic => write!(f, "the guest panicked"),
            EndCause::PayloadExit(0) => write!(f, "the payload passed"),
            EndCause::PayloadExit(code) => write!(f, "the payload ended with code {code}"),
            EndCause::NodeLost { host, how, pages_alone, .. } => {
                write!(f, "node {host} was lost ({how}); ")?;
                match pages_alone {
                    Some(0) => write!(f, "no page was held by it alone, but its vCPUs are gone"),
                    Some(pages) => write!(f, "it held {pages} pages that no other node has"),
                    None => write!(f, "its memory is gone"),
                }?;
                write!(f, ": the guest is stopped")
            }
            EndCause::Failed { host, what, .. } => write!(f, "node {host} failed: {what}"),
            EndCause::Stopped(StopReason::Command) => write!(f, "the guest was stopped by `tessera stop`"),
            EndCause::Stopped(StopReason::Interrupt) => {
                write!(f, "the guest was stopped: the launcher was interrupted")
            }
            EndCause::Stopped(StopReason::LauncherGone) => {
                write!(f, "the guest was stopped: its launcher is gone")
            }
            EndCause::Stopped(StopReason::DaemonShutdown) => {
                write!(f, "the guest was stopped: a daemon that runs a part of it was shut down")
            }
            EndCause::Stopped(StopReason::WorkerTerminated) => {
                write!(f, "the guest was stopped: the worker of one of its nodes was terminated by a signal")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_those_that_the_manual_promises() {
        let lost =
            EndCause::NodeLost { node: NodeId(1), host: "b:1".into(), how: "x".into(), pages_alone: None };
        let failed = EndCause::Failed { node: NodeId(1), host: "b:1".into(), what: "x".into() };
        let statuses = [
            (EndCause::PowerOff, 0),
            (EndCause::Reset, 10),
            (EndCause::Panic, 11),
            (EndCause::PayloadExit(0), 0),
            (EndCause::PayloadExit(1), 21),
            (EndCause::PayloadExit(100), 120),
            (EndCause::PayloadExit(u32::MAX), 120),
            (lost, 12),
            (failed, 1),
            (EndCause::Stopped(StopReason::Command), 13),
            (EndCause::Stopped(StopReason::DaemonShutdown), 13),
            (EndCause::Stopped(StopReason::Interrupt), 130),
        ];
        for (cause, status) in statuses {
            assert_eq!(cause.exit_status(), status, "{cause:?}");
        }
    }

    #[test]
    fn the_line_about_a_lost_node_names_it_and_what_is_gone() {
        let lost = EndCause::NodeLost {
            node: NodeId(1),
            host: "b:7070".into(),
            how: "connection reset".into(),
            pages_alone: Some(7),
        };
        assert_eq!(
            lost.to_string(),
            "node b:7070 was lost (connection reset); it held 7 pages that no other node has: \
             the guest is stopped"
        );
    }

    #[test]
    fn a_peers_text_cannot_break_the_line_or_flood_it() {
        let what = format!("a\nb\x1b[2J{}", "x".repeat(10_000));
        let cause = EndCause::Failed { node: NodeId(0), host: "h".into(), what }.tidied();
        let EndCause::Failed { what, .. } = cause else { panic!("kind changed") };
        assert!(what.starts_with("a b [2J") && what.len() <= TEXT_BYTES_MAX);
    }
}
