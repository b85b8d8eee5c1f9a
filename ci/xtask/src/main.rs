//! `cargo xtask`: sets the machine up, builds hosts and guests, runs them, tests and measures them.

mod bench;
mod builds;
mod clean;
mod cleanup;
mod cluster;
mod debs;
mod demo;
mod dialogue;
mod guest;
mod image;
mod images;
mod initramfs;
mod kernels;
mod lab;
mod mover;
mod paths;
mod programs;
mod progress;
mod qemu;
mod setup;
mod shell;
mod sizes;
mod soak;
mod tessera;
mod test;

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
    /// Disks with a Debian system, and programs in it that check themselves: list them, make one.
    Image(image::Args),
    /// Hosts with KVM, several on one machine that needs none itself.
    #[command(subcommand)]
    Lab(lab::verbs::Verb),
    /// One guest over one host and over several, moving while it works: checks the results, shows the figures.
    Demo(demo::Args),
    /// Everything that must hold, set-up included; ends with `N passed, N failed`.
    Test(test::Args),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Verb),
    /// What takes longer than a test may.
    #[command(subcommand)]
    Soak(soak::Verb),
    /// Remove what the lab keeps: kernels, images, logs, and folders of runs that were killed.
    CleanLab(clean::Args),
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
        Verb::Image(options) => image::main(options).map(|()| 0),
        Verb::Lab(verb) => lab::verbs::main(verb),
        Verb::Demo(options) => demo::main(options),
        Verb::Test(options) => test::main(options),
        Verb::Bench(verb) => bench::main(verb),
        Verb::Soak(verb) => soak::main(verb),
        Verb::CleanLab(options) => clean::main(options).map(|()| 0),
    }
}
