//! Answers, and why a request is refused.

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

/// Why a request is refused: one line for the user, and the HTTP status that it has at Cloud Hypervisor.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// The request makes no sense. Status 400.
    #[error("{0}")]
    BadRequest(String),
    /// The path, the guest or the device is not there. Status 404.
    #[error("{0}")]
    NotFound(String),
    /// The guest is in a state in which this cannot be done. Status 405.
    #[error("{0}")]
    NotNow(String),
    /// It is there already. Status 409.
    #[error("{0}")]
    Conflict(String),
    /// The body is too long. Status 413.
    #[error("{0}")]
    TooLong(String),
    /// It was tried and failed. Status 500.
    #[error("{0}")]
    Failed(String),
    /// Cloud Hypervisor can do it and Tessera cannot. Status 501.
    #[error("{0}")]
    NotDone(String),
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::BadRequest(_) => 400,
            Refusal::NotFound(_) => 404,
            Refusal::NotNow(_) => 405,
            Refusal::Conflict(_) => 409,
            Refusal::TooLong(_) => 413,
            Refusal::Failed(_) => 500,
            Refusal::NotDone(_) => 501,
        }
    }
}

/// An answer: an HTTP status, and JSON if there is something to say.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Option<Value>,
}

impl Reply {
    /// It is done.
    pub fn done() -> Self {
        Reply { status: 204, body: None }
    }

    /// What was asked for.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn with(body: &impl Serialize) -> Result<Self, Refusal> {
        let body = serde_json::to_value(body);
        let body = body.map_err(|error| Refusal::Failed(format!("the answer is no JSON: {error}")))?;
        Ok(Reply { status: 200, body: Some(body) })
    }
}

impl From<Refusal> for Reply {
    /// As Cloud Hypervisor has it: a list of lines, the outermost error first.
    fn from(refusal: Refusal) -> Self {
        Reply { status: refusal.status(), body: Some(Value::from(vec![refusal.to_string()])) }
    }
}
