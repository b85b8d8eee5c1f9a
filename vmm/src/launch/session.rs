//! The launcher's connections to the workers of one guest.

use std::net::TcpStream;
use std::sync::mpsc::SyncSender;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_dsm::NodeId;

use super::error::LaunchError;
use super::terminal::Console;
use crate::control::address::HostAddress;
use crate::control::ending::tidy;
use crate::control::frame::{FrameError, FrameReader};
use crate::control::guest::{GuestId, GuestName};
use crate::control::hello::Role;
use crate::control::orders::{Order, Report, Stage};
use crate::control::socket::{self, FrameWriter, DEAD_AFTER};
use crate::host::signals::EndSignal;

/// After a silence, how long to look for reports that arrived while this process was suspended.
const LAST_LOOK: Duration = Duration::from_millis(200);

/// What the launcher's main thread waits for.
#[derive(Debug)]
pub enum Event {
    /// A worker said something that is not console output.
    Report {
        /// Of which guest: a report of one that was given up is dropped.
        guest: GuestId,
        /// Its node.
        node: NodeId,
        /// What.
        report: Box<Report>,
    },
    /// A worker's connection ended.
    Lost {
        /// Of which guest.
        guest: GuestId,
        /// Its node.
        node: NodeId,
        /// What was seen.
        how: String,
    },
    /// The user asks for the end.
    Signal(EndSignal),
    /// There may be something to do for the API.
    Api,
}

/// What each reader thread needs.
#[derive(Clone)]
pub struct Listening {
    /// Where events go.
    pub events: SyncSender<Event>,
    /// Where console output goes.
    pub console: Arc<Console>,
}

/// The connection to one worker.
pub struct Session {
    /// The daemon.
    pub host: String,
    writer: Arc<FrameWriter>,
}

impl Session {
    /// Has the daemon start a worker, and listens to it on a thread.
    ///
    /// # Errors
    /// When the daemon cannot be reached or refuses.
    pub fn create(
        address: &HostAddress,
        node: NodeId,
        guest: GuestId,
        name: &GuestName,
        listening: &Listening,
    ) -> Result<Session, LaunchError> {
        let host = address.to_string();
        let role = Role::Create { guest, name: name.clone() };
        let stream = socket::dial(address, &role, Instant::now() + Stage::Created.limit())
            .map_err(|error| LaunchError::unreachable(&host, &error))?;
        let failed = LaunchError::local("cannot listen to a worker");
        let reading = stream.try_clone().map_err(failed)?;
        let to = listening.clone();
        let read = move || read_reports(reading, guest, node, &to);
        let thread = std::thread::Builder::new().name(format!("node{}", node.0));
        thread.spawn(read).map_err(LaunchError::local("cannot start a thread"))?;
        Ok(Session { host, writer: Arc::new(FrameWriter::new(stream)) })
    }

    /// Sends an order.
    ///
    /// # Errors
    /// When the worker is lost.
    pub fn send(&self, order: &Order) -> Result<(), FrameError> {
        self.writer.send(order)
    }

    /// The connection, for console input.
    pub fn writer(&self) -> Arc<FrameWriter> {
        self.writer.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        socket::hang_up(self.writer.socket());
    }
}

/// Passes a worker's reports on until its connection ends.
fn read_reports(stream: TcpStream, guest: GuestId, node: NodeId, to: &Listening) {
    let mut reader = FrameReader::new(stream);
    let how = loop {
        let report = match reader.read::<Report>(Some(Instant::now() + DEAD_AFTER)) {
            Err(FrameError::TimedOut) => reader.read(Some(Instant::now() + LAST_LOOK)),
            other => other,
        };
        match report {
            Ok(Report::Alive) => {}
            Ok(Report::Console(bytes)) => to.console.write(&bytes),
            Ok(Report::ConsoleLost { bytes }) => {
                to.console.write(format!("\n[{bytes} bytes of console output were lost]\n").as_bytes());
            }
            Ok(Report::InputTaken { bytes }) => to.console.acknowledged(bytes),
            Ok(report) => {
                if to.events.send(Event::Report { guest, node, report: Box::new(tidied(report)) }).is_err() {
                    return;
                }
            }
            Err(FrameError::TimedOut) => break format!("nothing heard for {} s", DEAD_AFTER.as_secs()),
            Err(error) => break error.to_string(),
        }
    };
    // When nobody listens any more, the guest is over.
    let _over = to.events.send(Event::Lost { guest, node, how });
}

/// A report whose texts may be shown.
fn tidied(report: Report) -> Report {
    match report {
        Report::Failed { stage, why } => Report::Failed { stage, why: tidy(&why) },
        Report::Ended { cause, stats } => Report::Ended { cause: cause.tidied(), stats },
        other => other,
    }
}
