//! Guests over several daemons on this machine, and what users ask of them.

use crate::support::{code, run, start, Daemon, Output, Program, Running};

/// A guest over these daemons that runs until it is stopped.
pub fn span(daemons: &[&Daemon], name: &str, program: &Program) -> Running {
    let hosts: Vec<&str> = daemons.iter().map(|daemon| daemon.address.as_str()).collect();
    let vcpus = format!("boot={}", daemons.len());
    let running = start(&[
        "run",
        "--hosts",
        &hosts.join(","),
        "--name",
        name,
        "--cpus",
        &vcpus,
        "--memory",
        "size=16M",
        "--events",
        "json",
        "--kernel",
        &program.path(),
    ]);
    running.await_stderr("\"started\"");
    running
}

fn ask(daemon: &Daemon, verb: &[&str]) -> Output {
    let mut arguments = verb.to_vec();
    arguments.extend(["--host", &daemon.address]);
    run(&arguments)
}

fn json(daemon: &Daemon, verb: &[&str]) -> serde_json::Value {
    let mut arguments = verb.to_vec();
    arguments.push("--json");
    let output = ask(daemon, &arguments);
    assert_eq!(output.status, 0, "{output:?}");
    serde_json::from_str(&output.stdout).expect("JSON")
}

#[test]
fn every_node_answers_for_the_whole_guest() {
    let daemons = [Daemon::start(), Daemon::start(), Daemon::start()];
    let [a, b, c] = &daemons;
    let program = Program::new(&code::halt());
    let running = span(&[a, b, c], "g", &program);
    for (number, daemon) in daemons.iter().enumerate() {
        let list = json(daemon, &["list"]);
        assert_eq!(list["guests"][0]["name"], "g");
        assert_eq!(list["guests"][0]["node"], number);
        assert_eq!(list["guests"][0]["stage"], "running");
        let stats = json(daemon, &["stats"]);
        assert_eq!(stats["nodes"].as_array().expect("nodes").len(), 3);
        assert_eq!(stats["nodes"][number]["host"], daemon.address);
        assert_eq!(stats["nodes"][number]["clock"]["skew_bound_ns"], 0, "one machine has one clock");
        assert_eq!(stats["silent"].as_array().expect("silent").len(), 0);
        let vcpus = json(daemon, &["vcpu", "list"]);
        let places: Vec<_> =
            vcpus.as_array().expect("vcpus").iter().map(|v| v["node"].as_u64().expect("node")).collect();
        assert_eq!(places, [0, 1, 2]);
    }
    let table = ask(b, &["stats", "--guest", "g"]).stdout;
    assert!(table.contains("guest g, running for") && table.contains("RESIDENT"), "{table}");
    assert!(ask(c, &["list"]).stdout.contains("running"));
    assert_eq!(ask(c, &["stop", "--guest", "g"]).status, 0);
    let output = running.end();
    assert_eq!(output.status, 13);
    assert!(output.stderr.contains("tessera: the guest was stopped by `tessera stop`"), "{output:?}");
    daemons.into_iter().for_each(|daemon| drop(daemon.stop()));
}

#[test]
fn a_vcpu_moves_from_any_node_by_any_name() {
    let (a, b) = (Daemon::start(), Daemon::start());
    // vCPU 1 waits for its start, which is a state that moves like any other.
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    let moved = json(&a, &["vcpu", "move", "1", "--to", "0"]);
    assert_eq!((&moved["from"], &moved["to"]), (&1.into(), &0.into()));
    let place = |daemon| json(daemon, &["vcpu", "list"])[1]["node"].clone();
    assert_eq!((place(&a), place(&b)), (0.into(), 0.into()));
    let text = ask(&b, &["vcpu", "move", "1", "--to", &b.address]).stdout;
    assert!(text.starts_with("vCPU 1 moved from node 0 to node 1: blackout "), "{text}");
    assert_eq!((place(&a), place(&b)), (1.into(), 1.into()));

    let refused = |verb: &[&str], part: &str| {
        let output = ask(&a, verb);
        assert_eq!(output.status, 1);
        assert!(output.error_line().contains(part), "{output:?}");
    };
    refused(&["vcpu", "move", "1", "--to", "1"], "vCPU 1 already is on");
    refused(&["vcpu", "move", "2", "--to", "1"], "the guest has no vCPU 2: its vCPUs are 0 to 1");
    refused(&["vcpu", "move", "4294967295", "--to", "1"], "the guest has no vCPU");
    refused(&["vcpu", "move", "1", "--to", "2"], "is no node of this guest");
    refused(&["vcpu", "move", "1", "--to", "127.0.0.1"], "names several nodes");
    assert_eq!(ask(&a, &["stop"]).status, 0);
    assert_eq!(running.end().status, 13);
    a.stop();
    b.stop();
}

#[test]
fn guests_on_the_same_daemons_do_not_disturb_each_other() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let one = span(&[&a, &b], "one", &program);
    let two = span(&[&b, &a], "two", &program);
    let ambiguous = ask(&a, &["stats"]);
    assert!(ambiguous.error_line().contains("choose one with --guest one|two"), "{ambiguous:?}");
    let again = run(&["run", "--hosts", &a.address, "--name", "one", "--kernel", &program.path()]);
    assert_eq!(again.status, 1);
    assert!(again.error_line().contains("a guest named one already runs here"), "{again:?}");
    // One guest dies the hard way on one host: the other does not notice.
    let list = json(&b, &["list"]);
    let guests = list["guests"].as_array().expect("guests").iter();
    let pid =
        guests.filter(|guest| guest["name"] == "one").map(|guest| guest["pid"].as_u64().expect("pid")).next();
    crate::support::send_signal(pid.expect("there") as u32, rustix::process::Signal::KILL);
    assert_eq!(one.end().status, 12);
    assert_eq!(json(&a, &["stats", "--guest", "two"])["nodes"].as_array().expect("nodes").len(), 2);
    assert_eq!(
        json(&b, &["vcpu", "list"]).as_array().expect("vcpus").len(),
        2,
        "two is the only guest again"
    );
    assert_eq!(ask(&a, &["stop"]).status, 0);
    assert_eq!(two.end().status, 13);
    a.stop();
    b.stop();
}

#[test]
fn a_daemon_takes_no_more_guests_than_it_is_told() {
    let daemon = Daemon::start_with(&["--max-guests", "1"]);
    let program = Program::new(&code::halt());
    let running = span(&[&daemon], "g", &program);
    let more = run(&["run", "--hosts", &daemon.address, "--kernel", &program.path()]);
    assert!(more.status == 1 && more.error_line().contains("--max-guests"), "{more:?}");
    assert_eq!(ask(&daemon, &["stop"]).status, 0);
    assert_eq!(running.end().status, 13);
    daemon.stop();
}

#[test]
fn the_same_daemon_twice_under_two_names_is_refused() {
    let daemon = Daemon::start();
    let port = daemon.address.rsplit(':').next().expect("port");
    let hosts = format!("{},localhost:{port}", daemon.address);
    let program = Program::new(&code::halt());
    let output = run(&["run", "--hosts", &hosts, "--memory", "size=16M", "--kernel", &program.path()]);
    assert_eq!(output.status, 1);
    assert!(
        output.error_line().contains("already runs here")
            || output.error_line().contains("already has a node here")
    );
    daemon.stop();
}
