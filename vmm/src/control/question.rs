//! One question to a guest, one answer: for users' connections.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::address::HostAddress;
use super::ask::{Answer, Ask, Outcome};
use super::ending::tidy;
use super::frame::{self, FrameError, FrameReader};
use super::guest::GuestName;
use super::hello::{HelloError, Role};
use super::socket::{self, HELLO_LIMIT};

/// How long an answer may take: longer than the slowest thing that can be asked for, a move.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// The daemon cannot be asked.
    #[error(transparent)]
    Unreachable(HelloError),
    /// No answer came.
    #[error("no answer: {0}")]
    NoAnswer(#[from] FrameError),
    /// The daemon or the guest says no; why, in one line that may be shown.
    #[error("{0}")]
    Refused(String),
}

/// Asks `guest`, or the only one there is, by way of a daemon that runs a part of it.
///
/// # Errors
/// When there is no answer, or a refusal.
pub fn ask(host: &HostAddress, guest: Option<&GuestName>, ask: &Ask) -> Result<Answer, AskError> {
    let role = Role::Cli { guest: guest.cloned() };
    let stream = socket::dial(host, &role, Instant::now() + HELLO_LIMIT).map_err(|error| match error {
        HelloError::Refused(why) => AskError::Refused(why),
        error => AskError::Unreachable(error),
    })?;
    let mut writer = &stream;
    frame::write(&mut writer, ask)?;
    let outcome: Outcome = FrameReader::new(&stream).read(Some(Instant::now() + ANSWER_LIMIT))?;
    outcome.map_err(|why| AskError::Refused(tidy(&why)))
}
