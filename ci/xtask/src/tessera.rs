//! What xtask knows of `tessera`: its command line and the JSON that it prints. Only the fields that are used
//! here; the meaning of each is documented where `tessera` defines it (`vmm/src/control`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cleanup::OwnedChild;
use crate::shell;

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Spread {
    /// How many were counted.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: u64,
    /// 99 of 100 were not above this.
    pub p99_us: u64,
}

/// Guest memory on a node.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct MemoryStats {
    /// Pages that the node owns.
    pub owned_pages: u64,
    /// Pages of which it has a copy that it may only read.
    pub copied_pages: u64,
    /// Bytes really in use.
    pub resident_bytes: u64,
}

/// Page faults of one kind.
#[derive(Clone, Debug, Deserialize)]
pub struct FaultStats {
    /// The kind: `local` is answered on the node itself, the others by another one.
    pub kind: String,
    /// From the fault to the page.
    pub latency: Spread,
}

/// Pages that came to a node for one reason.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ArrivalStats {
    /// The reason: a kind of fault, or `ahead`, or `first_touch`.
    pub kind: String,
    /// Pages whose bytes came.
    pub pages: u64,
    /// Pages of zeros, for which none came.
    pub zero_pages: u64,
    /// Bytes of guest memory that came.
    pub bytes: u64,
}

impl ArrivalStats {
    /// Adds another node's pages to these.
    pub fn add(&mut self, other: &Self) {
        self.pages += other.pages;
        self.zero_pages += other.zero_pages;
        self.bytes += other.bytes;
    }
}

/// A page that faults often.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct HotPage {
    /// Its page frame.
    pub gfn: u64,
    /// Loads that waited for it.
    pub reads: u64,
    /// Stores that waited for it.
    pub writes: u64,
}

/// What went over the data connections of a node.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct TrafficStats {
    /// Bytes sent.
    pub bytes_out: u64,
    /// Messages sent.
    pub messages_out: u64,
}

/// Moves of a node.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct MoveStats {
    /// vCPUs that left.
    pub left: u64,
    /// Messages about moves that the node sent.
    pub messages_sent: u64,
}

/// The figures of one node.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStats {
    /// Memory.
    pub memory: MemoryStats,
    /// Faults by kind.
    pub faults: Vec<FaultStats>,
    /// Pages that came, by what they came for.
    #[serde(default)]
    pub arrivals: Vec<ArrivalStats>,
    /// The pages that fault most.
    #[serde(default)]
    pub hottest: Vec<HotPage>,
    /// Data connections.
    pub traffic: TrafficStats,
    /// Moves.
    pub moves: MoveStats,
}

/// What `tessera stats` answers.
#[derive(Clone, Debug, Deserialize)]
struct GuestStats {
    nodes: Vec<NodeStats>,
    silent: Vec<serde_json::Value>,
}

/// A part of a guest that a daemon runs.
#[derive(Clone, Debug, Deserialize)]
pub struct GuestPart {
    /// The guest's name.
    pub name: String,
    /// The process id of its worker there.
    pub pid: u32,
}

/// What `tessera list` answers.
#[derive(Clone, Debug, Deserialize)]
struct GuestList {
    guests: Vec<GuestPart>,
}

/// What `tessera run --report` writes at the guest's end.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    lives: Vec<Life>,
    /// All of it, as it was written.
    #[serde(skip)]
    pub text: String,
}

/// The guest from a start to a reset or its end.
#[derive(Clone, Debug, Deserialize)]
struct Life {
    nodes: Vec<NodeStats>,
}

impl NodeStats {
    /// Faults that needed another node, and happened.
    pub fn remote_faults(&self) -> impl Iterator<Item = &FaultStats> {
        self.faults.iter().filter(|fault| fault.kind != "local" && fault.latency.count > 0)
    }
}

impl Report {
    /// Takes what the launcher wrote.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn parse(text: String) -> Result<Self> {
        let report: Self =
            serde_json::from_str(&text).with_context(|| format!("unexpected report: {text}"))?;
        Ok(Self { text, ..report })
    }

    /// The figures of the nodes in the guest's last life.
    pub fn nodes(&self) -> &[NodeStats] {
        self.lives.last().map_or(&[], |life| &life.nodes)
    }
}

