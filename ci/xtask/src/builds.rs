//! Builds what runs inside lab hosts and guests: statically linked, in a cargo target folder of their own, so
//! that the different flags do not throw away the ordinary build's results.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{ensure, Result};

use crate::progress::Step;
use crate::{paths, shell};

/// A program of this repository that is linked statically.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    package: &'static str,
    binary: &'static str,
}

/// The agent inside a lab host.
pub const AGENT: Program = Program { package: "tessera-lab-agent", binary: "tessera-lab-agent" };
/// Tessera itself.
pub const TESSERA: Program = Program { package: "tessera", binary: "tessera" };
/// What a page fault costs at least.
pub const FLOOR: Program = Program { package: "tessera-floor", binary: "tessera-floor" };
/// The first process of a stock guest.
pub const GUEST_INIT: Program = Program { package: "tessera-guest-programs", binary: "tessera-guest-init" };

/// The payloads' own workspace.
pub const PAYLOAD_MANIFEST: &str = "guest/payload/Cargo.toml";
/// The bare-metal payload's file name.
pub const PAYLOAD: &str = "tessera-payload";

/// Builds the bare-metal payloads and gives their folder.
///
/// # Errors
/// With the compiler's messages, when they do not build.
pub fn payloads() -> Result<PathBuf> {
    let target = paths::target().join("payload");
    let step = Step::start("building the bare-metal payloads");
    let mut command = cargo();
    command.args(["build", "--release", "--manifest-path", PAYLOAD_MANIFEST, "--target-dir"]).arg(&target);
    shell::output(&mut command)?;
    let folder = target.join("release");
    ensure!(folder.join(PAYLOAD).is_file(), "cargo built no payload in {}", folder.display());
    step.done("done");
    Ok(folder)
}

/// Cargo, as a command in the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}

/// Builds these programs and gives their paths in the same order.
///
/// # Errors
/// With the compiler's messages, when one does not build.
pub fn static_programs(programs: &[Program]) -> Result<Vec<PathBuf>> {
    let names = programs.iter().map(|program| program.binary).collect::<Vec<_>>().join(", ");
    let step = Step::start(format!("building {names}"));
    let mut command = cargo();
    command.args(["build", "--release", "--target", paths::TRIPLE, "--target-dir"]);
    command.arg(paths::static_target());
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    for program in programs {
        command.args(["-p", program.package, "--bin", program.binary]);
    }
    shell::output(&mut command)?;
    let dir = paths::static_target().join(paths::TRIPLE).join("release");
    let built: Vec<PathBuf> = programs.iter().map(|program| dir.join(program.binary)).collect();
    for path in &built {
        ensure!(path.is_file(), "cargo built no {}", path.display());
    }
    step.done("done");
    Ok(built)
}
