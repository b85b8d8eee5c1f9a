//! A command on this machine that is read like one inside a lab host.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cleanup::OwnedChild;
use crate::lab::exec::Event;

/// A running command. It is killed when this value goes.
pub struct LocalCommand {
    child: OwnedChild,
    input: Option<ChildStdin>,
    events: Receiver<Event>,
}

impl LocalCommand {
    /// Starts a program; its input is open.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = OwnedChild::spawn(&mut command)?;
        let (sender, events) = sync_channel(64);
        carry(child.child().stdout.take(), Event::Out, sender.clone());
        carry(child.child().stderr.take(), Event::Err, sender);
        let input = child.child().stdin.take();
        Ok(Self { child, input, events })
    }

    /// Gives it these bytes as input.
    ///
    /// # Errors
    /// When it reads no more.
    pub fn input(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("its input has ended")?;
        input.write_all(bytes).and_then(|()| input.flush()).context("it reads no more")
    }

    /// Passes this process's standard input on, from a thread, until it ends.
    ///
    /// # Errors
    /// When its input has ended or is passed on already.
    pub fn pass_input(&mut self) -> Result<()> {
        let mut input = self.input.take().context("its input has ended")?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if input.write_all(&buffer[..count]).and_then(|()| input.flush()).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
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
    fn what_is_put_in_comes_out_until_its_end() {
        let script = ["-c", "cat; exit 3"].map(str::to_owned);
        let mut command = LocalCommand::start(Path::new("/bin/sh"), &script).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        command.input(b"typed").unwrap();
        assert_eq!(command.next_before(deadline).unwrap(), Some(Event::Out(b"typed".to_vec())));
        command.end_input();
        assert!(command.input(b"more").is_err());
        assert_eq!(command.next_before(deadline).unwrap(), Some(Event::Exit(3)));
    }

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
