//! Why a program could not do its work. (What a program *finds* is its result, not trouble.)

use std::fmt;
use std::io;

/// A program could not run.
#[derive(Debug)]
pub enum Trouble {
    /// An order or parameter that makes no sense.
    Order {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel refused something.
    Os {
        /// What was tried, with what.
        what: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The guest is not made for this program.
    Unfit(String),
}

impl Trouble {
    /// For `map_err`: names what was tried.
    pub fn os(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Os { what, error }
    }

    /// The last call failed, `what` was tried.
    pub fn last_os(what: impl Into<String>) -> Self {
        Self::Os { what: what.into(), error: io::Error::last_os_error() }
    }

    /// `text` makes no sense because of `why`.
    pub fn order(text: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Order { text: text.into(), why: why.into() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order { text, why } => write!(f, "{text:?}: {why}"),
            Self::Os { what, error } => write!(f, "{what}: {error}"),
            Self::Unfit(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Trouble {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os { error, .. } => Some(error),
            _ => None,
        }
    }
}
