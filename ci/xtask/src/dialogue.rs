//! A talk with a guest over its console, step by step: wait for its words, type others, see it end. All that the console
//! says is in `target/lab/logs/guest-NAME.log` as well.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::cluster::{Cluster, Launcher};
use crate::guest::{keep_tail, GuestSpec};
use crate::lab::exec::Event;
use crate::{paths, shell};

/// Lines of the console that an error shows.
const SHOWN_LINES: usize = 40;

/// A guest that runs, and its console.
pub struct Dialogue<'a> {
    cluster: &'a Cluster,
    name: String,
    launcher: Launcher,
    console: Transcript,
    log: File,
    launcher_said: String,
}

/// How a guest ended.
#[derive(Debug)]
pub struct Ending {
    /// The launcher's exit status.
    pub status: i32,
    /// What it said on its error stream.
    pub launcher_said: String,
}

impl Ending {
    /// The lines that begin with `tessera: `: what the launcher says about its end.
    pub fn lines(&self) -> Vec<&str> {
        self.launcher_said.lines().filter(|line| line.starts_with("tessera: ")).collect()
    }
}

impl<'a> Dialogue<'a> {
    /// Starts a guest.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(cluster: &'a Cluster, spec: &GuestSpec) -> Result<Self> {
        Self::over(cluster, &spec.name, cluster.launch(&spec.arguments(cluster)?)?)
    }

    /// The same for a launcher that has been started.
    ///
    /// # Errors
    /// When the log of its console cannot be written.
    pub fn over(cluster: &'a Cluster, name: &str, launcher: Launcher) -> Result<Self> {
        let logs = paths::lab_cache().join("logs");
        paths::make_dir(&logs)?;
        let log = logs.join(format!("guest-{name}.log"));
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let (console, launcher_said) = (Transcript::default(), String::new());
        Ok(Self { cluster, name: name.to_owned(), launcher, console, log, launcher_said })
    }

    /// Waits until the guest says `what`; gives what it said before, since the last call.
    ///
    /// # Errors
    /// When it does not say it in time, or ends.
    pub fn expect(&mut self, what: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(before) = self.console.take_until(what) {
                return Ok(before);
            }
            match self.next(deadline)? {
                Some(status) => {
                    bail!("the guest ended with status {status}, and did not say {what:?}\n{}", self.said())
                }
                None if Instant::now() >= deadline => {
                    bail!("the guest did not say {what:?} within {} s\n{}", limit.as_secs(), self.said())
                }
                None => {}
            }
        }
    }

    /// Waits until the guest says `what`, and gives the rest of that line.
    ///
    /// # Errors
    /// As [`Dialogue::expect`].
    pub fn expect_line(&mut self, what: &str, limit: Duration) -> Result<String> {
        self.expect(what, limit)?;
        Ok(self.expect("\n", limit)?.trim().to_owned())
    }

    /// Types on the guest's console.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.launcher.input(text.as_bytes()).with_context(|| format!("typing {text:?}\n{}", self.said()))
    }

    /// Types a line and gives the guest's answer: what it says before its next `prompt`, without the echo.
    ///
    /// # Errors
    /// As [`Dialogue::expect`].
    pub fn ask(&mut self, line: &str, prompt: &str, limit: Duration) -> Result<String> {
        self.say(&format!("{line}\n"))?;
        let said = self.expect(prompt, limit)?;
        let (echo, answer) = said.split_once('\n').unwrap_or(("", &said));
        anyhow::ensure!(echo.trim() == line, "{line:?} was echoed as {echo:?}");
        Ok(answer.replace('\r', ""))
    }

    /// Waits for the guest's end.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn end(mut self, limit: Duration) -> Result<Ending> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline)? {
                Some(status) => return Ok(Ending { status, launcher_said: self.launcher_said }),
                None if Instant::now() >= deadline => {
                    bail!("the guest did not end within {} s\n{}", limit.as_secs(), self.said())
                }
                None => {}
            }
        }
    }

    /// Takes in what comes next; gives the exit status if it was that.
    fn next(&mut self, deadline: Instant) -> Result<Option<i32>> {
        match self.launcher.next_before(deadline).with_context(|| self.said())? {
            Some(Event::Out(bytes)) => {
                self.log.write_all(&bytes).context("cannot write the log of the guest's console")?;
                self.console.add(&bytes);
            }
            Some(Event::Err(bytes)) => keep_tail(&mut self.launcher_said, &String::from_utf8_lossy(&bytes)),
            Some(Event::Exit(status)) => return Ok(Some(status)),
            None => {}
        }
        Ok(None)
    }

    /// For messages: the end of the console, what the launcher and the hosts said.
    fn said(&self) -> String {
        format!(
            "guest {}, the end of its console:\n{}\nthe launcher said:\n{}\n{}",
            self.name,
            shell::tail(&self.console.tail, SHOWN_LINES),
            self.launcher_said,
            self.cluster.last_words()
        )
    }
}

/// What a console said.
#[derive(Default)]
struct Transcript {
    /// What nobody has waited for yet.
    unread: String,
    /// The end of all of it.
    tail: String,
}

impl Transcript {
    /// The most that is kept unread: a guest that floods its console must not take all memory.
    const UNREAD_MAX: usize = 4 << 20;

    fn add(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        keep_tail(&mut self.tail, &text);
        if self.unread.len() + text.len() > Self::UNREAD_MAX {
            self.unread.clear();
        }
        self.unread.push_str(&text);
    }

    /// Takes everything up to and including `what`; gives what was before it.
    fn take_until(&mut self, what: &str) -> Option<String> {
        let at = self.unread.find(what)?;
        let rest = self.unread.split_off(at + what.len());
        let mut before = std::mem::replace(&mut self.unread, rest);
        before.truncate(at);
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_once_and_in_order() {
        let mut transcript = Transcript::default();
        transcript.add(b"boot\r\ntess");
        assert_eq!(transcript.take_until("tessera> "), None);
        transcript.add(b"era> echo a\r\na\r\ntessera> ");
        assert_eq!(transcript.take_until("tessera> ").as_deref(), Some("boot\r\n"));
        assert_eq!(transcript.take_until("tessera> ").as_deref(), Some("echo a\r\na\r\n"));
        assert_eq!(transcript.take_until("tessera> "), None);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut transcript = Transcript::default();
        (0..100).for_each(|_| transcript.add(&[b'x'; 100_000]));
        assert!(transcript.unread.len() <= Transcript::UNREAD_MAX && transcript.tail.len() < 1 << 20);
    }

    #[test]
    fn only_the_launchers_own_lines_count() {
        let said = "INFO x\ntessera: node b was lost: the guest is stopped\n".to_owned();
        let ending = Ending { status: 12, launcher_said: said };
        assert_eq!(ending.lines(), ["tessera: node b was lost: the guest is stopped"]);
    }
}
