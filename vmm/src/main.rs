//! The `tessera` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tessera_vmm::cli::main(std::env::args_os())
}