/// A vCPU and where it is.
#[derive(Clone, Debug, Deserialize)]
pub struct Vcpu {
    /// Its number.
    pub vcpu: u32,
    /// The node where it is resident.
    pub node: usize,
}

/// A move that was carried out.
#[derive(Clone, Debug, Deserialize)]
pub struct Moved {
    /// From the last instruction there to the first one here.
    pub blackout_us: u64,
    /// Bytes of state that were sent.
    pub bytes: u64,
}

/// The command line of `tessera`, aimed at one guest through one daemon.
#[derive(Clone, Debug)]
pub struct Control {
    program: PathBuf,
    host: String,
    guest: String,
}

impl Control {
    /// The guest of this name, through the daemon at `host` (`ADDRESS:PORT`).
    pub fn new(program: &Path, host: &str, guest: &str) -> Self {
        Self { program: program.to_path_buf(), host: host.to_owned(), guest: guest.to_owned() }
    }

    /// Where the vCPUs are.
    ///
    /// # Errors
    /// When `tessera` fails or does not answer in time.
    pub fn vcpus(&self) -> Result<Vec<Vcpu>> {
        self.ask(&["vcpu", "list"])
    }

    /// Moves a vCPU to the node of this number.
    ///
    /// # Errors
    /// When it could not be moved, with what `tessera` said.
    pub fn move_vcpu(&self, vcpu: u32, to: usize) -> Result<Moved> {
        self.ask(&["vcpu", "move", &vcpu.to_string(), "--to", &to.to_string()])
    }

    /// The figures of the guest's nodes, for people.
    ///
    /// # Errors
    /// When `tessera` fails or does not answer in time.
    pub fn stats(&self) -> Result<String> {
        self.run(&["stats"])
    }

    /// The figures of all nodes.
    ///
    /// # Errors
    /// When `tessera` fails, or a node does not answer in time.
    pub fn node_stats(&self) -> Result<Vec<NodeStats>> {
        let stats: GuestStats = self.ask(&["stats"])?;
        ensure!(stats.silent.is_empty(), "nodes that do not answer: {:?}", stats.silent);
        Ok(stats.nodes)
    }

    /// The parts of any guests that the daemon runs.
    ///
    /// # Errors
    /// When `tessera` fails or does not answer in time.
    pub fn parts(&self) -> Result<Vec<GuestPart>> {
        let out = self.call(&["list", "--json", "--host", &self.host])?;
        let list: GuestList =
            serde_json::from_str(&out).with_context(|| format!("unexpected answer to list: {out}"))?;
        Ok(list.guests)
    }

    fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let out = self.run(&[words, &["--json"]].concat())?;
        serde_json::from_str(&out).with_context(|| format!("unexpected answer to {}: {out}", words.join(" ")))
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        self.call(&[words, &["--host", &self.host, "--guest", &self.guest]].concat())
    }

    /// Runs one command; it has half a minute.
    fn call(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = OwnedChild::spawn(&mut command)?;
        let status = child.wait(Duration::from_secs(30));
        let status = status.with_context(|| format!("no answer in 30 s: {}", shell::text(&command)))?;
        let (out, err) = child.said();
        ensure!(status.success(), "{status}: {}\n{}", shell::text(&command), shell::tail(&err, 5));
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_life_of_a_guest_counts() {
        let node = |bytes: u64| serde_json::json!({"node": 0, "memory": {"owned_pages": 1, "copied_pages": 0, "resident_bytes": 1}, "faults": [], "traffic": {"bytes_out": bytes, "messages_out": 1}, "moves": {"left": 0, "messages_sent": 0}});
        let report = serde_json::json!({"lives": [{"nodes": [node(1)]}, {"nodes": [node(2), node(3)]}]});
        let report: Report = serde_json::from_value(report).unwrap();
        assert_eq!(report.nodes().iter().map(|node| node.traffic.bytes_out).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_failing_tessera_is_an_error_with_its_words() {
        let control = Control::new(Path::new("/bin/false"), "127.0.0.1:1", "g");
        let error = control.vcpus().unwrap_err().to_string();
        assert!(error.contains("vcpu list --json --host 127.0.0.1:1 --guest g"), "{error}");
    }
}
