//! The payload lane: bare-metal guests, which need no stock kernel and so run on any KVM.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};

use super::{cargo, CannotRun, Counts};
use crate::progress::Step;
use crate::{builds, paths, shell};

/// The payloads' own workspace.
pub const MANIFEST: &str = "guest/payload/Cargo.toml";

/// Tells the integration tests where the payloads are.
const PAYLOADS: &str = "TESSERA_PAYLOADS";

/// Runs the lane.
///
/// # Errors
/// [`CannotRun`] without a usable `/dev/kvm`; else when the payloads cannot be built.
pub fn run() -> Result<Counts> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(|error| CannotRun(format!("/dev/kvm: {error}")))?;
    let mut tests = builds::cargo();
    tests.env(PAYLOADS, build()?.parent().unwrap_or(Path::new("/")));
    tests.args(["test", "--no-fail-fast", "-p", "tessera", "--test", "*"]);
    cargo::tests("payload", &mut tests)
}

/// Builds the payloads; gives the file.
///
/// # Errors
/// With the compiler's messages, when they do not build.
pub fn build() -> Result<PathBuf> {
    let target = paths::target().join("payload");
    let step = Step::start("building the bare-metal payloads");
    let mut build = builds::cargo();
    build.args(["build", "--release", "--manifest-path", MANIFEST, "--target-dir"]).arg(&target);
    shell::output(&mut build)?;
    let payload = target.join("release").join("tessera-payload");
    ensure!(payload.is_file(), "cargo built no {}", payload.display());
    step.done("done");
    Ok(payload)
}
