//! The lab: several hosts with KVM on one machine that need not have any. Each host is a whole Linux in a QEMU
//! that emulates the processor with its virtualization extension; see `docs/lab.md`.

pub mod exec;
pub mod guest_verb;
pub mod host;
pub mod network;
mod turn;
pub mod verbs;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::cleanup::TemporaryDir;
use crate::images::{self, Extra, HostImage};
use crate::kernels::{Kernel, Series};
use crate::progress::Step;
use host::{Host, HostSpec};
use network::HostIndex;
use turn::Turn;

/// The most hosts that a lab may have.
pub const MAX_HOSTS: usize = 8;

/// What a lab is made of.
pub struct LabSpec {
    /// How many hosts.
    pub hosts: usize,
    /// Virtual CPUs of each.
    pub cpus: u32,
    /// Memory of each, in MiB.
    pub memory_mib: u64,
    /// The kernel of the hosts.
    pub kernel: Series,
    /// How `kvm-amd` is loaded in the hosts.
    pub nested_paging: bool,
    /// The statically linked `tessera`; with it, every host starts a node.
    pub tessera: Option<PathBuf>,
    /// Files for host 0.
    pub files: Vec<Extra>,
    /// Files for all hosts.
    pub files_everywhere: Vec<Extra>,
    /// Raw disk images for host 0, there `/dev/vda` and on. What is written to them is forgotten with the lab.
    pub disks: Vec<PathBuf>,
    /// How long the hosts may take to boot.
    pub boot_limit: Duration,
}

impl LabSpec {
    /// Memory that a lab host needs besides its guests', in MiB: its kernel, its images, `tessera` itself.
    pub const HOST_OWN_MIB: u64 = 640;
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            hosts: 2,
            cpus: 1,
            memory_mib: 1024,
            kernel: Series::Backports,
            nested_paging: false,
            tessera: None,
            files: Vec::new(),
            files_everywhere: Vec::new(),
            disks: Vec::new(),
            boot_limit: Duration::from_secs(180),
        }
    }
}

/// Running hosts. They end, and all that belongs to them goes, when this value goes.
pub struct Lab {
    // Before the folder: the processes end first.
    hosts: Vec<Host>,
    _dir: TemporaryDir,
    _turn: Turn,
}

impl Lab {
    /// Boots all hosts at once and waits until they are ready.
    ///
    /// # Errors
    /// When something that it needs is missing, or a host does not come up.
    pub fn start(spec: &LabSpec) -> Result<Self> {
        ensure!(
            (1..=MAX_HOSTS).contains(&spec.hosts),
            "a lab has 1 to {MAX_HOSTS} hosts, not {}",
            spec.hosts
        );
        let kernel = Kernel::get(spec.kernel)?;
        let turn = Turn::wait()?;
        let dir = TemporaryDir::new("tessera-lab")?;
        let image = HostImage {
            kernel: &kernel,
            nested_paging: spec.nested_paging,
            tessera: spec.tessera.as_deref(),
        };
        let common = [images::host(&image)?, images::extras(&spec.files_everywhere)?].concat();
        let initramfs = dir.path().join("host.cpio");
        std::fs::write(&initramfs, &common)?;
        let first = dir.path().join("host-1.cpio");
        std::fs::write(&first, [common, images::extras(&spec.files)?].concat())?;

        let vmlinux = kernel.unpacked()?;
        let tsc_khz = host::tsc_khz()?;
        let step =
            Step::start(format!("booting {} lab host{}", spec.hosts, if spec.hosts == 1 { "" } else { "s" }));
        let started = Instant::now();
        let mut hosts = Vec::new();
        for index in (0..spec.hosts).map(HostIndex) {
            hosts.push(Host::start(&HostSpec {
                index,
                hosts: spec.hosts,
                cpus: spec.cpus,
                memory_mib: spec.memory_mib,
                kernel: &vmlinux,
                initramfs: if index.0 == 0 { &first } else { &initramfs },
                disks: if index.0 == 0 { &spec.disks } else { &[] },
                node: spec.tessera.is_some(),
                tsc_khz,
                dir: dir.path(),
            })?);
        }
        for host in &mut hosts {
            host.wait_ready(started + spec.boot_limit)?;
        }
        step.done("ready");
        Ok(Self { hosts, _dir: dir, _turn: turn })
    }

    /// Its hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The first host, where launchers run.
    pub fn first(&self) -> &Host {
        &self.hosts[0]
    }
}
