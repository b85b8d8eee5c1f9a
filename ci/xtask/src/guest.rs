//! Starts a guest on a cluster, follows its console, gives what came out.

use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::cluster::{Cluster, Launcher};
use crate::lab::exec::Event;
use crate::tessera::Report;

/// What a reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReset {
    /// It ends the run, with status 10.
    Exit,
    /// The guest starts anew.
    Restart,
}

/// What a guest is.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// Its name.
    pub name: String,
    /// The first so many hosts of the cluster run it.
    pub hosts: usize,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// How many of them start on each host; empty: evenly spread.
    pub vcpus_per_host: Vec<u32>,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// The cluster's name for its kernel.
    pub kernel: String,
    /// The cluster's name for its initramfs, if it has one.
    pub initramfs: Option<String>,
    /// What is added to its kernel command line.
    pub cmdline: String,
    /// What a reset does.
    pub on_reset: OnReset,
    /// For how long a host may keep a page that it was granted, in microseconds; `tessera`'s default unless given.
    pub lease_us: Option<u32>,
    /// More options of `tessera run`.
    pub options: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
}

/// What a guest says about itself, by the lines that its first process prints.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// `TESSERA-READY {json}`: it is up.
    Ready(Value),
    /// `TESSERA-RESULT {json}`: a program has ended.
    Result(Value),
    /// `TESSERA-LOG-PROBLEMS n`: so many lines of its kernel's log tell of trouble; the last word.
    LogProblems(u64),
}

impl Word {
    /// The word in a line of the console, if there is one. A line is the guest's: it may be anything.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("TESSERA-")?;
        let (word, value) = rest.trim().split_once(' ')?;
        match word {
            "READY" => serde_json::from_str(value).ok().map(Self::Ready),
            "RESULT" => serde_json::from_str(value).ok().map(Self::Result),
            "LOG-PROBLEMS" => value.trim().parse().ok().map(Self::LogProblems),
            _ => None,
        }
    }
}

/// What came out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The launcher's exit status: 0 when the guest powered off.
    pub status: i32,
    /// From the launcher's start to the guest's first word, if it came.
    pub boot: Option<Duration>,
    /// From the guest's first word to the last result, if there is one.
    pub workload: Option<Duration>,
    /// What the guest said about itself at its start.
    pub ready: Option<Value>,
    /// The results, in order.
    pub results: Vec<Value>,
    /// Troublesome lines in its kernel's log; `None` if it did not come so far.
    pub log_problems: Option<u64>,
    /// The end of its console.
    pub console_tail: String,
    /// What the launcher said on its error stream.
    pub launcher_said: String,
    /// The launcher's figures.
    pub report: Option<Report>,
}

impl Outcome {
    /// Checks that the guest did what it should and went in peace.
    ///
    /// # Errors
    /// What is wrong, with the end of the console.
    pub fn check(&self) -> Result<()> {
        let bad = self.results.iter().find(|result| result["ok"] != true);
        let wrong = match (self.status, &self.ready, self.log_problems) {
            (0, Some(_), Some(0)) => match bad {
                None => return Ok(()),
                Some(bad) => format!("a program of the guest found something wrong: {bad}"),
            },
            (0, None, _) => "the guest never said that it is up".to_owned(),
            (0, _, None) => "the guest powered off before it had said all".to_owned(),
            (0, _, Some(count)) => format!("{count} lines of the guest's kernel log tell of trouble"),
            (status, ..) => format!("the launcher ended with status {status}"),
        };
        bail!(
            "{wrong}\nend of the console:\n{}\nthe launcher said:\n{}",
            self.console_tail,
            self.launcher_said
        )
    }
}

/// Follows a guest while it runs.
pub trait Follower {
    /// Some bytes of the console.
    fn console(&mut self, _bytes: &[u8]) {}
    /// A word of the guest.
    fn word(&mut self, _word: &Word) {}
}

/// Runs a guest to its end.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub fn run(cluster: &Cluster, spec: &GuestSpec, follower: &mut dyn Follower) -> Result<Outcome> {
    let mut launcher = cluster.launch(&spec.arguments(cluster)?)?;
    launcher.end_input()?;
    follow(cluster, spec, launcher, follower)
}

