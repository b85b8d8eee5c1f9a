//! A few commands on the console, so that the serial line has something to answer without any other user
//! space.

use std::fs;

use crate::init::{self, say};
use crate::orders::{End, Order};
use crate::programs::hotplug;
use crate::{cpus, frames, kmsg};

const PROMPT: &str = "tessera> ";
const HELP: &str = "nproc | machine | cat FILE | ls DIR | write FILE TEXT | run PROGRAM[:key=value]... | offline CPU | online CPU
echo TEXT | log | words ADDRESS COUNT | frames NUMBER... | poweroff | reboot | panic | help
";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Text to print.
    Say(String),
    /// A program to run.
    Run(Order),
    /// The end.
    End(End),
}

/// Reads commands until one ends the machine. An end of input switches off.
pub fn run() {
    say(PROMPT);
    // Not by one lock for all: a program that reads the console is a fork of this process, and would find the lock held.
    let next = || std::io::stdin().lines().next().and_then(Result::ok);
    while let Some(line) = next() {
        match answer(&line) {
            Answer::Say(text) => say(&text),
            Answer::Run(order) => {
                init::run_apart(&order);
            }
            Answer::End(how) => init::end(how),
        }
        say(PROMPT);
    }
    init::end(End::PowerOff);
}

fn answer(line: &str) -> Answer {
    let line = line.trim();
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let text = match command {
        "" => String::new(),
        "nproc" => format!("{}\n", cpus::usable().len()),
        "machine" => format!("{}\n", init::describe()),
        "echo" => format!("{rest}\n"),
        "cat" => cat(rest),
        "ls" => list(rest),
        "write" => write(rest),
        "words" => frames::words(rest).unwrap_or_else(|trouble| format!("{trouble}\n")),
        "frames" => frames::flags(rest).unwrap_or_else(|trouble| format!("{trouble}\n")),
        "log" => kmsg::problems().iter().map(|line| format!("{line}\n")).collect(),
        "run" => match rest.parse() {
            Ok(order) => return Answer::Run(order),
            Err(trouble) => format!("{trouble}\n"),
        },
        "offline" => switch(rest, false),
        "online" => switch(rest, true),
        "poweroff" => return Answer::End(End::PowerOff),
        "reboot" => return Answer::End(End::Reboot),
        "panic" => return Answer::End(End::Panic),
        _ => HELP.to_owned(),
    };
    Answer::Say(text)
}

fn cat(file: &str) -> String {
    match fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{file}: {error}\n"),
    }
}

fn write(rest: &str) -> String {
    let (file, text) = rest.split_once(' ').unwrap_or((rest, ""));
    match fs::write(file, text) {
        Ok(()) => String::new(),
        Err(error) => format!("{file}: {error}\n"),
    }
}

fn list(folder: &str) -> String {
    let folder = if folder.is_empty() { "/" } else { folder };
    match fs::read_dir(folder) {
        Ok(entries) => {
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            format!("{}\n", names.join(" "))
        }
        Err(error) => format!("{folder}: {error}\n"),
    }
}

fn switch(cpu: &str, online: bool) -> String {
    let Ok(number) = cpu.parse() else { return format!("{cpu:?} is no CPU\n") };
    match hotplug::set_online(number, online) {
        Ok(()) => format!("{}\n", cpus::usable().len()),
        Err(trouble) => format!("{trouble}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_answered() {
        assert_eq!(answer("  echo a  b "), Answer::Say("a  b\n".to_owned()));
        assert_eq!(answer("poweroff"), Answer::End(End::PowerOff));
        assert_eq!(answer("run mgs:m=3"), Answer::Run("mgs:m=3".parse().unwrap()));
        assert_eq!(answer("what"), Answer::Say(HELP.to_owned()));
        assert_eq!(answer(""), Answer::Say(String::new()));
        assert_eq!(answer("nproc"), Answer::Say(format!("{}\n", cpus::usable().len())));
    }

    #[test]
    fn what_does_not_work_says_why() {
        assert!(matches!(answer("cat /does/not/exist"), Answer::Say(text) if text.contains("No such file")));
        assert!(matches!(answer("run :"), Answer::Say(text) if text.contains("names no program")));
        assert!(matches!(answer("offline x"), Answer::Say(text) if text.contains("is no CPU")));
    }
}
