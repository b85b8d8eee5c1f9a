//! Why a guest was not started, in one line that names the culprit and the remedy.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::api::ApiError;
use crate::control::ending::{EXIT_ERROR, EXIT_INTERRUPTED};
use crate::control::guest::SpecError;
use crate::control::hello::HelloError;
use crate::control::orders::Stage;
use crate::daemon::DaemonError;

/// Why a guest was not started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: {source}", .path.display())]
    File {
        /// Kernel or initramfs.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("the {what} {} {problem}", .path.display())]
    Input {
        /// Kernel or initramfs.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Options contradict each other or are out of range.
    #[error("{0}")]
    Options(String),
    /// A host cannot be asked.
    #[error("{host} {problem}")]
    Host {
        /// Which: `host b:7070`.
        host: String,
        /// What is wrong, with its remedy.
        problem: String,
    },
    /// The hosts do not fit together.
    #[error("{0}")]
    Hosts(String),
    /// The guest's description is not valid.
    #[error("this guest cannot be: {0}")]
    Spec(#[from] SpecError),
    /// A host did not bring its node up.
    #[error("{host}: {why}")]
    Stage {
        /// Which: `host b:7070`.
        host: String,
        /// The stage that it did not reach.
        stage: Stage,
        /// Why.
        why: String,
    },
    /// The local daemon cannot be started.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The API cannot be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Something on this machine.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The user interrupted the start.
    #[error("interrupted before the guest ran")]
    Interrupted,
}

impl LaunchError {
    /// An error of the machine on which the launcher runs.
    pub(super) fn local(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
        move |source| LaunchError::Local { what, source }
    }

    /// The exit status of `tessera run`.
    pub fn exit_status(&self) -> u8 {
        match self {
            LaunchError::Interrupted => EXIT_INTERRUPTED,
            _ => EXIT_ERROR,
        }
    }

    /// That `host` could not be asked something.
    pub fn unreachable(host: &str, error: &HelloError) -> LaunchError {
        let problem = match error {
            HelloError::Frame(error) => {
                format!("cannot be reached: {error}; is `tessera node` running there?")
            }
            HelloError::Garbage => "answers, but not as a Tessera node: is it the right port?".into(),
            HelloError::Version { .. } => format!("runs another version: {error}"),
            HelloError::Refused(why) => format!("refuses: {why}"),
            HelloError::Node(_) | HelloError::Shard(_) => error.to_string(),
        };
        LaunchError::Host { host: format!("host {host}"), problem }
    }

    /// The same, when the only host is this machine, whose daemon has an address that means nothing to the
    /// user.
    #[must_use]
    pub(super) fn on_this_machine(self) -> LaunchError {
        match self {
            LaunchError::Host { problem, .. } => LaunchError::Host { host: "this machine".into(), problem },
            LaunchError::Stage { stage, why, .. } => {
                LaunchError::Stage { host: "this machine".into(), stage, why }
            }
            other => other,
        }
    }
}