/// As [`run`]; this process's standard input is what is typed on the guest's console.
///
/// # Errors
/// As [`run`].
pub fn run_with_our_input(
    cluster: &Cluster,
    spec: &GuestSpec,
    follower: &mut dyn Follower,
) -> Result<Outcome> {
    let mut launcher = cluster.launch(&spec.arguments(cluster)?)?;
    launcher.pass_input()?;
    follow(cluster, spec, launcher, follower)
}

fn follow(
    cluster: &Cluster,
    spec: &GuestSpec,
    mut launcher: Launcher,
    follower: &mut dyn Follower,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut watch = Watch { started, ready_at: None, outcome: Outcome::default(), line: Vec::new() };
    loop {
        let event = launcher.next_before(started + spec.limit).with_context(|| cluster.last_words())?;
        match event {
            Some(Event::Out(bytes)) => {
                follower.console(&bytes);
                for word in watch.console(&bytes) {
                    follower.word(&word);
                }
            }
            Some(Event::Err(bytes)) => {
                keep_tail(&mut watch.outcome.launcher_said, &String::from_utf8_lossy(&bytes));
            }
            Some(Event::Exit(status)) => {
                let mut outcome = watch.outcome;
                outcome.status = status;
                outcome.report = cluster.report().inspect_err(|error| eprintln!("no report: {error:#}")).ok();
                return Ok(outcome);
            }
            None => bail!("{}", too_late(cluster, spec, &watch.outcome)),
        }
    }
}

/// What there is to say about a guest that does not end.
fn too_late(cluster: &Cluster, spec: &GuestSpec, outcome: &Outcome) -> String {
    let stats = cluster.control(&spec.name).stats().unwrap_or_else(|error| format!("no figures: {error:#}"));
    format!(
        "guest {} did not end in {} s\nend of its console:\n{}\nthe launcher said:\n{}\n{stats}\n{}",
        spec.name,
        spec.limit.as_secs(),
        outcome.console_tail,
        outcome.launcher_said,
        cluster.last_words()
    )
}

impl GuestSpec {
    /// The arguments of `tessera` that start this guest on the first hosts of a cluster.
    ///
    /// # Errors
    /// When the cluster has too few hosts, or lacks a file.
    pub fn arguments(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let addresses = cluster.addresses();
        let hosts = addresses.get(..self.hosts).with_context(|| format!("{} hosts wanted", self.hosts))?;
        let words = [
            "run",
            "--name",
            &self.name,
            "--hosts",
            &hosts.join(","),
            "--kernel",
            &cluster.file(&self.kernel)?,
            "--cmdline",
            &self.cmdline,
            "--cpus",
            &self.cpus(),
            "--memory",
            &format!("size={}M", self.memory_mib),
            "--report",
            &cluster.report_path(),
            "--on-reboot",
            match self.on_reset {
                OnReset::Exit => "exit",
                OnReset::Restart => "restart",
            },
            "--slow-clock",
            &cluster.slow_clock().to_string(),
        ];
        let mut words = words.map(str::to_owned).to_vec();
        if let Some(initramfs) = &self.initramfs {
            words.extend(["--initramfs".to_owned(), cluster.file(initramfs)?]);
        }
        if let Some(lease_us) = self.lease_us {
            words.extend(["--lease-us".to_owned(), lease_us.to_string()]);
        }
        words.extend(self.options.iter().cloned());
        Ok(words)
    }

    /// The value of `--cpus`.
    fn cpus(&self) -> String {
        let per_host: Vec<String> = self.vcpus_per_host.iter().map(u32::to_string).collect();
        match per_host.is_empty() {
            true => format!("boot={}", self.vcpus),
            false => format!("boot={},per-host=[{}]", self.vcpus, per_host.join(",")),
        }
    }
}

struct Watch {
    started: Instant,
    ready_at: Option<Instant>,
    outcome: Outcome,
    /// The line that is not complete yet.
    line: Vec<u8>,
}

