//! The command line. Every failure is one line on standard error and an exit status other than 0.

mod args;
mod complete;
mod config_file;
mod device_options;
mod key_values;
mod logging;
mod query;
mod serve;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::control::ending::EXIT_ERROR;
use crate::launch;
use args::{Cli, Verb};

/// Runs the command with these arguments, of which the first is the program's name; the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match read(&arguments.into_iter().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(Unread::Usage(error)) => return usage(&error),
        Err(Unread::File(failure)) => return report(&failure),
    };
    match act(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    eprintln!("tessera: {}", failure.line);
    ExitCode::from(failure.status)
}

/// Why the command line cannot be read.
enum Unread {
    /// It is wrong.
    Usage(clap::Error),
    /// The file that it names is.
    File(Failure),
}

impl From<clap::Error> for Unread {
    fn from(error: clap::Error) -> Self {
        Unread::Usage(error)
    }
}

/// Reads the command line, with what the file says that it names.
fn read(arguments: &[OsString]) -> Result<Cli, Unread> {
    let command = Cli::command();
    let mut matches = command.clone().try_get_matches_from(arguments)?;
    if let Some((verb, own)) = matches.subcommand().filter(|(verb, _)| *verb == args::RUN) {
        let definition = command.find_subcommand(verb).unwrap_or(&command);
        if let Some(expanded) = config_file::expand(arguments, definition, own).map_err(Unread::File)? {
            matches = command.try_get_matches_from(expanded)?;
        }
    }
    Ok(Cli::from_arg_matches(&matches)?)
}

/// Why a verb failed.
#[derive(Debug)]
struct Failure {
    line: String,
    status: u8,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { line: error.to_string(), status: EXIT_ERROR }
    }
}

impl Failure {
    fn new(line: impl Into<String>) -> Self {
        Failure { line: line.into(), status: EXIT_ERROR }
    }
}

fn act(cli: &Cli) -> Result<u8, Failure> {
    logging::start(cli)?;
    match &cli.verb {
        Verb::Node(node) => serve::node(node, logging::worker_arguments(cli)),
        Verb::Worker(worker) => serve::worker(worker),
        Verb::Run(run) => {
            let request = run.request(logging::worker_arguments(cli))?;
            crate::host::signals::block()?;
            let status = match &run.api_socket {
                Some(socket) => launch::serve(&request, run.first_guest(), socket),
                None => launch::run(&request),
            };
            status.map_err(|error| Failure { line: error.to_string(), status: error.exit_status() })
        }
        Verb::List(list) => query::list(list),
        Verb::Vcpu(vcpu) => query::vcpu(vcpu),
        Verb::Device(device) => query::device(device),
        Verb::Stats(stats) => query::stats(stats),
        Verb::Stop(stop) => query::stop(stop),
        Verb::PowerButton(press) => query::power_button(press),
        Verb::Completions => {
            print!("{}", complete::bash(&Cli::command()));
            Ok(0)
        }
    }
}

/// Help goes out as it is; a mistake becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed standard output changes nothing.
        let _closed = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let hint = "see `tessera --help`";
    let line = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "what is to be done? The verbs are node, run, list, vcpu, device, stats, stop, power-button"
                .to_owned()
        }
        _ => {
            // Up to the first empty line it says what is wrong; usage and tips follow.
            let said = text.lines().take_while(|line| !line.trim().is_empty());
            let said: Vec<&str> = said.map(|line| line.trim().trim_start_matches("error: ")).collect();
            said.join(" ")
        }
    };
    eprintln!("tessera: {line} ({hint})");
    ExitCode::from(EXIT_ERROR)
}
