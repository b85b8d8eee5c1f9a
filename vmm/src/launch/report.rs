//! What `--report` and `--events json` tell.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::guest_run::Outcome;
use super::request::EventFormat;
use crate::control::ending::EndCause;
use crate::control::guest::GuestSpec;
use crate::control::stats::NodeStats;

/// How long each step of a start took, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct BootTimes {
    /// Asking the hosts; only before the first start.
    pub survey_ms: u64,
    /// Starting the workers.
    pub create_ms: u64,
    /// Giving them the description, and taking memory.
    pub configure_ms: u64,
    /// Connecting them with each other, and comparing clocks.
    pub connect_ms: u64,
    /// Sending kernel and initramfs, and putting them into guest memory.
    pub load_ms: u64,
    /// Starting pagers and making machines.
    pub arm_ms: u64,
    /// Starting vCPUs.
    pub start_ms: u64,
}

impl BootTimes {
    /// All steps together.
    pub fn total_ms(&self) -> u64 {
        self.survey_ms
            + self.create_ms
            + self.configure_ms
            + self.connect_ms
            + self.load_ms
            + self.arm_ms
            + self.start_ms
    }
}

/// The report.
#[derive(Debug, Serialize)]
pub struct RunReport<'a> {
    guest: String,
    hosts: Vec<String>,
    vcpus: usize,
    memory_bytes: u64,
    exit_status: u8,
    end: End<'a>,
    lives: Vec<Life<'a>>,
}

#[derive(Debug, Serialize)]
struct End<'a> {
    cause: &'a EndCause,
    message: String,
}

/// One life of the guest: each reset ends one.
#[derive(Debug, Serialize)]
struct Life<'a> {
    end: End<'a>,
    boot: BootTimes,
    boot_total_ms: u64,
    ran_ms: u64,
    nodes: &'a [NodeStats],
}

impl<'a> End<'a> {
    fn of(cause: &'a EndCause) -> Self {
        End { cause, message: cause.to_string() }
    }
}

impl<'a> RunReport<'a> {
    /// The report on the lives of a guest, of which the last one ended it; `None` if there was none.
    pub fn new(spec: &GuestSpec, lives: &'a [Outcome]) -> Option<Self> {
        let last = lives.last()?;
        let life = |life: &'a Outcome| Life {
            end: End::of(&life.cause),
            boot: life.times,
            boot_total_ms: life.times.total_ms(),
            ran_ms: life.ran.as_millis() as u64,
            nodes: &life.nodes,
        };
        Some(RunReport {
            guest: spec.name.to_string(),
            hosts: spec.hosts.iter().map(|host| host.address.to_string()).collect(),
            vcpus: spec.vcpus.len(),
            memory_bytes: spec.layout.bytes(),
            exit_status: last.cause.exit_status(),
            end: End::of(&last.cause),
            lives: lives.iter().map(life).collect(),
        })
    }

    /// Writes the report as JSON: whole, or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let write = || {
            let mut file = BufWriter::new(File::create(&new)?);
            serde_json::to_writer_pretty(&mut file, self)?;
            writeln!(file)?;
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&new, path)
        };
        let written = write();
        if written.is_err() {
            let _never_made = std::fs::remove_file(&new);
        }
        written
    }
}

/// Something that a script may want to wait for.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LifeEvent<'a> {
    /// The vCPUs run.
    Started {
        /// The guest.
        guest: &'a str,
        /// How long the start took.
        boot_ms: u64,
    },
    /// A life of the guest is over.
    Ended {
        /// The guest.
        guest: &'a str,
        /// Why.
        cause: &'a EndCause,
        /// The same in words.
        message: String,
        /// For how long it ran.
        ran_ms: u64,
    },
    /// It is started anew.
    Restarting {
        /// The guest.
        guest: &'a str,
    },
}

impl LifeEvent<'_> {
    /// Tells it in the way that was asked for.
    pub fn tell(&self, format: EventFormat) {
        match (format, serde_json::to_string(self)) {
            (EventFormat::Json, Ok(line)) => eprintln!("{line}"),
            _ => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for LifeEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LifeEvent::Started { guest, boot_ms } => {
                write!(f, "guest {guest} runs, {boot_ms} ms after its start")
            }
            LifeEvent::Ended { guest, message, ran_ms, .. } => {
                write!(f, "guest {guest} has ended after {ran_ms} ms: {message}")
            }
            LifeEvent::Restarting { guest } => write!(f, "guest {guest} is started anew"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::guest::tests::spec;
    use std::time::Duration;
    use tessera_dsm::NodeId;

    fn outcome(cause: EndCause) -> Outcome {
        let nodes = vec![NodeStats::empty(NodeId(0), "a:1".into())];
        let times = BootTimes { load_ms: 3, start_ms: 4, ..BootTimes::default() };
        Outcome { cause, times, ran: Duration::from_millis(5), nodes }
    }

    #[test]
    fn the_report_has_every_life_and_the_end_of_the_last() {
        let lives = [outcome(EndCause::Reset), outcome(EndCause::PayloadExit(3))];
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("report.json");
        RunReport::new(&spec(2), &lives).expect("lived").write(&path).expect("write");
        let text = std::fs::read_to_string(&path).expect("read");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["exit_status"], 23);
        assert_eq!(json["end"]["cause"]["payload-exit"], 3);
        assert_eq!(json["lives"][0]["end"]["cause"], "reset");
        assert_eq!(json["lives"][1]["boot_total_ms"], 7);
        assert_eq!(json["lives"][1]["nodes"][0]["host"], "a:1");
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 1, "nothing else is left there");
        assert!(RunReport::new(&spec(1), &[]).is_none());
    }

    #[test]
    fn a_report_that_cannot_be_written_leaves_nothing() {
        let folder = tempfile::tempdir().expect("tempdir");
        let lives = [outcome(EndCause::PowerOff)];
        let report = RunReport::new(&spec(1), &lives).expect("lived");
        assert!(report.write(folder.path()).is_err());
        assert!(report.write(&folder.path().join("none/report")).is_err());
    }
}
