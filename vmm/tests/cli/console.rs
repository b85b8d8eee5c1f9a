//! The guest's console on standard input and output.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{code, run, start, start_with_stdin, until, Program};

#[test]
fn output_arrives_whole_and_before_the_end() {
    let text: String = (0..200).map(|line| format!("line {line}\n")).collect();
    let program = Program::new(&[code::print(&text), code::exit(0)].concat());
    let output = run(&["run", "--memory", "size=16M", "--kernel", &program.path()]);
    assert_eq!((output.status, output.stdout.as_str()), (0, text.as_str()));
}

#[test]
fn input_reaches_the_guest_even_if_it_is_no_terminal() {
    let program = Program::new(&code::echo());
    let mut running =
        start_with_stdin(&["run", "--memory", "size=16M", "--kernel", &program.path()], Stdio::piped());
    // More than all buffers on the way: the guest takes it byte by byte.
    let text = "0123456789abcde\n".repeat(2048);
    running.type_in(text.as_bytes());
    running.type_in(b"\x01xq");
    let output = running.end();
    assert_eq!((output.status, output.stdout), (0, text + "\x01xq"));
}

#[test]
fn the_end_of_input_is_not_the_end_of_the_guest() {
    let program = Program::new(&[code::print("alive\n"), code::halt()].concat());
    let running = start(&["run", "--memory", "size=16M", "--events", "json", "--kernel", &program.path()]);
    running.await_stderr("\"started\"");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!running.stderr().contains("\"ended\""));
    running.signal(Signal::TERM);
    assert_eq!(running.end().status, 130);
}

#[test]
fn a_guest_that_floods_its_console_can_be_stopped() {
    let program = Program::new(&code::flood());
    let running = start(&["run", "--memory", "size=16M", "--events", "json", "--kernel", &program.path()]);
    running.await_stderr("\"started\"");
    running.signal(Signal::TERM);
    assert_eq!(running.end().status, 130);
}

#[test]
fn a_guest_outlives_a_standard_output_that_is_closed() {
    let program = Program::new(&code::flood());
    let daemon = crate::support::Daemon::start();
    let kernel = program.path();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(["run", "--hosts", &daemon.address, "--memory", "size=16M", "--kernel", &kernel])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tessera starts");
    drop(child.stdout.take());
    let stats = || run(&["stats", "--host", &daemon.address, "--json"]);
    until("the guest", || stats().status == 0);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(stats().status, 0, "the guest is gone");
    assert_eq!(run(&["stop", "--host", &daemon.address]).status, 0);
    assert_eq!(child.wait().expect("wait").code(), Some(13));
    daemon.stop();
}
