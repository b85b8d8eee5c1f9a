//! One connection to the daemon: its Hello, and what is done about it.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::SendError;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::{Shared, SpawnRequest, SpawnerOrder};
use crate::control::ending::tidy;
use crate::control::frame;
use crate::control::guest::{GuestId, GuestName};
use crate::control::hello::{self, HelloError, Reply, Role};
use crate::control::lifeline::ToWorker;
use crate::control::socket::{self, HELLO_LIMIT};
use crate::host;

/// Reads the Hello of a connection and does what it asks. Whatever arrives, it takes bounded time and memory.
pub(super) fn serve(shared: &Shared, stream: TcpStream, from: SocketAddr) {
    let limits = socket::tune(&stream).and_then(|()| stream.set_write_timeout(Some(HELLO_LIMIT)));
    if let Err(error) = limits {
        debug!("connection from {from} closed: {error}");
        return;
    }
    match hello::receive(&stream, Instant::now() + HELLO_LIMIT) {
        Ok(role) => act(shared, stream, role),
        Err(error @ HelloError::Version { .. }) => {
            warn!("connection from {from} closed: {error}");
            // Any reply begins with our version, which is what the other side must know.
            refuse(&stream, "this is another version".into());
        }
        Err(error) => warn!("connection from {from} closed: {}", tidy(&error.to_string())),
    }
}

/// Says no. The other side may be gone already, which changes nothing.
pub(super) fn refuse(mut stream: &TcpStream, why: String) {
    let _gone = hello::reply(&mut stream, &Reply::Refused(why));
}

fn act(shared: &Shared, stream: TcpStream, role: Role) {
    match role {
        Role::Offer => answer(&stream, &host::offer(shared.guests.free())),
        Role::List => answer(&stream, &shared.guests.list()),
        Role::Create { guest, name } => create(shared, stream, guest, name),
        Role::Peer { guest, from, channel } => {
            to_worker(shared, &stream, guest, ToWorker::Peer { from, channel });
        }
        Role::Resume { guest, from, channel, greeting } => {
            to_worker(shared, &stream, guest, ToWorker::Resume { from, channel, greeting });
        }
        Role::Vouch { guest } => match shared.guests.by_id(guest) {
            Some(_) => welcome(&stream),
            None => refuse(&stream, no_guest(guest)),
        },
        Role::Cli { guest } => match shared.guests.by_name(guest.as_ref()) {
            Ok(worker) => hand_over(&worker, &stream, ToWorker::Cli),
            Err(why) => refuse(&stream, why),
        },
    }
}

fn no_guest(guest: GuestId) -> String {
    format!("no guest {guest} runs here")
}

fn to_worker(shared: &Shared, stream: &TcpStream, guest: GuestId, message: ToWorker) {
    match shared.guests.by_id(guest) {
        Some(worker) => hand_over(&worker, stream, message),
        None => refuse(stream, no_guest(guest)),
    }
}

/// Says yes, and nothing more. The other side may be gone already, which changes nothing.
fn welcome(mut stream: &TcpStream) {
    let _gone = hello::reply(&mut stream, &Reply::Welcome);
}

/// Welcomes, and sends the one thing that was asked for.
fn answer<T: serde::Serialize>(mut stream: &TcpStream, value: &T) {
    let sent = hello::reply(&mut stream, &Reply::Welcome).and_then(|()| frame::write(&mut stream, value));
    if let Err(error) = sent {
        debug!("an answer was not taken: {error}");
    }
}

fn create(shared: &Shared, stream: TcpStream, guest: GuestId, name: GuestName) {
    match shared.guests.reserve(guest, name) {
        Ok(reservation) => {
            let request = SpawnRequest { reservation, launcher: stream };
            if let Err(SendError(SpawnerOrder::Start(request))) =
                shared.spawner.send(SpawnerOrder::Start(request))
            {
                refuse(&request.launcher, "this daemon is shutting down".into());
            }
        }
        Err(why) => {
            info!("a guest was refused: {why}");
            refuse(&stream, why);
        }
    }
}

/// Hands the connection to a worker. The Welcome goes first: from then on the worker alone writes to it.
fn hand_over(worker: &super::guests::WorkerLine, mut stream: &TcpStream, message: ToWorker) {
    let restored = stream.set_write_timeout(None).and_then(|()| stream.set_read_timeout(None));
    if restored.is_err() || hello::reply(&mut stream, &Reply::Welcome).is_err() {
        return;
    }
    if let Err(error) = worker.hand_over(&message, stream) {
        warn!("a connection could not be handed to its worker: {}", frame::plain(&error));
    }
}
