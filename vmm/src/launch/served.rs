//! `tessera run --api-socket`: guests come and go as the API's users ask.

use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::Arc;

use super::error::LaunchError;
use super::inputs;
use super::lives::{Launcher, Watcher};
use super::plan;
use super::request::RunRequest;
use super::session::Event;
use crate::api::desk::{Desk, GuestLine, Next, World};
use crate::api::socket::ApiSocket;
use crate::api::{ApiError, ApiServer};
use crate::control::ask::{Answer, Ask};
use crate::control::ending::{EndCause, EXIT_INTERRUPTED};
use crate::control::guest::GuestSpec;
use crate::control::question;
use crate::host::signals::EndSignal;

/// Whether there is a guest from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstGuest {
    /// The one that the command line describes, which is started at once.
    Given,
    /// None: the API creates one.
    None,
}

/// Serves the API at `socket`, and runs the guests that its users ask for; the exit status. What they do not say of a
/// guest is as in `request`. Ending signals must be blocked (see [`crate::host::signals::block`]).
///
/// # Errors
/// When the API cannot be served, or the first guest was not started.
pub fn serve(request: &RunRequest, first: FirstGuest, socket: &Path) -> Result<u8, LaunchError> {
    plan::check_request(request)?;
    let launcher = Launcher::new()?;
    let desk = Arc::new(Desk::new(Outside { events: launcher.teller() }, request.clone()));
    let listening = ApiSocket::listen(socket).map_err(ApiError::from)?;
    if first == FirstGuest::Given {
        desk.start_template();
    }
    let server = ApiServer::start(listening, desk.clone())?;
    let status = attend(&launcher, &desk, first);
    // Whoever waits for an answer gets it, and then the server has nothing more to do.
    desk.close();
    drop(server);
    status
}

/// Starts guests until all is over.
fn attend(launcher: &Launcher, desk: &Desk<Outside>, first: FirstGuest) -> Result<u8, LaunchError> {
    let mut must_start = first == FirstGuest::Given;
    loop {
        if desk.wants_to_quit() {
            return Ok(0);
        }
        if let Some(request) = desk.to_start() {
            let run = inputs::open_all(&request)
                .and_then(|inputs| launcher.run(&request, &inputs, &Followed { desk }));
            match run {
                Ok((status, Next::Exit)) => return Ok(status),
                Ok((_, Next::Quit)) => return Ok(0),
                Ok((_, Next::Wait | Next::Again)) => {}
                Err(error) => {
                    let next = desk.failed(error.to_string());
                    if next == Next::Wait && must_start {
                        return Err(error);
                    }
                }
            }
            must_start = false;
            continue;
        }
        match launcher.events().recv() {
            Ok(Event::Signal(_)) => return Ok(EXIT_INTERRUPTED),
            // What is left of a guest that is over, or something to do.
            Ok(_) => {}
            Err(_) => return Ok(EXIT_INTERRUPTED),
        }
    }
}

/// A guest's lives as the desk follows them.
struct Followed<'a> {
    desk: &'a Desk<Outside>,
}

impl Watcher for Followed<'_> {
    fn started(&self, spec: &GuestSpec) {
        // The first host has the devices.
        if let Some(home) = spec.hosts.first() {
            self.desk.started(&GuestLine { host: home.address.clone(), guest: spec.name.clone() });
        }
    }

    fn ended(&self, cause: &EndCause) -> Next {
        self.desk.ended(cause)
    }
}

/// What the desk needs of this process.
struct Outside {
    events: SyncSender<Event>,
}

impl World for Outside {
    fn wake(&self) {
        // With a full queue the main thread wakes anyway.
        let _full = self.events.try_send(Event::Api);
    }

    fn interrupt(&self) {
        // Without a main thread there is nothing to interrupt.
        let _over = self.events.send(Event::Signal(EndSignal::Terminate));
    }

    fn ask(&self, at: &GuestLine, ask: &Ask) -> Result<Answer, String> {
        question::ask(&at.host, Some(&at.guest), ask).map_err(|error| error.to_string())
    }

    fn check(&self, request: &RunRequest) -> Result<(), String> {
        plan::check_request(request).map_err(|error| error.to_string())
    }
}
