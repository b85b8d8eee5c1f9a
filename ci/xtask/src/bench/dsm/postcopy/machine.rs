//! A QEMU with the guest that touches its memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::guest;
use super::qmp::Qmp;
use crate::cleanup::OwnedChild;
use crate::shell;

/// How long QEMU may take to listen, and the guest to be ready.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How QEMU runs its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// With the machine's `/dev/kvm`.
    Kvm,
    /// By translation.
    Tcg,
}

impl Accelerator {
    /// As QEMU spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Which side of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest starts here.
    Source,
    /// It comes here.
    Destination,
}

/// What both sides are made of.
pub struct Spec<'a> {
    /// QEMU.
    pub program: &'a Path,
    /// How it runs its guest.
    pub accelerator: Accelerator,
    /// The guest's kernel.
    pub image: &'a Path,
    /// Where files of the run may lie.
    pub dir: &'a Path,
}

/// One side; it ends when this value goes.
pub struct Machine {
    process: OwnedChild,
    /// The way to give it orders.
    pub qmp: Qmp,
    printed: PathBuf,
    errors: PathBuf,
}

impl Machine {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    pub fn start(spec: &Spec, side: Side) -> Result<Self> {
        let name = if side == Side::Source { "source" } else { "destination" };
        let place = |what: &str| spec.dir.join(format!("{name}-{}.{what}", spec.accelerator.name()));
        let (socket, printed, errors) = (place("qmp"), place("printed"), place("errors"));
        let log = File::create(&errors).with_context(|| format!("cannot write {}", errors.display()))?;
        let mut command = Command::new(spec.program);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc"]);
        // The plainest processor: the guest uses nothing of it, and more than a KVM has would be refused.
        command.args(["-accel", spec.accelerator.name(), "-cpu", "qemu64", "-smp", "1"]);
        command.args(["-m", &format!("{}M", guest::MEMORY_MIB)]).arg("-kernel").arg(spec.image);
        command.args(["-chardev", &format!("file,id=printed,path={}", printed.display())]);
        command.args(["-device", "isa-debugcon,iobase=0xe9,chardev=printed"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        if side == Side::Destination {
            command.args(["-incoming", "defer"]);
        }
        let mut process = OwnedChild::spawn(&mut command)?;
        let deadline = Instant::now() + START_LIMIT;
        while !socket.exists() && process.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        let qmp = match process.ended() {
            Some(status) => bail!("QEMU ended with {status}: {}", first_line(&errors)),
            None => Qmp::connect(&socket, deadline).with_context(|| first_line(&errors))?,
        };
        Ok(Self { process, qmp, printed, errors })
    }

    /// Waits until the guest has written all its pages.
    ///
    /// # Errors
    /// When it does not, or QEMU ends.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !self.printed().contains(&guest::READY) {
            if let Some(status) = self.process.ended() {
                bail!("QEMU ended with {status}: {}", first_line(&self.errors));
            }
            if Instant::now() >= deadline {
                bail!("the guest did not come up in {} s", START_LIMIT.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// What the guest has printed here so far.
    pub fn printed(&self) -> Vec<u8> {
        // No file yet: nothing was printed.
        std::fs::read(&self.printed).unwrap_or_default()
    }

    /// The last that QEMU said, for messages.
    pub fn said(&self) -> String {
        shell::tail(&std::fs::read_to_string(&self.errors).unwrap_or_default(), 5)
    }
}

/// What QEMU said first that is no mere warning.
fn first_line(errors: &Path) -> String {
    let said = std::fs::read_to_string(errors).unwrap_or_default();
    let line = said.lines().find(|line| !line.contains("warning:"));
    line.unwrap_or("it said nothing").to_owned()
}
