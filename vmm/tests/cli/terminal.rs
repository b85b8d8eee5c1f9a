//! The console on a terminal: raw while the guest runs, and as it was before after every end.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::OFlags;
use rustix::process::Signal;
use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
use rustix::termios::{tcgetattr, LocalModes};

use crate::support::{code, start_with_stdin, until, Program, Running};

/// A terminal: the user's side, and the side of the command.
struct Terminal {
    user: File,
    command: OwnedFd,
}

impl Terminal {
    fn new() -> Terminal {
        let user =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&user).and_then(|()| unlockpt(&user)).expect("a terminal");
        let name = ptsname(&user, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let command = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).expect("opens");
        Terminal { user: File::from(user), command }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.command).expect("a terminal").local_modes.contains(LocalModes::ICANON)
    }

    /// A guest on this terminal.
    fn run(&self, program: &Program) -> Running {
        assert!(!self.is_raw());
        let stdin = Stdio::from(self.command.try_clone().expect("clone"));
        let kernel = program.path();
        let running = start_with_stdin(
            &["run", "--memory", "size=16M", "--events", "json", "--kernel", &kernel],
            stdin,
        );
        running.await_stderr("\"started\"");
        until("raw mode", || self.is_raw());
        running
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.user.write_all(keys).expect("typed");
    }
}

#[test]
fn keys_reach_the_guest_as_they_are_and_the_terminal_is_restored_at_its_end() {
    let mut terminal = Terminal::new();
    let running = terminal.run(&Program::new(&code::echo()));
    // Ctrl-C, Ctrl-Z, Ctrl-D and Ctrl-backslash are the guest's.
    terminal.type_in(b"a\x03\x1a\x04\x1c\x01\x01bq");
    let output = running.end();
    assert_eq!((output.status, output.stdout.as_str()), (0, "a\x03\x1a\x04\x1c\x01bq"));
    assert!(!terminal.is_raw());
}

#[test]
fn ctrl_a_x_quits_and_restores_the_terminal() {
    let mut terminal = Terminal::new();
    let running = terminal.run(&Program::new(&code::halt()));
    terminal.type_in(b"\x01x");
    assert_eq!(running.end().status, 130);
    assert!(!terminal.is_raw());
}

#[test]
fn signals_restore_the_terminal() {
    for signals in
        [&[Signal::TERM][..], &[Signal::HUP], &[Signal::INT, Signal::INT], &[Signal::TERM, Signal::TERM]]
    {
        let terminal = Terminal::new();
        let running = terminal.run(&Program::new(&code::halt()));
        for &signal in signals {
            running.signal(signal);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(running.end().status, 130, "{signals:?}");
        assert!(!terminal.is_raw(), "{signals:?}");
    }
}

#[test]
fn the_loss_of_the_worker_restores_the_terminal() {
    let terminal = Terminal::new();
    let running = terminal.run(&Program::new(&code::halt()));
    let &[worker] = running.children().as_slice() else { panic!("not one worker") };
    crate::support::send_signal(worker, Signal::KILL);
    let output = running.end();
    assert_eq!(output.status, 12, "{output:?}");
    assert!(output.stderr.contains("was lost (connection "), "{output:?}");
    assert!(!terminal.is_raw());
}
