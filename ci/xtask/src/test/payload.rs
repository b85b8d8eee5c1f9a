//! The payload lane: bare-metal guests, which need no stock kernel and so run on any KVM.

use std::fs::OpenOptions;

use anyhow::Result;

use super::{cargo, CannotRun, Counts};
use crate::builds;

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
    let payloads = builds::payloads()?;
    let mut tests = builds::cargo();
    tests.env(PAYLOADS, &payloads).args(["test", "--no-fail-fast", "-p", "tessera", "--test", "*"]);
    cargo::tests("payload", &mut tests)
}
