//! `tessera run`: looks at everything that can be looked at before a host is touched, asks the hosts what
//! they have, makes the plan, brings the guest up, and is its console until it ends.
//!
//! With an API ([`serve`]) guests come and go as its users ask; without ([`run`]) there is one.

mod error;
mod guest_run;
mod inputs;
mod lives;
mod local_daemon;
mod plan;
mod report;
pub mod request;
mod served;
mod session;
mod survey;
mod terminal;

pub use error::LaunchError;
pub use served::{serve, FirstGuest};

use crate::api::desk::Next;
use crate::control::ending::EndCause;
use crate::control::guest::GuestSpec;
use lives::{Launcher, Watcher};
use request::{OnReboot, RunRequest};

/// Runs a guest to its end; the exit status. Ending signals must be blocked (see [`crate::host::signals::block`]).
///
/// # Errors
/// When the guest was not started.
pub fn run(request: &RunRequest) -> Result<u8, LaunchError> {
    plan::check_request(request)?;
    let inputs = inputs::open_all(request)?;
    let (status, _next) = Launcher::new()?.run(request, &inputs, &Alone(request.on_reboot))?;
    Ok(status)
}

/// Nobody but the guest itself says what comes after its end.
struct Alone(OnReboot);

impl Watcher for Alone {
    fn started(&self, _spec: &GuestSpec) {}

    fn ended(&self, cause: &EndCause) -> Next {
        match (cause, self.0) {
            (EndCause::Reset, OnReboot::Restart) => Next::Again,
            _ => Next::Exit,
        }
    }
}
