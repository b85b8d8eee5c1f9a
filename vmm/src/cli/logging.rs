//! Log lines, always on standard error: standard output is the guest's.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::args::{Cli, LogFormat, Verb};
use super::Failure;

/// What is logged by default: a daemon tells what happens to its guests, a launcher only what the user must
/// know, and not what its own daemon, which nobody asked for, has to say.
fn default_filter(cli: &Cli) -> &'static str {
    match (&cli.verb, cli.verbose) {
        (Verb::Node(_) | Verb::Worker(_), 0) => "info",
        (_, 0) => "warn,tessera_vmm::daemon=off",
        (Verb::Node(_) | Verb::Worker(_), _) | (_, 2..) => "debug",
        (_, 1) => "info",
    }
}

/// Sets up logging for this process.
pub(super) fn start(cli: &Cli) -> Result<(), Failure> {
    let filter = cli.log_filter.as_deref().unwrap_or_else(|| default_filter(cli));
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(format!("the log filter {filter:?} is not understood: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // It fails only when there is a logger already, as in tests.
    let _already = match cli.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

/// How the workers of this process are to log.
pub(super) fn worker_arguments(cli: &Cli) -> Vec<String> {
    let filter = match (&cli.log_filter, &cli.verb, cli.verbose) {
        (Some(filter), _, _) => filter,
        // The launcher tells what its only worker reports.
        (None, Verb::Run(_), 0) => "off",
        (None, _, _) => default_filter(cli),
    };
    let format = match cli.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    vec![format!("--log-filter={filter}"), format!("--log-format={format}")]
}
