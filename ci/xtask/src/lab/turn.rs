//! One lab at a time: emulated hosts that share the cores of this machine with other labs are slow beyond use, and
//! what they measure means nothing.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::progress::Step;

/// Set to have a lab beside others, for what does not depend on time.
const SHARED: &str = "TESSERA_LAB_SHARED";

/// This process's turn to have a lab; the next one's begins when it goes.
pub struct Turn {
    _lock: Option<File>,
}

impl Turn {
    /// Waits until no other process on this machine has a lab.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn wait() -> Result<Self> {
        let path = path();
        if std::env::var_os(SHARED).is_some() {
            return Ok(Turn { _lock: None });
        }
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if !flock(&lock, libc::LOCK_EX | libc::LOCK_NB)? {
            let step = Step::start("waiting for another lab on this machine to end");
            flock(&lock, libc::LOCK_EX)?;
            step.done("done");
        }
        Ok(Turn { _lock: Some(lock) })
    }
}

fn path() -> PathBuf {
    std::env::temp_dir().join("tessera-lab.lock")
}

/// Whether the lock was got.
fn flock(file: &File, how: i32) -> Result<bool> {
    // SAFETY: the descriptor is open as long as `file` lives.
    if unsafe { libc::flock(file.as_raw_fd(), how) } == 0 {
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    match error.kind() {
        std::io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(error).context("cannot lock the lab's lock file"),
    }
}
