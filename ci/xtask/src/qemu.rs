//! The QEMU that lab hosts run in: Debian 12's own 7.2, downloaded and unpacked, never installed.
//!
//! Not any QEMU will do. From 9.1 on (seen in 10.0.2) its emulation of SVM checks reads of CR3, CR4 and CR8 against the
//! intercept of CR0 reads. `kvm_amd npt=0` needs to intercept reads of CR3: without that a guest reads the root of the
//! host's shadow page table, and Linux halts in its first page fault, before its first line of output.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::progress::Step;
use crate::setup::{packages, release};
use crate::{debs, paths, shell};

/// What is downloaded. Other parts of QEMU's packages (boot ROMs, displays) are not needed.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

fn tree() -> PathBuf {
    paths::lab_cache().join("qemu").join(release::CODENAME)
}

/// The program, if it has been made ready.
///
/// # Errors
/// When it has not.
pub fn program() -> Result<PathBuf> {
    // QEMU finds its other files by its own place.
    let program = tree().join("usr/bin/qemu-system-x86_64");
    match program.is_file() {
        true => Ok(program),
        false => bail!("the lab's QEMU is not there; `cargo xtask setup` fetches it"),
    }
}

/// Makes it ready: downloads it, installs the libraries that it needs.
///
/// # Errors
/// When it cannot be had, or does not start.
pub fn ensure() -> Result<()> {
    if program().is_ok() {
        return Ok(());
    }
    let step = Step::start("fetching the lab's QEMU");
    packages::ensure_lists()?;
    let names: Vec<String> = PACKAGES.iter().map(|name| format!("{name}/{}", release::CODENAME)).collect();
    debs::fetch(&names, &tree()).or_else(|error| {
        packages::update_lists().context(error)?;
        debs::fetch(&names, &tree())
    })?;
    let started = libraries().and_then(|()| version());
    // What does not start must not be found next time.
    let version = started.inspect_err(|_| {
        let _ = std::fs::remove_dir_all(tree());
    })?;
    step.done(&version);
    Ok(())
}

fn version() -> Result<String> {
    let said = shell::output(Command::new(program()?).arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().trim_start_matches("QEMU emulator version ").to_owned())
}

/// Installs the libraries that the program needs, if one is missing.
fn libraries() -> Result<()> {
    let needed = shell::output(Command::new("ldd").arg(program()?))?;
    if !needed.contains("not found") {
        return Ok(());
    }
    let package = format!("{}/{}", PACKAGES[0], release::CODENAME);
    let depends = shell::output(Command::new("apt-cache").args([
        "depends",
        "--no-recommends",
        "--no-suggests",
        &package,
    ]))?;
    packages::install(&library_packages(&depends), "libraries of the lab's QEMU")
}

/// The packages with libraries among what `apt-cache depends` says.
fn library_packages(depends: &str) -> Vec<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| is_library(name))
        .collect()
}

fn is_library(name: &str) -> bool {
    name.starts_with("lib") || name.starts_with("zlib")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_are_installed() {
        let said = "qemu-system-x86\n  Depends: libaio1\n  Depends: zlib1g\n  Depends: qemu-system-common\n  Depends: seabios\n  Depends: ipxe-qemu\n";
        assert_eq!(library_packages(said), ["libaio1", "zlib1g"]);
    }
}
