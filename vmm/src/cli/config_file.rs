//! `run --config FILE`: options from a file, in TOML or JSON.
//!
//! A file says what the command line would: its keys are the options' names, and what it holds becomes arguments, which are then
//! read as any others. So there is one list of options, one set of checks, and no option that only one of the two has.
//!
//! - a text or a number is the option's value; `true` gives an option that has none, `false` leaves it out;
//! - a table is a value of the form `key=value,...`: `cpus = { boot = 4, per-host = [2, 2] }`;
//! - a list gives the option several times: `disk = [{ path = "a" }, { path = "b", readonly = true }]`.
//!
//! What is given on the command line replaces what the file says of the same option.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value};

use super::Failure;

/// The option that names the file.
const OPTION: &str = "config";
/// Most bytes in a file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The arguments of `run` and those of its file; `None` if it has no file. `run` is the definition
/// of the verb, `matches` what was read of `arguments`.
pub(super) fn expand(
    arguments: &[OsString],
    run: &Command,
    matches: &ArgMatches,
) -> Result<Option<Vec<OsString>>, Failure> {
    let Some(path) = matches.get_one::<std::path::PathBuf>(OPTION) else { return Ok(None) };
    let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
    let options = read(path).map_err(failed)?;
    let mut from_file = Vec::new();
    for (name, value) in &options {
        let is_meant = |known: &&Arg| known.get_long() == Some(name.as_str()) && name != OPTION;
        let known = run.get_arguments().find(is_meant);
        let Some(known) = known.filter(|known| !known.is_global_set()) else {
            return Err(failed(format!("there is no option {name:?}")));
        };
        if matches.value_source(known.get_id().as_str()) != Some(ValueSource::CommandLine) {
            from_file.extend(option(name, value).map_err(failed)?.into_iter().map(OsString::from));
        }
    }
    // (Each begins with two hyphens, so that none is taken for a value of an option before it.)
    Ok(Some(arguments.iter().cloned().chain(from_file).collect()))
}

/// What a file says, in TOML unless its name ends in `.json`.
fn read(path: &Path) -> Result<Map<String, Value>, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("cannot read it: {error}"))?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read it: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_str(&text).map_err(|error| error.to_string()),
        // One line, where the crate would draw a picture.
        false => toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            format!("{} (line {line})", error.message().replace('\n', " "))
        }),
    }
}

/// An option as arguments.
fn option(name: &str, value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Bool(true) => Ok(vec![format!("--{name}")]),
        Value::Bool(false) => Ok(vec![]),
        Value::Array(values) => {
            let all: Result<Vec<_>, _> = values.iter().map(|value| option(name, value)).collect();
            Ok(all?.concat())
        }
        Value::Object(table) => {
            let pair = |(key, value): (&String, &Value)| Ok(format!("{key}={}", part(name, key, value)?));
            let pairs: Result<Vec<String>, String> = table.iter().map(pair).collect();
            Ok(vec![format!("--{name}={}", pairs?.join(","))])
        }
        Value::String(text) => Ok(vec![format!("--{name}={text}")]),
        Value::Number(number) => Ok(vec![format!("--{name}={number}")]),
        Value::Null => Err(format!("{name} is null")),
    }
}

/// The value of a key in a table.
fn part(name: &str, key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::Bool(true) => Ok("on".into()),
        Value::Bool(false) => Ok("off".into()),
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) if !text.contains([',', '[', ']']) => Ok(text.clone()),
        Value::String(text) => Err(format!("{name}: {key}: {text:?} has a comma or a bracket")),
        Value::Array(values) => {
            let parts: Result<Vec<String>, String> =
                values.iter().map(|value| part(name, key, value)).collect();
            Ok(format!("[{}]", parts?.join(",")))
        }
        Value::Object(_) | Value::Null => Err(format!("{name}: {key} is no value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::{CommandFactory, FromArgMatches};

    /// What `run` with a file of this name and content, and these arguments besides, is told.
    fn expanded(name: &str, content: &str, arguments: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        let mut all: Vec<OsString> = ["tessera", "run", "--config"].map(OsString::from).to_vec();
        all.push(path.clone().into());
        all.extend(arguments.split_whitespace().map(OsString::from));
        let command = Cli::command();
        let matches = command.clone().try_get_matches_from(&all).map_err(|error| error.to_string())?;
        let run = command.find_subcommand("run").expect("the verb");
        let found =
            expand(&all, run, matches.subcommand().expect("a verb").1).map_err(|failure| failure.line)?;
        let found = found.expect("there is a file");
        // They are read as any others.
        let read = Cli::command().try_get_matches_from(&found).map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&read).map_err(|error| error.to_string())?;
        let words: Vec<String> = found.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let file = path.to_string_lossy().into_owned();
        Ok(words[2..].join(" ").replace(&format!("--config {file}"), "FILE"))
    }

    const TOML: &str = r#"
        kernel = "vmlinuz"
        cmdline = "quiet root=/dev/vda"
        hosts = ["a", "b:7071"]
        lease-us = 300
        allow-table-page-writes = true
        rng = true
        cpus = { boot = 4, per-host = [2, 2] }
        [[disk]]
        path = "/images/a"
        readonly = true
        [[disk]]
        path = "/images/b"
    "#;

    #[test]
    fn a_file_says_what_the_command_line_would() {
        let words = expanded("guest.toml", TOML, "").expect("valid");
        for part in [
            "--kernel=vmlinuz",
            "--cmdline=quiet root=/dev/vda",
            "--hosts=a --hosts=b:7071",
            "--lease-us=300",
            "--allow-table-page-writes",
            "--rng",
            "--cpus=boot=4,per-host=[2,2]",
            "--disk=path=/images/a,readonly=on --disk=path=/images/b",
        ] {
            assert!(words.contains(part), "{part:?} is not in {words:?}");
        }
        let json = r#"{"kernel": "k", "cpus": {"boot": 2}, "disk": [{"path": "/a"}], "rng": false}"#;
        let words = expanded("guest.json", json, "").expect("valid");
        assert!(words.contains("--disk=path=/a") && !words.contains("--rng"), "{words}");
    }

    #[test]
    fn the_command_line_replaces_what_the_file_says_of_the_same_option() {
        let words = expanded("guest.toml", TOML, "--kernel other --disk path=/c").expect("valid");
        assert!(!words.contains("vmlinuz") && !words.contains("/images"), "{words}");
        assert!(words.starts_with("FILE --kernel other --disk path=/c --"), "{words}");
    }

    #[test]
    fn what_a_file_cannot_say_is_refused_by_its_name() {
        for (name, content, part) in [
            ("a.toml", "kernel = ", "a.toml: "),
            ("a.toml", "\n\nkernel = 1 2", "(line 3)"),
            ("a.json", "{", "a.json: EOF"),
            ("a.json", "[]", "a.json: "),
            ("a.toml", "kernels = 'k'", "there is no option \"kernels\""),
            ("a.toml", "config = 'k'", "there is no option \"config\""),
            ("a.toml", "verbose = 2", "there is no option \"verbose\""),
            ("a.json", r#"{"kernel": null}"#, "kernel is null"),
            ("a.toml", "disk = { path = 'a,readonly=off' }", "has a comma"),
            ("a.toml", "disk = { path = { a = 1 } }", "disk: path is no value"),
            ("a.toml", "lease-us = 'long'", "lease-us"),
        ] {
            let line = expanded(name, content, "").expect_err(content);
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
        let long = format!("# {}", "x".repeat(1 << 20));
        assert!(expanded("a.toml", &long, "").expect_err("too long").contains("more than 1048576 bytes"));
    }
}
