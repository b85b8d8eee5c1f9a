//! How a guest's end becomes an exit status.

use rustix::process::Signal;
use tessera_abi::port;

use crate::support::{code, run, start, text, Output, Program};

fn run_program(code: &[u8], more: &[&str]) -> Output {
    let program = Program::new(code);
    let kernel = program.path();
    let mut arguments = vec!["run", "--memory", "size=16M", "--kernel", &kernel];
    arguments.extend(more);
    run(&arguments)
}

fn power_off() -> Vec<u8> {
    let s5 = port::SLEEP_TYPE_S5 << port::SLEEP_TYPE_SHIFT | port::SLEEP_ENABLE;
    [code::out(port::SLEEP_CONTROL, s5), code::halt()].concat()
}

fn reset() -> Vec<u8> {
    [code::out(port::RESET, port::RESET_VALUE), code::halt()].concat()
}

#[test]
fn the_guests_own_ends_have_their_statuses_and_need_no_words() {
    let panic = [code::out(port::PVPANIC, port::PVPANIC_PANICKED), code::halt()].concat();
    let cases = [
        (code::exit(0), 0),
        (code::exit(1), 21),
        (code::exit(42), 62),
        (code::exit(u32::MAX), 120),
        (power_off(), 0),
        (panic, 11),
    ];
    for (code, status) in cases {
        let output = run_program(&code, &[]);
        assert_eq!((output.status, output.stderr.as_str()), (status, ""), "{output:?}");
    }
}

#[test]
fn a_reset_ends_the_run_if_asked_and_starts_anew_if_not() {
    assert_eq!(run_program(&reset(), &["--on-reboot", "exit"]).status, 10);
    let program = Program::new(&[code::print("again\n"), reset()].concat());
    let running = start(&[
        "run",
        "--memory",
        "size=16M",
        "--events",
        "json",
        "--name",
        "r",
        "--kernel",
        &program.path(),
    ]);
    crate::support::until("three lives", || running.stderr().matches("\"restarting\"").count() >= 3);
    running.signal(Signal::TERM);
    let output = running.end();
    assert!(output.stdout.starts_with("again\nagain\nagain\n"), "{output:?}");
    assert_eq!(output.status, 130);
}

#[test]
fn the_report_tells_what_happened() {
    let program = Program::new(&code::exit(3));
    let report = program.beside("report.json");
    let output = run(&[
        "run",
        "--name",
        "told",
        "--memory",
        "size=16M",
        "--kernel",
        &program.path(),
        "--report",
        &text(&report),
        "--events",
        "json",
    ]);
    assert_eq!(output.status, 23);
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&report).expect("report")).expect("JSON");
    assert_eq!(json["guest"], "told");
    assert_eq!(json["end"]["message"], "the payload ended with code 3");
    assert_eq!(json["memory_bytes"], 16 << 20);
    assert_eq!(json["lives"][0]["nodes"][0]["memory"]["home_pages"], 4096);
    assert!(json["lives"][0]["boot_total_ms"].is_u64());
    let events: Vec<serde_json::Value> =
        output.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().expect("event")).collect();
    assert_eq!(names, ["started", "ended"]);
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_of_ours() {
    let output = run_program(&code::exit(0), &["--report", "/nonexistent/report"]);
    assert_eq!(output.status, 1);
    assert!(output.error_line().contains("cannot write the report /nonexistent/report"));
}

#[test]
fn a_termination_stops_the_guest_and_an_interrupt_asks_twice() {
    let program = Program::new(&code::halt());
    let guest = || {
        let running =
            start(&["run", "--memory", "size=16M", "--events", "json", "--kernel", &program.path()]);
        running.await_stderr("\"started\"");
        running
    };
    let running = guest();
    running.signal(Signal::TERM);
    let output = running.end();
    assert_eq!(output.status, 130, "{output:?}");
    assert!(output.stderr.contains("the launcher was interrupted"));

    let running = guest();
    running.signal(Signal::INT);
    running.await_stderr("interrupt once more");
    running.signal(Signal::INT);
    assert_eq!(running.end().status, 130);
}
