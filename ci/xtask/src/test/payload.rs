//! The payload lane: bare-metal guests, which need no stock kernel and so run on any KVM.

use std::fs::OpenOptions;

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
    let target = paths::target().join("payload");
    let step = Step::start("building the bare-metal payloads");
    let mut build = builds::cargo();
    build.args(["build", "--release", "--manifest-path", MANIFEST, "--target-dir"]).arg(&target);
    shell::output(&mut build)?;
    let payloads = target.join("release");
    ensure!(payloads.join("tessera-payload").is_file(), "cargo built no payload in {}", payloads.display());
    step.done("done");
    let mut tests = builds::cargo();
    tests.env(PAYLOADS, &payloads).args(["test", "--no-fail-fast", "-p", "tessera", "--test", "*"]);
    cargo::tests("payload", &mut tests)
}
