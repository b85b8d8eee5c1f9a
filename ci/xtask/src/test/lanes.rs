//! The lanes, in the order in which they run: what fails soonest comes first.

use anyhow::Result;

use super::{cargo, hosts, payload, stock, Counts};
use crate::{builds, setup};

/// A lane.
pub struct Lane {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Runs it.
    pub run: fn() -> Result<Counts>,
}

/// All lanes.
pub const LANES: &[Lane] = &[
    Lane { name: "lint", about: "format and clippy", run: lint },
    Lane { name: "unit", about: "unit tests", run: unit },
    Lane { name: "checker", about: "protocol tests and simulators", run: checker },
    Lane { name: "payload", about: "bare-metal guests on this machine's KVM", run: payload::run },
    Lane {
        name: "hosts",
        about: "the lab's hosts: KVM, memory tracking, network, commands",
        run: hosts::lab,
    },
    Lane { name: "stock", about: "stock Linux guests across hosts, vCPUs moving", run: stock::run },
];

/// Crates whose tests explore so many states that they run optimized; see the profile `checker`.
const EXPLORING: [&str; 2] = ["tessera-dsm", "tessera-migration"];

fn lint() -> Result<Counts> {
    // Clippy compiles everything: a C linker must be there.
    setup::ensure()?;
    let runs = [
        cargo::whole("format", &["fmt", "--all", "--check"])?,
        cargo::whole("format-payload", &["fmt", "--manifest-path", builds::PAYLOAD_MANIFEST, "--check"])?,
        cargo::whole("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?,
    ];
    Ok(sum(&runs))
}

fn unit() -> Result<Counts> {
    let mut others = builds::cargo();
    others.args(["test", "--no-fail-fast", "--workspace", "--exclude", "tessera"]);
    for name in EXPLORING {
        others.args(["--exclude", name]);
    }
    let others = cargo::tests("unit", &mut others)?;
    // The integration tests of this crate need payloads and KVM: they have a lane of their own.
    let own = cargo::tests(
        "unit-tessera",
        builds::cargo().args(["test", "--no-fail-fast", "-p", "tessera", "--lib", "--bins"]),
    )?;
    let payload = cargo::tests(
        "unit-payload",
        builds::cargo().args(["test", "--lib", "--manifest-path", builds::PAYLOAD_MANIFEST]),
    )?;
    Ok(sum(&[others, own, payload]))
}

fn checker() -> Result<Counts> {
    let mut command = builds::cargo();
    command.args(["test", "--no-fail-fast", "--profile", "checker"]);
    for name in EXPLORING {
        command.args(["-p", name]);
    }
    cargo::tests("checker", &mut command)
}

/// All of these together.
pub fn sum(counts: &[Counts]) -> Counts {
    counts.iter().fold(Counts::default(), |sum, counts| Counts {
        passed: sum.passed + counts.passed,
        failed: sum.failed + counts.failed,
        ignored: sum.ignored + counts.ignored,
    })
}
