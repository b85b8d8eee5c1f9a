//! `cargo xtask lab ...`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Lab, LabSpec};
use crate::images::Extra;
use crate::kernels::Series;
use crate::{builds, setup};

/// The verbs of the lab.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// Boot hosts, run a command in the first one, show its output, give its exit status.
    Exec(Exec),
    /// Boot hosts and give a shell on the first one.
    Shell(Shell),
    /// Boot hosts, run a guest over all of them, show its console, give the launcher's exit status.
    Run(super::guest_verb::Run),
}

/// How the hosts are made.
#[derive(Clone, clap::Args)]
pub struct HostOptions {
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub hosts: usize,
    /// Virtual CPUs of each host.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub host_cpus: u32,
    /// Memory of each host, in MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub host_memory: u64,
    /// Kernel of the hosts.
    #[arg(long, value_enum, default_value = "6.12")]
    pub host_kernel: Series,
    /// A raw disk image that host 1 has as /dev/vda (the next one as /dev/vdb, ...). It is not changed.
    #[arg(long, value_name = "FILE")]
    pub host_disk: Vec<PathBuf>,
    /// Load kvm-amd with nested paging (npt=1) in the hosts.
    #[arg(long)]
    pub npt: bool,
}

impl HostOptions {
    /// The lab that they describe, without files and without nodes.
    pub fn spec(&self) -> LabSpec {
        LabSpec {
            hosts: self.hosts,
            cpus: self.host_cpus,
            memory_mib: self.host_memory,
            kernel: self.host_kernel,
            nested_paging: self.npt,
            disks: self.host_disk.clone(),
            ..LabSpec::default()
        }
    }
}

/// Options of `lab exec`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask lab exec -- ping -c 3 10.77.0.2\n  \
    cargo xtask lab exec --hosts 1 --put ./probe -- /put/probe\n  \
    cargo xtask lab exec --hosts 3 --tessera -- tessera list --host 10.77.0.3:7070")]
pub struct Exec {
    #[command(flatten)]
    host_options: HostOptions,
    /// Put this file into all hosts as /put/NAME (FILE=PATH: as PATH). May be given several times.
    #[arg(long, value_name = "FILE[=PATH]")]
    put: Vec<String>,
    /// Build `tessera`, put it into every host and start a node on each.
    #[arg(long)]
    tessera: bool,
    /// Most seconds that the command may take.
    #[arg(long, default_value_t = 600, value_name = "S")]
    timeout: u64,
    /// Run the command on every host, one after another, and not only on the first.
    #[arg(long)]
    everywhere: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Options of `lab shell`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  cargo xtask lab shell --hosts 2 --tessera\n\nThe shell has no terminal of its own: \
    no line editing, and Ctrl-C ends the lab."
)]
pub struct Shell {
    #[command(flatten)]
    host_options: HostOptions,
    /// Put this file into all hosts as /put/NAME (FILE=PATH: as PATH). May be given several times.
    #[arg(long, value_name = "FILE[=PATH]")]
    put: Vec<String>,
    /// Build `tessera`, put it into every host and start a node on each.
    #[arg(long)]
    tessera: bool,
}

impl Shell {
    fn as_exec(&self) -> Exec {
        Exec {
            host_options: self.host_options.clone(),
            put: self.put.clone(),
            tessera: self.tessera,
            timeout: 24 * 3600,
            everywhere: false,
            command: ["sh", "-i"].map(str::to_owned).to_vec(),
        }
    }
}

/// Carries out a verb; gives the exit status.
///
/// # Errors
/// When the lab cannot be set up or started.
pub fn main(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Exec(options) => exec(options),
        Verb::Shell(options) => exec(&options.as_exec()),
        Verb::Run(options) => super::guest_verb::run(options),
    }
}

fn exec(options: &Exec) -> Result<i32> {
    setup::ensure()?;
    let mut spec = options.host_options.spec();
    spec.files_everywhere = options.put.iter().map(|put| extra(put)).collect::<Result<_>>()?;
    if options.tessera {
        spec.tessera = builds::static_programs(&[builds::TESSERA])?.pop();
    }
    let lab = Lab::start(&spec)?;
    let hosts = if options.everywhere { lab.hosts() } else { &lab.hosts()[..1] };
    let mut worst = 0;
    for host in hosts {
        let mut command = host.remote().start(&options.command)?;
        if options.everywhere {
            command.end_input()?;
        } else {
            command.pass_input()?;
        }
        let deadline = Instant::now() + Duration::from_secs(options.timeout);
        let status = command.pass_output(deadline).with_context(|| host.console_tail())?;
        worst = worst.max(status);
    }
    Ok(worst)
}

/// A file from `FILE` or `FILE=PATH`; what may be run here may be run there.
pub(super) fn extra(put: &str) -> Result<Extra> {
    use std::os::unix::fs::PermissionsExt;
    let (from, path) = match put.rsplit_once('=') {
        Some((from, path)) => (PathBuf::from(from), path.to_owned()),
        None => {
            let name = PathBuf::from(put).file_name().unwrap_or_default().to_string_lossy().into_owned();
            (PathBuf::from(put), format!("/put/{name}"))
        }
    };
    let metadata = std::fs::metadata(&from).with_context(|| format!("cannot read {}", from.display()))?;
    Ok(Extra { path, from, permissions: metadata.permissions().mode() & 0o777 })
}
