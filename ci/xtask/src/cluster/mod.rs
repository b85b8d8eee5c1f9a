//! Hosts with a running `tessera node` each, whatever they are: hosts of the nested lab, or, where the machine
//! has KVM that boots stock kernels, node processes on this machine.

pub mod local;
mod process;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::builds;
use crate::cleanup::TemporaryDir;
use crate::images::Extra;
use crate::lab::exec::{Event, RemoteCommand};
use crate::lab::{Lab, LabSpec};
use crate::tessera::{Control, Report};
use local::LocalNodes;
use process::LocalCommand;

/// Which kind of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Local where the machine can, else nested.
    Auto,
    /// Node processes on this machine, which must have KVM that boots stock kernels.
    Local,
    /// The nested lab: hosts are virtual machines with emulated processors.
    Nested,
}

/// A file that guests are started with: the name that [`Cluster::file`] knows it by, and where it is here.
pub type GuestFile = (String, PathBuf);

/// What a cluster is made of.
pub struct ClusterSpec {
    /// Which kind.
    pub kind: Kind,
    /// The hosts; for local nodes only their number counts.
    pub lab: LabSpec,
    /// Files that guests are started with.
    pub files: Vec<GuestFile>,
}

/// Hosts on which guests can be started.
pub struct Cluster {
    hosts: Hosts,
    tessera: PathBuf,
    files: Vec<GuestFile>,
    /// Copies of the disks where hosts are processes of this machine.
    disks: Option<TemporaryDir>,
}

enum Hosts {
    Nested(Lab),
    Local(LocalNodes),
}

/// A launcher that runs on the first host.
pub enum Launcher {
    /// Inside a lab host.
    Remote(RemoteCommand),
    /// On this machine.
    Local(LocalCommand),
}

impl Launcher {
    /// What it has to tell next; `None` when the deadline passes first.
    ///
    /// # Errors
    /// When the way to it is lost.
    pub fn next_before(&mut self, deadline: Instant) -> Result<Option<Event>> {
        match self {
            Self::Remote(command) => command.next_before(deadline),
            Self::Local(command) => command.next_before(deadline),
        }
    }

    /// Gives it these bytes as input.
    ///
    /// # Errors
    /// When the way to it is lost, or its input has ended.
    pub fn input(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Remote(command) => command.input(bytes),
            Self::Local(command) => command.input(bytes),
        }
    }

    /// Passes this process's standard input on, from a thread, until it ends.
    ///
    /// # Errors
    /// When its input has been passed on or ended already.
    pub fn pass_input(&mut self) -> Result<()> {
        match self {
            Self::Remote(command) => command.pass_input(),
            Self::Local(command) => command.pass_input(),
        }
    }

    /// Ends its input.
    ///
    /// # Errors
    /// When the way to it is lost.
    pub fn end_input(&mut self) -> Result<()> {
        match self {
            Self::Remote(command) => command.end_input(),
            Self::Local(command) => {
                command.end_input();
                Ok(())
            }
        }
    }
}

impl Cluster {
    /// Builds `tessera` and starts the hosts.
    ///
    /// # Errors
    /// When something is missing or a host does not come up.
    pub fn start(mut spec: ClusterSpec) -> Result<Self> {
        let tessera = builds::static_programs(&[builds::TESSERA])?.remove(0);
        let local = match spec.kind {
            Kind::Auto => local::is_possible()?,
            Kind::Local => {
                local::check()?;
                true
            }
            Kind::Nested => false,
        };
        let disks = if local { copies(&spec.lab.disks)? } else { None };
        let hosts = if local {
            Hosts::Local(LocalNodes::start(&tessera, spec.lab.hosts)?)
        } else {
            spec.lab.tessera = Some(tessera.clone());
            let extra = |(name, from): &GuestFile| Extra {
                path: inside(name),
                from: from.clone(),
                permissions: 0o644,
            };
            spec.lab.files.extend(spec.files.iter().map(extra));
            Hosts::Nested(Lab::start(&spec.lab)?)
        };
        Ok(Self { hosts, tessera, files: spec.files, disks })
    }

    /// Nodes on this machine, whether or not its KVM boots stock kernels: enough for bare-metal payloads.
    ///
    /// # Errors
    /// When `tessera` does not build or a node does not come up.
    pub fn on_this_machine(count: usize, files: Vec<GuestFile>) -> Result<Self> {
        let tessera = builds::static_programs(&[builds::TESSERA])?.remove(0);
        let hosts = Hosts::Local(LocalNodes::start(&tessera, count)?);
        Ok(Self { hosts, tessera, files, disks: None })
    }

