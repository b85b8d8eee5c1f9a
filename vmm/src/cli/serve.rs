//! `node` and `worker`.

use std::io;
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use tracing::{info, warn};

use super::args::{NodeArgs, WorkerArgs};
use super::Failure;
use crate::control::ending::{EndCause, StopReason};
use crate::control::lifeline::Lifeline;
use crate::daemon::spawn::ProcessSpawner;
use crate::daemon::{Daemon, DaemonOptions, Exposure};
use crate::host::signals::{self, EndSignal};
use crate::worker;
use crate::worker::kvm_guest::KvmGuestBuilder;
use crate::worker::life::Life;

/// Runs a daemon until a signal ends it.
pub(super) fn node(args: &NodeArgs, worker_arguments: Vec<String>) -> Result<u8, Failure> {
    signals::block()?;
    let options = DaemonOptions {
        listen: args.listen.clone(),
        exposure: if args.public { Exposure::Public } else { Exposure::Loopback },
        guests_max: args.max_guests.into(),
    };
    let daemon = Daemon::bind(&options, Box::new(ProcessSpawner::this_program(worker_arguments)))?;
    if options.exposure == Exposure::Public && !daemon.address().ip().is_loopback() {
        warn!(
            "nodes do not authenticate each other yet: whoever reaches {} can run guests here",
            daemon.address()
        );
    }
    info!("listening on {}", daemon.address());
    let stopper = daemon.stopper();
    signals::watch(move |_| {
        info!("shutting down");
        stopper.stop();
    })?;
    daemon.run()?;
    Ok(0)
}

/// Runs a worker until its guest has ended.
pub(super) fn worker(args: &WorkerArgs) -> Result<u8, Failure> {
    signals::block()?;
    let launcher = TcpStream::from(inherited_socket(args.launcher_fd)?);
    let lifeline = Lifeline::from_fd(inherited_socket(args.lifeline_fd)?)?;
    let life = Arc::new(Life::default());
    let ending = life.clone();
    signals::watch(move |signal| {
        // An interrupt is for the daemon, which has ways of its own to end a guest.
        if signal == EndSignal::Terminate {
            ending.end(EndCause::Stopped(StopReason::WorkerTerminated));
        }
    })?;
    worker::run(launcher, lifeline, life, &KvmGuestBuilder)?;
    Ok(0)
}

/// A socket that the daemon left open for this process.
fn inherited_socket(fd: RawFd) -> Result<OwnedFd, Failure> {
    let not_ours =
        |why: &str| Failure::new(format!("a worker is started by `tessera node`, not by hand: {why}"));
    if fd < 3 {
        return Err(not_ours("a standard stream is no connection"));
    }
    // SAFETY: fcntl with F_SETFD takes any number and only fails for one that is no open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(not_ours(&io::Error::last_os_error().to_string()));
    }
    // SAFETY: the descriptor is open, and nothing else in this process, which has just begun, owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match rustix::net::sockopt::socket_type(&fd) {
        Ok(_) => Ok(fd),
        Err(error) => Err(not_ours(&error.to_string())),
    }
}
