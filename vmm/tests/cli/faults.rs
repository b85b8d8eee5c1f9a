//! Sudden deaths of every process, and what is left of the guest elsewhere: nothing, and one clear line.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::spanning::span;
use crate::support::{code, exists, run, send_signal, until, Daemon, Output, Program};

/// Within this a guest that lost a node has ended everywhere.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The line that a launcher prints at the end.
fn last_line(output: &Output) -> &str {
    output
        .stderr
        .lines()
        .find(|line| line.starts_with("tessera: "))
        .unwrap_or_else(|| panic!("no line: {output:?}"))
}

fn no_worker_left(daemon: &Daemon) {
    until("the end of the workers", || daemon.workers().is_empty());
}

#[test]
fn a_killed_worker_is_named_with_what_it_held_and_ends_the_guest_everywhere() {
    for (victim, number) in [(1, "1"), (0, "0")] {
        let daemons = [Daemon::start(), Daemon::start(), Daemon::start()];
        let program = Program::new(&code::halt());
        let running = span(&[&daemons[0], &daemons[1], &daemons[2]], "g", &program);
        // Nodes tell each other once a second what they hold.
        std::thread::sleep(Duration::from_millis(1500));
        let worker = daemons[victim].worker();
        let begin = Instant::now();
        send_signal(worker, Signal::KILL);
        let output = running.end();
        assert!(begin.elapsed() < END_LIMIT, "it took {:?}", begin.elapsed());
        assert_eq!(output.status, 12, "{output:?}");
        let line = last_line(&output);
        let begins = format!("tessera: node {} was lost (connection ", daemons[victim].address);
        assert!(line.starts_with(&begins) && line.ends_with(": the guest is stopped"), "{line}");
        assert!(line.contains("pages that no other node has") || line.contains("no page was held"), "{line}");
        daemons.iter().for_each(no_worker_left);
        let log = format!("worker {worker} was killed by signal 9");
        daemons[victim].await_log(&log);
        let lost = run(&["stats", "--host", &daemons[victim].address, "--guest", "g"]);
        assert!(lost.error_line().contains(&format!("guest g was lost: {log}")), "node {number}: {lost:?}");
        assert!(run(&["list", "--host", &daemons[victim].address]).stdout.contains(&log));
        daemons.into_iter().for_each(|daemon| drop(daemon.stop()));
    }
}

#[test]
fn a_worker_that_hangs_is_lost_within_five_seconds() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    let worker = b.worker();
    let begin = Instant::now();
    send_signal(worker, Signal::STOP);
    let output = running.end();
    assert!(begin.elapsed() < END_LIMIT + Duration::from_secs(1), "it took {:?}", begin.elapsed());
    assert_eq!(output.status, 12, "{output:?}");
    assert!(
        last_line(&output).contains(&format!("node {} was lost (nothing heard for 4 s)", b.address)),
        "{output:?}"
    );
    no_worker_left(&a);
    // It wakes to a guest that is over, and knows it.
    send_signal(worker, Signal::CONT);
    no_worker_left(&b);
    a.stop();
    b.stop();
}

#[test]
fn a_short_pause_is_no_loss() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    let worker = b.worker();
    send_signal(worker, Signal::STOP);
    std::thread::sleep(Duration::from_millis(2500));
    send_signal(worker, Signal::CONT);
    std::thread::sleep(Duration::from_millis(2500));
    let stats = run(&["stats", "--host", &a.address, "--json"]);
    assert_eq!(stats.status, 0, "{stats:?}");
    // The launcher may pause for longer: its user may have suspended it.
    running.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    running.signal(Signal::CONT);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(run(&["stop", "--host", &a.address]).status, 0);
    assert_eq!(running.end().status, 13);
    a.stop();
    b.stop();
}

#[test]
fn a_killed_daemon_takes_its_worker_with_it_and_ends_the_guest_elsewhere() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    let (worker, address) = (b.worker(), b.address.clone());
    let begin = Instant::now();
    b.kill();
    until("the end of the worker", || !exists(worker));
    let output = running.end();
    assert!(begin.elapsed() < END_LIMIT, "it took {:?}", begin.elapsed());
    assert_eq!(output.status, 12, "{output:?}");
    assert!(last_line(&output).contains(&format!("node {address} was lost")), "{output:?}");
    no_worker_left(&a);
    a.stop();
}

#[test]
fn a_daemon_that_is_shut_down_stops_its_guests_and_leaves_nothing() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    b.stop();
    let output = running.end();
    assert_eq!(output.status, 13, "{output:?}");
    assert!(last_line(&output).contains("a daemon that runs a part of it was shut down"), "{output:?}");
    no_worker_left(&a);
    a.stop();
}

#[test]
fn a_terminated_worker_ends_its_guest_in_order() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    send_signal(b.worker(), Signal::TERM);
    let output = running.end();
    assert_eq!(output.status, 13, "{output:?}");
    assert!(last_line(&output).contains("terminated by a signal"), "{output:?}");
    [a, b].into_iter().for_each(|daemon| {
        no_worker_left(&daemon);
        daemon.stop();
    });
}

#[test]
fn a_killed_launcher_takes_its_guest_with_it() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    running.signal(Signal::KILL);
    running.end();
    [&a, &b].into_iter().for_each(no_worker_left);
    // The name is free again.
    let running = span(&[&a, &b], "g", &program);
    running.signal(Signal::TERM);
    assert_eq!(running.end().status, 130);
    a.stop();
    b.stop();
}

#[test]
fn a_killed_launcher_without_a_daemon_leaves_no_worker() {
    let program = Program::new(&code::halt());
    let running = crate::support::start(&[
        "run",
        "--memory",
        "size=16M",
        "--events",
        "json",
        "--kernel",
        &program.path(),
    ]);
    running.await_stderr("\"started\"");
    let &[worker] = running.children().as_slice() else { panic!("not one worker") };
    running.signal(Signal::KILL);
    running.end();
    until("the end of the worker", || !exists(worker));
}

#[test]
fn deaths_while_the_guest_comes_up_leave_nothing() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let hosts = format!("{},{}", a.address, b.address);
    let kernel = program.path();
    for round in 0..20u64 {
        let running =
            crate::support::start(&["run", "--hosts", &hosts, "--memory", "size=16M", "--kernel", &kernel]);
        std::thread::sleep(Duration::from_millis(round * 2));
        match round % 3 {
            0 => running.signal(Signal::KILL),
            1 => running.signal(Signal::TERM),
            _ => b.workers().into_iter().for_each(|worker| send_signal(worker, Signal::KILL)),
        }
        std::thread::sleep(Duration::from_millis(20));
        // Whatever it was, a termination ends it.
        running.signal(Signal::TERM);
        let output = running.end();
        assert!([-1, 1, 12, 130].contains(&output.status), "round {round}: {output:?}");
        [&a, &b].into_iter().for_each(no_worker_left);
    }
    a.stop();
    b.stop();
}

#[test]
fn no_descriptor_or_memory_of_a_guest_stays_with_the_daemon() {
    let daemon = Daemon::start();
    let program = Program::new(&code::exit(0));
    let one = || {
        let output =
            run(&["run", "--hosts", &daemon.address, "--memory", "size=16M", "--kernel", &program.path()]);
        assert_eq!(output.status, 0, "{output:?}");
        no_worker_left(&daemon);
    };
    one();
    until("quiet", || daemon.descriptors() < 12);
    let before = daemon.descriptors();
    (0..10).for_each(|_| one());
    until("the descriptors of before", || daemon.descriptors() <= before);
    daemon.stop();
}
