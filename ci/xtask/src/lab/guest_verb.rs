//! `cargo xtask lab run`: a guest over all hosts of a lab.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::verbs::HostOptions;
use crate::cluster::{Cluster, ClusterSpec, GuestFile, Kind};
use crate::guest::{self, GuestSpec, OnReset};
use crate::kernels::{Kernel, Series};
use crate::mover::{Begin, Mover, Plan};
use crate::{images, setup, sizes};

/// Options of `lab run`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask lab run --cmdline 'console=ttyS0 tessera.run=mgs' --move-every 500\n  \
    cargo xtask lab run --hosts 3 --kernel 6.1 --cpus 3\n  \
    cargo xtask lab run --modules virtio_blk --cmdline 'console=ttyS0 tessera.run=disk' --put disk.img \
    -- --disk path=/put/disk.img\n  \
    cargo xtask lab run --kernel bzImage --initramfs my.cpio --cmdline 'console=ttyS0' --timeout 60\n  \
    echo poweroff | cargo xtask lab run --cmdline 'console=ttyS0 tessera.end=shell'\n\n\
    Standard input and output are the guest's serial console. Exit status: the launcher's (0: the guest powered off; \
    10: it reset itself, as a kernel does that panics; 12: a node was lost), or 125 with one line that says why."
)]
pub struct Run {
    #[command(flatten)]
    host_options: HostOptions,
    /// The guest's kernel: a file, or 6.1 or 6.12 for a stock one.
    #[arg(long, default_value = "6.12", value_name = "FILE|6.1|6.12")]
    kernel: String,
    /// The guest's initramfs: a file; our own guest programs unless given.
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// What is added to the guest's kernel command line.
    #[arg(long, default_value = "console=ttyS0 maxcpus=1", value_name = "STRING")]
    cmdline: String,
    /// Virtual CPUs of the guest.
    #[arg(long, default_value_t = 2, value_name = "N")]
    cpus: u32,
    /// Memory of the guest.
    #[arg(long, default_value = "512M", value_name = "SIZE", value_parser = sizes::parse_mib)]
    memory: u64,
    /// Move a vCPU to the next host this often, in milliseconds: from when our guest programs say that they are
    /// up, or, with an initramfs of your own, from the first output on.
    #[arg(long, value_name = "MS")]
    move_every: Option<u64>,
    /// For how long a host may keep a page that it was granted, in microseconds.
    #[arg(long, value_name = "US")]
    lease_us: Option<u32>,
    /// Most seconds that the guest may take.
    #[arg(long, default_value_t = 600, value_name = "S")]
    timeout: u64,
    /// Which kind of hosts.
    #[arg(long, value_enum, default_value = "nested")]
    lab: Kind,
    /// Modules of the stock kernel for our own guest programs, with commas between: virtio_blk,virtio_console
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    modules: Vec<String>,
    /// Put this file into all lab hosts as /put/NAME (FILE=PATH: as PATH). May be given several times.
    #[arg(long, value_name = "FILE[=PATH]")]
    put: Vec<String>,
    /// More options of `tessera run`.
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Carries out the verb; gives the launcher's exit status.
///
/// # Errors
/// When the hosts or the guest cannot be started, or the guest does not end in time.
pub fn run(options: &Run) -> Result<i32> {
    setup::ensure()?;
    let built_in = match &options.initramfs {
        None => Some(own_files(&options.kernel, &options.modules)?),
        Some(_) => None,
    };
    let mut files = vec![("kernel".to_owned(), kernel(&options.kernel)?)];
    files.extend(built_in.as_ref().map(images::GuestFiles::files).unwrap_or_default());
    files.extend(
        options
            .initramfs
            .iter()
            .map(|file| -> GuestFile { (images::GUEST_INITRAMFS.to_owned(), file.clone()) }),
    );

    let mut lab = options.host_options.spec();
    lab.files_everywhere = options.put.iter().map(|put| super::verbs::extra(put)).collect::<Result<_>>()?;
    lab.memory_mib = lab.memory_mib.max(options.memory + super::LabSpec::HOST_OWN_MIB);
    let hosts = lab.hosts;
    let cluster = Cluster::start(ClusterSpec { kind: options.lab, lab, files })?;
    let spec = GuestSpec {
        name: "lab".to_owned(),
        hosts,
        vcpus: options.cpus,
        vcpus_per_host: Vec::new(),
        memory_mib: options.memory,
        kernel: "kernel".to_owned(),
        initramfs: Some(images::GUEST_INITRAMFS.to_owned()),
        cmdline: options.cmdline.clone(),
        on_reset: OnReset::Exit,
        lease_us: options.lease_us,
        options: options.options.clone(),
        limit: Duration::from_secs(options.timeout),
    };
    let plan = Plan {
        round: 1,
        hosts,
        every: Duration::from_millis(options.move_every.unwrap_or(0)),
        most: if options.move_every.is_some() { u64::MAX } else { 0 },
        begin: if built_in.is_some() { Begin::WhenUp } else { Begin::AtFirstOutput },
    };
    let mut mover = Mover::new(cluster.control(&spec.name), plan, usize::MAX).with_console(|bytes| {
        let mut out = std::io::stdout().lock();
        // Who reads may have gone; the guest goes on all the same.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    });
    let outcome = guest::run_with_our_input(&cluster, &spec, &mut mover)?;
    let moves = mover.finish();
    eprint!("{}", outcome.launcher_said);
    if options.move_every.is_some() {
        eprintln!("{} moves, blackouts in us: {:?}", moves.blackout_us.len(), moves.blackout_us);
        for error in &moves.errors {
            eprintln!("a move failed: {error}");
        }
    }
    if let Some(words) = own_end(outcome.status) {
        eprintln!("{words}");
    }
    Ok(outcome.status)
}

/// Our guest programs, with modules of a stock kernel.
fn own_files(kernel: &str, modules: &[String]) -> Result<images::GuestFiles> {
    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    match <Series as clap::ValueEnum>::from_str(kernel, false) {
        Ok(series) if !modules.is_empty() => images::guest_files_with(&[series], &modules),
        _ => images::guest_files(&[]),
    }
}

/// About a guest that ended by itself, but not well: the launcher has no words for that. (`docs/cli.md` lists the statuses.)
fn own_end(status: i32) -> Option<&'static str> {
    match status {
        10 => Some("the guest reset itself, as a kernel does that panics: exit status 10"),
        11 => Some("the guest panicked: exit status 11"),
        _ => None,
    }
}

fn kernel(text: &str) -> Result<PathBuf> {
    match <Series as clap::ValueEnum>::from_str(text, false) {
        Ok(series) => Ok(Kernel::get(series)?.image()),
        Err(_) => Path::new(text).canonicalize().with_context(|| format!("there is no kernel {text}")),
    }
}
