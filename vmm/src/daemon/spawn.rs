//! How a daemon starts workers. Tests start them as threads; the product as processes of the same program.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};

use crate::control::lifeline::Lifeline;

/// Starts workers.
pub trait WorkerSpawner: Send + Sync {
    /// Starts one, which takes over the launcher's connection and its end of the lifeline. The worker dies
    /// with the thread that calls this.
    ///
    /// # Errors
    /// When the worker cannot be started.
    fn spawn(&self, launcher: TcpStream, lifeline: Lifeline) -> io::Result<Box<dyn WorkerProcess>>;
}

/// A started worker.
pub trait WorkerProcess: Send {
    /// Its process id.
    fn id(&self) -> u32;
    /// Waits for its end.
    fn wait(&mut self) -> Ended;
    /// Something that kills it, and does nothing once it has ended.
    fn killer(&self) -> Box<dyn Fn() + Send>;
}

/// How a worker ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It ended its guest, for whatever cause, and said so to all.
    InOrder,
    /// It died: `was killed by signal 9`.
    Otherwise(String),
}

impl Ended {
    fn of(status: ExitStatus) -> Ended {
        match (status.code(), status.signal()) {
            (Some(0), _) => Ended::InOrder,
            (Some(code), _) => Ended::Otherwise(format!("ended with status {code}")),
            (None, Some(signal)) => Ended::Otherwise(format!("was killed by signal {signal}")),
            (None, None) => Ended::Otherwise("ended in an unknown way".into()),
        }
    }
}

/// Starts workers as processes of a program that has the hidden verb `worker`.
#[derive(Clone, Debug)]
pub struct ProcessSpawner {
    program: PathBuf,
    /// Further arguments: how to log.
    arguments: Vec<String>,
}

impl ProcessSpawner {
    /// Workers of the running program, with these further arguments.
    pub fn this_program(arguments: Vec<String>) -> Self {
        // Not the path that it was started by: the file there may be another one by now.
        ProcessSpawner { program: "/proc/self/exe".into(), arguments }
    }
}

impl WorkerSpawner for ProcessSpawner {
    fn spawn(&self, launcher: TcpStream, lifeline: Lifeline) -> io::Result<Box<dyn WorkerProcess>> {
        let (launcher, lifeline) = (OwnedFd::from(launcher), lifeline.into_fd());
        let inherited = [launcher.as_raw_fd(), lifeline.as_raw_fd()];
        let mut command = Command::new(&self.program);
        command
            .arg0("tessera")
            .arg("worker")
            .arg(format!("--launcher-fd={}", inherited[0]))
            .arg(format!("--lifeline-fd={}", inherited[1]))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A Ctrl-C on the daemon's terminal is for the daemon.
            .process_group(0);
        let daemon = std::process::id();
        // SAFETY: what runs between fork and exec only makes system calls on values that were made before.
        unsafe { command.pre_exec(move || prepare_child(inherited, daemon)) };
        let child = command.spawn()?;
        let pidfd =
            Pid::from_raw(child.id() as i32).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Box::new(ChildWorker { child, pidfd: pidfd.map(Arc::new) }))
    }
}

/// In the child, before exec: dies with the daemon, and keeps its two descriptors.
fn prepare_child(inherited: [RawFd; 2], daemon: u32) -> io::Result<()> {
    // SAFETY: plain system calls without pointers.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The daemon may have died before the signal was set up.
        if libc::getppid() as u32 != daemon {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        for fd in inherited {
            if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

struct ChildWorker {
    child: Child,
    /// Names the process even after its number has been used again.
    pidfd: Option<Arc<OwnedFd>>,
}

impl WorkerProcess for ChildWorker {
    fn id(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) -> Ended {
        match self.child.wait() {
            Ok(status) => Ended::of(status),
            Err(error) => Ended::Otherwise(format!("cannot be waited for: {error}")),
        }
    }

    fn killer(&self) -> Box<dyn Fn() + Send> {
        let pidfd = self.pidfd.clone();
        Box::new(move || {
            if let Some(pidfd) = &pidfd {
                let _ended = pidfd_send_signal(pidfd, Signal::KILL);
            }
        })
    }
}
