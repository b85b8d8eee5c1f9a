//! The daemon of a guest that runs on this machine alone.

use std::thread::JoinHandle;

use tracing::warn;

use super::error::LaunchError;
use super::request::RunRequest;
use crate::control::address::HostAddress;
use crate::daemon::spawn::ProcessSpawner;
use crate::daemon::{Daemon, DaemonOptions, Exposure, Stopper};

/// A daemon in this process, which ends when this is dropped.
pub(super) struct LocalDaemon {
    address: HostAddress,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl LocalDaemon {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(request: &RunRequest) -> Result<LocalDaemon, LaunchError> {
        let any_port = "127.0.0.1:0".parse().map_err(crate::daemon::DaemonError::Address)?;
        let options = DaemonOptions { listen: any_port, exposure: Exposure::Loopback, guests_max: 1 };
        let spawner = ProcessSpawner::this_program(request.worker_arguments.clone());
        let daemon = Daemon::bind(&options, Box::new(spawner))?;
        let (address, stopper) = (HostAddress::of(daemon.address()), daemon.stopper());
        let serve = move || {
            if let Err(error) = daemon.run() {
                warn!("{error}");
            }
        };
        let thread = std::thread::Builder::new().name("daemon".into()).spawn(serve);
        let thread = thread.map_err(LaunchError::local("cannot start a thread"))?;
        Ok(LocalDaemon { address, stopper, thread: Some(thread) })
    }
}

impl LocalDaemon {
    /// Where it listens.
    pub fn address(&self) -> &HostAddress {
        &self.address
    }
}

impl Drop for LocalDaemon {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _panicked = thread.join();
        }
    }
}
