//! Nodes as processes on this machine, joined over loopback: for machines with hardware KVM.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::cleanup::{OwnedChild, TemporaryDir};
use crate::kernels::{Kernel, Series};
use crate::progress::Step;
use crate::{qemu, shell};

/// Running nodes. They end when this value goes.
pub struct LocalNodes {
    // Before the folder: the processes end first.
    nodes: Vec<Node>,
    dir: TemporaryDir,
}

struct Node {
    _process: OwnedChild,
    port: u16,
    log: PathBuf,
}

impl LocalNodes {
    /// Starts this many nodes and waits until they listen.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start(tessera: &Path, count: usize) -> Result<Self> {
        let step = Step::start(format!("starting {count} nodes on this machine"));
        let dir = TemporaryDir::new("tessera-nodes")?;
        let mut nodes = Vec::new();
        for number in 0..count {
            let log = dir.path().join(format!("node-{number}.log"));
            nodes.push(Node::start(tessera, log)?);
        }
        let nodes = Self { nodes, dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        for node in &nodes.nodes {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, node.port)).is_err() {
                ensure!(Instant::now() < deadline, "a node does not listen\n{}", nodes.last_words());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        step.done("ready");
        Ok(nodes)
    }

    /// The addresses of the nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect()
    }

    /// A folder that lives as long as the nodes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The end of what the nodes said.
    pub fn last_words(&self) -> String {
        let tail = |node: &Node| {
            let log = fs::read_to_string(&node.log).unwrap_or_default();
            format!("node on port {}:\n{}", node.port, shell::tail(&log, 30))
        };
        self.nodes.iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Node {
    fn start(tessera: &Path, log: PathBuf) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let said = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(tessera);
        command.args(["node", "--listen", &format!("127.0.0.1:{port}")]);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        Ok(Self { _process: OwnedChild::spawn(&mut command)?, port, log })
    }
}

/// Whether nodes on this machine can run stock guests.
///
/// # Errors
/// When it cannot be found out.
pub fn is_possible() -> Result<bool> {
    if why_not_at_a_glance().is_some() {
        return Ok(false);
    }
    Ok(why_no_kernel_boots()?.is_none())
}

/// Checks that nodes on this machine can run stock guests.
///
/// # Errors
/// The reason why not, and what to do, in one line.
pub fn check() -> Result<()> {
    let reason = match why_not_at_a_glance() {
        None => why_no_kernel_boots()?,
        seen => seen,
    };
    match reason {
        None => Ok(()),
        Some(reason) => bail!("stock guests cannot run on this machine: {reason}; use --lab nested"),
    }
}

fn why_not_at_a_glance() -> Option<String> {
    why_not(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), Path::new("/dev/kvm"))
}

fn why_not(cpuinfo: &str, kvm: &Path) -> Option<String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx") {
        return Some("its processor shows neither svm nor vmx".to_owned());
    }
    let open = fs::OpenOptions::new().read(true).write(true).open(kvm);
    open.err().map(|error| format!("{}: {error}", kvm.display()))
}

/// A stock kernel without a root file system panics for want of it: by then KVM has proved itself.
fn why_no_kernel_boots() -> Result<Option<String>> {
    let kernel = Kernel::get(Series::Bookworm)?;
    let dir = TemporaryDir::new("tessera-probe")?;
    let console = dir.path().join("console");
    let mut command = Command::new(qemu::program()?);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256M"]);
    command.args(["-machine", "pc", "-accel", "kvm", "-cpu", "host", "-append", "console=ttyS0 panic=-1"]);
    command.arg("-serial").arg(format!("file:{}", console.display())).arg("-kernel").arg(kernel.image());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let ended = OwnedChild::spawn(&mut command)?.wait(Duration::from_secs(20));
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    if ended.is_some() && text.contains("Unable to mount root fs") {
        return Ok(None);
    }
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing at all");
    Ok(Some(format!("a stock kernel does not boot on its KVM (the last that it says is: {})", last.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_virtualization_says_why_it_cannot_run_guests() {
        let nothing = why_not("flags\t\t: fpu vme\n", Path::new("/dev/null"));
        assert!(nothing.unwrap().contains("neither svm nor vmx"));
        let no_device = why_not("flags\t\t: fpu svm\n", Path::new("/does/not/exist"));
        assert!(no_device.unwrap().contains("/does/not/exist"));
        assert_eq!(why_not("flags\t\t: fpu vmx\n", Path::new("/dev/null")), None);
    }
}
