//! `cargo xtask`: sets the machine up, builds hosts and guests, runs them, tests and measures them.

mod builds;
mod cleanup;
mod images;
mod initramfs;
mod kernels;
mod lab;
mod paths;
mod progress;
mod setup;
mod shell;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// The lab of Tessera.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Install what the lab needs (Debian packages, stock kernels); says what; quick when all is there.
    Setup(setup::Args),
    /// Hosts with KVM, several on one machine that needs none itself.
    #[command(subcommand)]
    Lab(lab::verbs::Verb),
}

fn main() -> ExitCode {
    cleanup::watch_signals();
    match run(&Cli::parse().verb) {
        // The exit status of a command inside the lab has at most eight bits, as everywhere.
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(255)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Setup(options) => setup::main(options).map(|()| 0),
        Verb::Lab(verb) => lab::verbs::main(verb),
    }
}
