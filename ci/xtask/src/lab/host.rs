//! One host of a lab: a QEMU without acceleration that emulates AMD's nested virtualization.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::exec::Remote;
use super::network::{self, Forwards, HostIndex};
use crate::cleanup::OwnedChild;
use crate::{qemu, shell};

/// All that QEMU can emulate but
/// - `cmpxchg16b`: in QEMU 7.2 it leaves nonsense in the flags now and then, and the kernel crashes (seen in one boot of
///   three on a busy machine; without it in none);
/// - vector registers beyond SSE and protection keys, with the instruction that saves them: emulated, it makes every
///   switch of tasks and every exit of a guest slower.
const PROCESSOR: &str = "max,-cx16,-xsave,-avx,-avx2,-pku";

/// What a host is made of.
pub struct HostSpec<'a> {
    /// Its place.
    pub index: HostIndex,
    /// How many hosts the lab has.
    pub hosts: usize,
    /// Its virtual CPUs: each is a thread on this machine.
    pub cpus: u32,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// Its kernel.
    pub kernel: &'a Path,
    /// Its initramfs.
    pub initramfs: &'a Path,
    /// Raw images of its disks, which it cannot change.
    pub disks: &'a [PathBuf],
    /// Whether it starts `tessera node`.
    pub node: bool,
    /// The frequency of its time-stamp counter: the same for all, or a guest could not span them.
    pub tsc_khz: u64,
    /// The lab's folder, for sockets and consoles.
    pub dir: &'a Path,
}

/// A running host.
pub struct Host {
    index: HostIndex,
    qemu: OwnedChild,
    console: PathBuf,
    forwards: Forwards,
}

impl Host {
    /// Starts it; it boots meanwhile.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(spec: &HostSpec) -> Result<Self> {
        let forwards = Forwards::pick()?;
        let console = spec.dir.join(format!("console-{}", spec.index.number()));
        let errors = fs::File::create(spec.dir.join(format!("qemu-{}", spec.index.number())))?;
        let mut command = Command::new(qemu::program()?);
        command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-machine", "pc,hpet=off,usb=off", "-cpu", PROCESSOR, "-accel", "tcg,thread=multi"]);
        command.args(["-smp", &spec.cpus.to_string(), "-m", &format!("{}M", spec.memory_mib)]);
        command.args(["-name", &format!("tessera-lab-{}", spec.index.number())]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.arg("-kernel").arg(spec.kernel).arg("-initrd").arg(spec.initramfs);
        command.args(["-append", &command_line(spec)]);
        for disk in spec.disks {
            // QEMU keeps what is written in a temporary file of its own.
            command.arg("-drive").arg(format!("if=virtio,format=raw,snapshot=on,file={}", disk.display()));
        }
        command.args(network::arguments(spec.index, spec.hosts, spec.dir, forwards));
        Ok(Self { index: spec.index, qemu: OwnedChild::spawn(&mut command)?, console, forwards })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it fails, ends, or is not ready at the deadline; with the end of its console.
    pub fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        loop {
            let text = self.console_text();
            if text.contains("TESSERA-LAB-HOST-READY") {
                return Ok(());
            }
            if let Some((_, reason)) = text.split_once("TESSERA-LAB-HOST-FAILED ") {
                bail!("lab host {}: {}\n{}", self.index.number(), reason.trim(), self.console_tail());
            }
            if let Some(status) = self.qemu.ended() {
                bail!("lab host {}: QEMU ended with {status}\n{}", self.index.number(), self.console_tail());
            }
            if Instant::now() > deadline {
                bail!("lab host {} is not ready in time\n{}", self.index.number(), self.console_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its place.
    pub fn index(&self) -> HostIndex {
        self.index
    }

    /// The port of 127.0.0.1 that leads to its node.
    pub fn node_port(&self) -> u16 {
        self.forwards.node
    }

    /// The way to run commands in it.
    pub fn remote(&self) -> Remote {
        Remote::new(self.forwards.agent)
    }

    /// The end of what its console and QEMU said, for messages.
    pub fn console_tail(&self) -> String {
        let qemu = self.console.with_file_name(format!("qemu-{}", self.index.number()));
        let qemu = fs::read_to_string(qemu).unwrap_or_default();
        let text = format!("{}\n{}", shell::tail(&self.console_text(), 25), shell::tail(&qemu, 5));
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| format!("  host {} | {line}", self.index.number())).collect::<Vec<_>>().join("\n")
    }

    /// All that its console said. The host is ours, but not the bytes: they need not be text.
    pub fn console_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }
}

/// No clock but the time-stamp counter, at the given frequency, is measured against another one: without HPET and
/// PM timer the kernel keeps the given value. Nor is the timer interrupt tested: on a busy machine it may come too late,
/// and the kernel would panic.
fn command_line(spec: &HostSpec) -> String {
    format!(
        "console=ttyS0 loglevel=5 panic=-1 rdinit=/init mitigations=off nowatchdog audit=0 apparmor=0 \
         tsc=reliable clocksource=tsc tsc_early_khz={} hpet=disable pmtmr=0 random.trust_cpu=on no_timer_check \
         init_on_alloc=0 ipv6.disable=1 lsm=capability cryptomgr.notests cgroup_disable=memory preempt=full \
         lab.id={} lab.node={}",
        spec.tsc_khz,
        spec.index.number(),
        if spec.node { "yes" } else { "no" }
    )
}

/// The frequency of this machine's time-stamp counter, which QEMU's emulated CPUs show, in kHz.
///
/// # Errors
/// When the clock cannot be read.
pub fn tsc_khz() -> Result<u64> {
    let pair = || -> Result<(u64, u64)> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local; reading the counter touches no memory.
        let (status, ticks) = unsafe {
            (libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &mut time), std::arch::x86_64::_rdtsc())
        };
        if status != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot read the clock");
        }
        Ok((time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64, ticks))
    };
    let (start_ns, start_ticks) = pair()?;
    std::thread::sleep(Duration::from_millis(100));
    let (end_ns, end_ticks) = pair()?;
    Ok((end_ticks - start_ticks) * 1_000_000 / (end_ns - start_ns))
}
