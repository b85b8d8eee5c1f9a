//! The Debian packages that the lab needs.

use std::process::Command;

use anyhow::{bail, Context, Result};

use super::{release, sources};
use crate::shell;

/// One package and how to see that it is not needed any more.
struct Package {
    name: &'static str,
    /// A program or file that it brings.
    brings: Brings,
    why: &'static str,
}

enum Brings {
    Program(&'static str),
    File(&'static str),
}

const PACKAGES: &[Package] = &[
    Package {
        name: "busybox-static",
        brings: Brings::Program("busybox"),
        why: "the tools inside the lab's hosts",
    },
    Package { name: "cpio", brings: Brings::Program("cpio"), why: "checks the images that xtask writes" },
    Package { name: "xz-utils", brings: Brings::Program("xz"), why: "unpacks kernel modules" },
    Package { name: "zstd", brings: Brings::Program("zstd"), why: "unpacks kernels" },
    Package { name: "lz4", brings: Brings::Program("lz4"), why: "unpacks kernels" },
    Package { name: "gcc", brings: Brings::Program("gcc"), why: "links Rust programs" },
    Package {
        name: "libc6-dev",
        brings: Brings::File("/usr/lib/x86_64-linux-gnu/libc.a"),
        why: "links programs statically",
    },
];

impl Brings {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => shell::has_program(name),
            Self::File(path) => std::path::Path::new(path).exists(),
        }
    }
}

/// Installs what is missing.
///
/// # Errors
/// When this is not the expected Debian or not root, with what to do by hand; or what apt says.
pub fn ensure() -> Result<()> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !package.brings.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list =
        missing.iter().map(|package| format!("  {}: {}", package.name, package.why)).collect::<Vec<_>>();
    let list = list.join("\n");
    if !release::is_expected() {
        bail!(
            "this system is {}, and xtask can install packages only on Debian {}.\nInstall these by hand (names as in Debian):\n{list}",
            release::pretty_name(),
            release::CODENAME
        );
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    install(&names, &list)?;
    match missing.iter().find(|package| !package.brings.is_there()) {
        Some(package) => {
            bail!("{} was installed, but what the lab needs of it is still not there", package.name)
        }
        None => Ok(()),
    }
}

/// Makes sure that apt knows the packages of both suites, for a download.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_lists() -> Result<()> {
    let backports = format!("linux-image-cloud-amd64/{}", release::backports());
    let known = ["linux-image-cloud-amd64", backports.as_str()].iter().all(|package| {
        shell::capture(Command::new("apt-cache").args(["depends", package]))
            .is_ok_and(|output| output.status.success())
    });
    if known {
        return Ok(());
    }
    if !release::is_expected() {
        bail!(
            "the lab needs the kernel packages of Debian {} and its backports; this system is {}",
            release::CODENAME,
            release::pretty_name()
        );
    }
    update_lists()
}

/// Reads the package lists anew, of the backports suite too.
///
/// # Errors
/// As [`ensure`].
pub fn update_lists() -> Result<()> {
    need_root("  fresh package lists of the release and its backports")?;
    if !sources::has_backports() {
        let file = sources::add_backports()?;
        eprintln!("added {} to apt's sources", file.display());
    }
    shell::output(Command::new("apt-get").args(["update", "-q"])).context("cannot read the package lists")?;
    Ok(())
}

/// Installs packages; `why` is for who reads.
///
/// # Errors
/// When this is not root, or what apt says.
pub fn install(names: &[&str], why: &str) -> Result<()> {
    need_root(why)?;
    eprintln!("installing from Debian: {}\n{why}", names.join(" "));
    update_lists()?;
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(names);
    shell::output(&mut command)?;
    Ok(())
}

fn need_root(list: &str) -> Result<()> {
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return Ok(());
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    bail!("these are missing:\n{list}\nInstalling them needs root. Run once:\n  sudo {cargo} xtask setup")
}
