//! What must not outlive xtask: processes and temporary folders. They go on return, on error, on panic (by
//! `Drop`) and on Ctrl-C, SIGTERM and SIGHUP (by a thread that waits for these signals). When xtask is killed
//! outright, the kernel ends the processes (`PR_SET_PDEATHSIG`).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::shell;

/// Process groups and folders that the signal thread has to clear away.
static ALIVE: Mutex<Alive> = Mutex::new(Alive { groups: BTreeMap::new(), dirs: Vec::new() });

struct Alive {
    groups: BTreeMap<u32, ()>,
    dirs: Vec<PathBuf>,
}

fn alive() -> std::sync::MutexGuard<'static, Alive> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that clears up when a signal ends xtask. To be called first in `main`, before any other
/// thread exists: the signals are blocked in the calling thread and so in all that it starts.
pub fn watch_signals() {
    let set = ending_signals();
    // SAFETY: the set is a valid one; no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to locals that live through the call.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        clear_all();
        std::process::exit(128 + signal);
    });
}

fn ending_signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before anything reads it; all pointers are to a local.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Lets a command's process see the signals that xtask itself blocks: processes inherit that.
pub fn unblock_signals(command: &mut Command) -> &mut Command {
    let set = ending_signals();
    // SAFETY: between fork and exec only pthread_sigmask is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
            Ok(())
        })
    }
}

fn clear_all() {
    let mut alive = alive();
    for group in std::mem::take(&mut alive.groups).into_keys() {
        kill_group(group);
    }
    for dir in alive.dirs.drain(..) {
        let _ = std::fs::remove_dir_all(dir);
    }
}

fn kill_group(group: u32) {
    // SAFETY: `kill` takes no pointers; a group that has gone gives ESRCH.
    unsafe { libc::kill(-(group as i32), libc::SIGKILL) };
}

/// A process, with all that it starts, that is killed when this value goes.
pub struct OwnedChild {
    child: Child,
    ended: Option<ExitStatus>,
}

impl OwnedChild {
    /// Starts the command as the head of its own process group. The kernel kills it when the calling thread
    /// ends: call this on a thread that lives as long as the process is needed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let parent = std::process::id();
        unblock_signals(command).process_group(0);
        // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid),
        // and an error is made from a number, without memory.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                if libc::getppid() as u32 != parent {
                    // xtask has gone before the call above could take hold.
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        // The registry is locked meanwhile: a signal now must not miss the new process.
        let mut alive = alive();
        let child = command.spawn().with_context(|| format!("cannot run: {}", shell::text(command)))?;
        alive.groups.insert(child.id(), ());
        Ok(Self { child, ended: None })
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it wrote to its piped output and error, once it has ended. Only for little: a pipe holds 64 KiB,
    /// and who writes more waits for a reader.
    pub fn said(&mut self) -> (String, String) {
        fn all(pipe: Option<impl Read>) -> String {
            let mut bytes = Vec::new();
            // What could be read counts; a pipe has no other errors than a wrong descriptor.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        }
        (all(self.child.stdout.take()), all(self.child.stderr.take()))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for its end, `limit` at most.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ended
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        let group = self.child.id();
        // As long as it has not been waited for, its number cannot be another process's.
        if self.ended.is_none() {
            kill_group(group);
            let _ = self.child.wait();
        }
        alive().groups.remove(&group);
    }
}

/// A folder below the system's folder for temporary files that is removed when this value goes. The path is
/// short: unix sockets in it have 108 bytes for theirs.
pub struct TemporaryDir {
    path: PathBuf,
}

impl TemporaryDir {
    /// Makes the folder, for this user alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(prefix: &str) -> Result<Self> {
        let pattern = std::env::temp_dir().join(format!("{prefix}-{}-XXXXXX", std::process::id()));
        let pattern = pattern.to_string_lossy().into_owned();
        let mut bytes =
            std::ffi::CString::new(pattern.clone()).context("temporary folder")?.into_bytes_with_nul();
        // The registry is locked meanwhile: a signal now must not miss the new folder.
        let mut alive = alive();
        // SAFETY: `bytes` is a writable string that ends with a zero byte.
        if unsafe { libc::mkdtemp(bytes.as_mut_ptr().cast()) }.is_null() {
            return Err(io::Error::last_os_error()).with_context(|| format!("cannot make {pattern}"));
        }
        bytes.pop();
        let path = PathBuf::from(String::from_utf8_lossy(&bytes).into_owned());
        alive.dirs.push(path.clone());
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folders of earlier processes that were killed before they could remove them.
    pub fn abandoned() -> Vec<PathBuf> {
        let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten();
        let names = entries.filter_map(|entry| Some((entry.as_ref().ok()?.path(), entry.ok()?.file_name())));
        names
            .filter(|(_, name)| owner(&name.to_string_lossy()).is_some_and(is_gone))
            .map(|(path, _)| path)
            .collect()
    }
}

/// The process that made the folder of this name, if it is one of ours: `tessera-WHAT-PID-RANDOM`.
fn owner(name: &str) -> Option<u32> {
    let mut words = name.strip_prefix("tessera-")?.rsplitn(3, '-');
    words.next()?;
    words.next()?.parse().ok()
}

fn is_gone(process: u32) -> bool {
    !Path::new(&format!("/proc/{process}")).exists()
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        alive().dirs.retain(|dir| dir != &self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_takes_its_children_with_it() {
        let dir = TemporaryDir::new("tessera-cleanup-test").unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", file.display());
        let child = OwnedChild::spawn(Command::new("sh").args(["-c", &script])).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !file.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let grandchild: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        drop(child);
        let stat = format!("/proc/{grandchild}/stat");
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(gone(), "process {grandchild} still runs");
    }

    #[test]
    fn only_folders_of_dead_processes_are_abandoned() {
        assert_eq!(owner("tessera-lab-4711-aBc123"), Some(4711));
        assert_eq!(owner("tessera-cleanup-test-4711-aBc123"), Some(4711));
        assert_eq!(owner("other-lab-4711-aBc123"), None);
        assert_eq!(owner("tessera-lab"), None);
        let dir = TemporaryDir::new("tessera-cleanup-test").unwrap();
        assert!(!TemporaryDir::abandoned().contains(&dir.path().to_path_buf()));
    }

    #[test]
    fn a_temporary_folder_goes_with_what_is_in_it() {
        let dir = TemporaryDir::new("tessera-cleanup-test").unwrap();
        let path = dir.path().to_path_buf();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(dir);
        assert!(!path.exists());
    }
}