impl Watch {
    /// Takes some bytes of the console; gives the words that they complete.
    fn console(&mut self, bytes: &[u8]) -> Vec<Word> {
        /// A longer line is no word of ours.
        const LINE_MAX: usize = 64 << 10;
        keep_tail(&mut self.outcome.console_tail, &String::from_utf8_lossy(bytes));
        let mut words = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                words.extend(Word::parse(&String::from_utf8_lossy(&self.line)));
                self.line.clear();
            } else if self.line.len() < LINE_MAX {
                self.line.push(*byte);
            }
        }
        for word in &words {
            self.note(word);
        }
        words
    }

    fn note(&mut self, word: &Word) {
        let now = Instant::now();
        match word {
            Word::Ready(about) => {
                self.ready_at = Some(now);
                self.outcome.boot = Some(now - self.started);
                self.outcome.ready = Some(about.clone());
            }
            Word::Result(result) => {
                self.outcome.workload = self.ready_at.map(|ready| now - ready);
                self.outcome.results.push(result.clone());
            }
            Word::LogProblems(count) => self.outcome.log_problems = Some(*count),
        }
    }
}

/// Appends, and keeps only the last few thousand bytes.
pub(crate) fn keep_tail(kept: &mut String, more: &str) {
    const KEEP: usize = 8 << 10;
    kept.push_str(more);
    if kept.len() > 2 * KEEP {
        let mut from = kept.len() - KEEP;
        while !kept.is_char_boundary(from) {
            from += 1;
        }
        kept.drain(..from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_found_in_lines_and_nothing_else_is() {
        assert_eq!(Word::parse("TESSERA-READY {\"nproc\":2}\r"), Some(Word::Ready(json!({"nproc": 2}))));
        assert_eq!(Word::parse("[1.0] x TESSERA-LOG-PROBLEMS 3"), Some(Word::LogProblems(3)));
        for line in
            ["", "TESSERA-", "TESSERA-READY", "TESSERA-RESULT {", "TESSERA-LOG-PROBLEMS -1", "READY {}"]
        {
            assert_eq!(Word::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn words_may_come_in_pieces() {
        let mut watch =
            Watch { started: Instant::now(), ready_at: None, outcome: Outcome::default(), line: Vec::new() };
        let console =
            "boot\r\nTESSERA-READY {}\r\nTESSERA-RESULT {\"sum\":\"ä\"}\r\nTESSERA-LOG-PROBLEMS 0\r\n";
        for byte in console.as_bytes() {
            watch.console(&[*byte]);
        }
        assert_eq!(watch.outcome.results, [json!({"sum": "ä"})]);
        assert!(watch.outcome.boot.is_some() && watch.outcome.workload.is_some());
        assert_eq!(watch.outcome.log_problems, Some(0));
    }

    #[test]
    fn a_guest_is_well_only_if_it_powered_off_without_trouble() {
        let well = Outcome { status: 0, ready: Some(json!({})), log_problems: Some(0), ..Outcome::default() };
        well.check().unwrap();
        let results = vec![json!({"program": "clocks", "ok": true}), json!({"program": "mgs", "ok": false})];
        for bad in [
            Outcome { results, ready: Some(json!({})), log_problems: Some(0), ..Outcome::default() },
            Outcome { status: 10, ready: Some(json!({})), log_problems: Some(0), ..Outcome::default() },
            Outcome { status: 0, ready: None, log_problems: Some(0), ..Outcome::default() },
            Outcome { status: 0, ready: Some(json!({})), log_problems: None, ..Outcome::default() },
            Outcome { status: 0, ready: Some(json!({})), log_problems: Some(1), ..Outcome::default() },
        ] {
            bad.check().unwrap_err();
        }
    }

    #[test]
    fn only_the_end_of_a_long_console_is_kept() {
        let mut kept = String::new();
        for number in 0..10_000 {
            keep_tail(&mut kept, &format!("ü{number}\n"));
        }
        assert!(kept.len() <= 16 << 10 && kept.ends_with("ü9999\n"));
    }
}
