//! A command on this machine that is read like one inside a lab host.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cleanup::OwnedChild;
use crate::lab::exec::Event;

/// A running command. It is killed when this value goes.
pub struct LocalCommand {
    child: OwnedChild,
    events: Receiver<Event>,
}

impl LocalCommand {
    /// Starts a program without input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = OwnedChild::spawn(&mut command)?;
        let (sender, events) = sync_channel(64);
        carry(child.child().stdout.take(), Event::Out, sender.clone());
        carry(child.child().stderr.take(), Event::Err, sender);
        Ok(Self { child, events })
    }

    /// What it has to tell next; `None` when the deadline passes first.
    ///
    /// # Errors
    /// None here; as for a command inside a lab host.
    pub fn next_before(&mut self, deadline: Instant) -> Result<Option<Event>> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            // Both pipes are closed: it has ended or is about to.
            Err(RecvTimeoutError::Disconnected) => {
                let limit = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                Ok(self.child.wait(limit).map(|status| {
                    use std::os::unix::process::ExitStatusExt;
                    Event::Exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
                }))
            }
        }
    }
}

fn carry<R: Read + Send + 'static>(pipe: Option<R>, kind: fn(Vec<u8>) -> Event, to: SyncSender<Event>) {
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            if to.send(kind(buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_comes_before_the_exit_status() {
        let script = ["-c", "printf a; printf b >&2; exit 7"].map(str::to_owned);
        let mut command = LocalCommand::start(Path::new("/bin/sh"), &script).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        loop {
            let event = command.next_before(deadline).unwrap().expect("in time");
            let last = matches!(event, Event::Exit(_));
            seen.push(event);
            if last {
                break;
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
        assert!(seen.contains(&Event::Out(b"a".to_vec())) && seen.contains(&Event::Err(b"b".to_vec())));
        assert_eq!(seen[2], Event::Exit(7));
    }
}