    /// What kind it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self.hosts {
            Hosts::Nested(_) => "nested",
            Hosts::Local(_) => "local",
        }
    }

    /// How many times slower than on the wall time is to pass for guests. An emulated processor does in ten seconds what a
    /// real one does in much less than one: on the wall's clock a guest's timer would tick after so few
    /// instructions that it does little else.
    pub fn slow_clock(&self) -> u32 {
        match self.hosts {
            Hosts::Nested(_) => 10,
            Hosts::Local(_) => 1,
        }
    }

    /// The addresses of the nodes as they reach each other.
    pub fn addresses(&self) -> Vec<String> {
        match &self.hosts {
            Hosts::Nested(lab) => {
                lab.hosts().iter().map(|host| host.index().node_address().to_string()).collect()
            }
            Hosts::Local(nodes) => nodes.addresses(),
        }
    }

    /// Where the launcher finds this file.
    ///
    /// # Errors
    /// When the cluster was started without it.
    pub fn file(&self, name: &str) -> Result<String> {
        let known = self.files.iter().find(|(known, _)| known == name);
        let (_, from) = known.with_context(|| format!("the hosts were started without the file {name}"))?;
        Ok(match self.hosts {
            Hosts::Nested(_) => inside(name),
            Hosts::Local(_) => from.display().to_string(),
        })
    }

    /// Where the first host has the disk of this number. What is written to it is forgotten with the cluster.
    ///
    /// # Errors
    /// When nodes on this machine were started without disks.
    pub fn disk(&self, number: usize) -> Result<String> {
        match &self.hosts {
            Hosts::Nested(_) => Ok(format!("/dev/vd{}", char::from(b'a' + u8::try_from(number)?))),
            Hosts::Local(_) => {
                let dir = self.disks.as_ref().context("the hosts were started without disks")?;
                Ok(dir.path().join(format!("disk-{number}")).display().to_string())
            }
        }
    }

    /// Starts `tessera` with these arguments on the first host; its input is open.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, arguments: &[String]) -> Result<Launcher> {
        match &self.hosts {
            Hosts::Nested(lab) => {
                let command: Vec<String> =
                    std::iter::once("tessera".to_owned()).chain(arguments.iter().cloned()).collect();
                Ok(Launcher::Remote(lab.first().remote().start(&command)?))
            }
            Hosts::Local(_) => Ok(Launcher::Local(LocalCommand::start(&self.tessera, arguments)?)),
        }
    }

    /// The way to give orders to a guest that runs on these hosts.
    pub fn control(&self, guest: &str) -> Control {
        self.control_at(0, guest)
    }

    /// The same, by the daemon of the host at this place.
    ///
    /// # Panics
    /// Where there is no such host.
    pub fn control_at(&self, place: usize, guest: &str) -> Control {
        let host = match &self.hosts {
            Hosts::Nested(lab) => format!("127.0.0.1:{}", lab.hosts()[place].node_port()),
            Hosts::Local(nodes) => nodes.addresses()[place].clone(),
        };
        Control::new(&self.tessera, &host, guest)
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.addresses().len()
    }

    /// Runs a line of shell on the host at this place; gives its output.
    ///
    /// # Errors
    /// When it cannot be run, takes longer than a minute, or its exit status is not 0.
    ///
    /// # Panics
    /// Where there is no such host.
    pub fn shell(&self, place: usize, line: &str) -> Result<String> {
        match &self.hosts {
            Hosts::Nested(lab) => lab.hosts()[place].remote().shell(line, std::time::Duration::from_secs(60)),
            Hosts::Local(_) => crate::shell::output(std::process::Command::new("sh").args(["-c", line])),
        }
    }

    /// Where a launcher can write its report.
    pub fn report_path(&self) -> String {
        match &self.hosts {
            Hosts::Nested(_) => "/tmp/report.json".to_owned(),
            Hosts::Local(nodes) => nodes.dir().join("report.json").display().to_string(),
        }
    }

    /// Reads the report of the guest that ended last.
    ///
    /// # Errors
    /// When there is none or it is not understood.
    pub fn report(&self) -> Result<Report> {
        let path = self.report_path();
        let text = match &self.hosts {
            Hosts::Nested(lab) => {
                lab.first().remote().shell(&format!("cat {path}"), std::time::Duration::from_secs(60))?
            }
            Hosts::Local(_) => {
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?
            }
        };
        Report::parse(text)
    }

    /// What the hosts and their nodes said last, for messages.
    pub fn last_words(&self) -> String {
        match &self.hosts {
            Hosts::Nested(lab) => lab
                .hosts()
                .iter()
                .map(|host| {
                    let log =
                        host.remote().shell("tail -n 30 /tmp/node.log", std::time::Duration::from_secs(20));
                    let log = log.unwrap_or_else(|error| format!("{error:#}"));
                    format!("{}\n  node of host {}:\n{log}", host.console_tail(), host.index().number())
                })
                .collect::<Vec<_>>()
                .join("\n"),
            Hosts::Local(nodes) => nodes.last_words(),
        }
    }
}

/// Copies of disk images that guests may change.
fn copies(disks: &[PathBuf]) -> Result<Option<TemporaryDir>> {
    if disks.is_empty() {
        return Ok(None);
    }
    let dir = TemporaryDir::new("tessera-disks")?;
    for (number, disk) in disks.iter().enumerate() {
        let mut copy = std::process::Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto"]).arg(disk);
        crate::shell::output(copy.arg(dir.path().join(format!("disk-{number}"))))?;
    }
    Ok(Some(dir))
}

fn inside(name: &str) -> String {
    format!("/guest/{name}")
}
