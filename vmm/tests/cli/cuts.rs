//! Guests whose nodes lose their connections to each other, data and control, and get new ones.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tessera_vmm::control::hello::{self, Role};

use crate::spanning::span;
use crate::support::{code, run, start, text, until, Daemon, Output, Program, Running, HANG};

/// Stands in front of a daemon and can cut what goes between nodes.
struct Middle {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Both sockets of each connection between nodes.
    between_nodes: Mutex<Vec<[TcpStream; 2]>>,
    /// Connections between nodes do not get through.
    dark: AtomicBool,
    cuts: AtomicU64,
}

impl Middle {
    fn before(daemon: &Daemon) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let shared = Arc::new(Shared::default());
        let (target, inner) = (daemon.address.clone(), shared.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (target, inner) = (target.clone(), inner.clone());
                std::thread::spawn(move || pass_on(stream, &target, &inner));
            }
        });
        Middle { address, shared }
    }

    fn cut(&self) {
        for sockets in self.shared.between_nodes.lock().expect("no panic").drain(..) {
            for socket in &sockets {
                let _ = socket.shutdown(Shutdown::Both);
            }
            self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Cuts, and lets no new connection through until told otherwise.
    fn darken(&self, dark: bool) {
        self.shared.dark.store(dark, Ordering::SeqCst);
        self.cut();
    }

    fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

fn pass_on(stream: TcpStream, target: &str, shared: &Shared) {
    let Ok(role) = hello::receive(&stream, Instant::now() + HANG) else { return };
    let mut daemon = TcpStream::connect(target).expect("the daemon listens");
    let between_nodes = matches!(role, Role::Peer { .. } | Role::Resume { .. } | Role::Vouch { .. });
    if between_nodes && shared.dark.load(Ordering::SeqCst) {
        // The packets are lost: nobody says anything.
        std::thread::sleep(HANG);
        return;
    }
    stream.set_read_timeout(None).expect("option");
    let _ = (stream.set_nodelay(true), daemon.set_nodelay(true));
    hello::send(&mut daemon, &role).expect("sent");
    let clone = |stream: &TcpStream| stream.try_clone().expect("clone");
    if between_nodes {
        shared.between_nodes.lock().expect("no panic").push([clone(&stream), clone(&daemon)]);
    }
    let back = (clone(&daemon), clone(&stream));
    std::thread::spawn(move || forward(back.0, back.1));
    forward(stream, daemon);
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 3000];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    for socket in [&from, &to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// The general payload, where the tests of whole guests have it.
pub fn payload() -> String {
    let folder = std::env::var_os("TESSERA_PAYLOADS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guest/payload/target/release"),
        PathBuf::from,
    );
    let path = folder.join("tessera-payload");
    assert!(path.exists(), "{} is missing: `cargo xtask test` builds the payloads first", path.display());
    text(&path)
}

/// How often connections went on, by the report.
fn resumed(report: &std::path::Path) -> Vec<u64> {
    let report = std::fs::read_to_string(report).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let nodes = report["lives"][0]["nodes"].as_array().expect("nodes");
    nodes.iter().map(|node| node["traffic"]["links_resumed"].as_u64().expect("a number")).collect()
}

/// How many tests of the payload passed, in a guest that passed.
pub fn results(output: &Output) -> usize {
    assert_eq!(output.status, 0, "{output:?}");
    output
        .stdout
        .lines()
        .filter(|line| line.contains("TESSERA-RESULT") && line.contains("\"ok\":true"))
        .count()
}

/// Runs the payload while all connections between its two nodes are cut again and again and a vCPU moves.
fn pass_with_cuts(words: &str, tests: usize, options: &[&str]) {
    let (a, b) = (Daemon::start(), Daemon::start());
    let middles = [Middle::before(&a), Middle::before(&b)];
    let folder = tempfile::tempdir().expect("tempdir");
    let report = folder.path().join("report");
    let hosts = format!("{},{}", middles[0].address, middles[1].address);
    let (kernel, report_path) = (payload(), text(&report));
    let guest = ["run", "--hosts", &hosts, "--kernel", &kernel, "--cmdline", words, "--cpus", "boot=2"];
    let rest = ["--memory", "size=64M", "--events", "json", "--report", &report_path];
    let running = start(&[&guest[..], &rest, options].concat());
    running.await_stderr("\"started\"");
    let (mut moves, mut to) = (0, 1);
    while !running.stderr().contains("\"ended\"") {
        middles.iter().for_each(Middle::cut);
        std::thread::sleep(Duration::from_millis(80));
        // vCPUs move over the control connections meanwhile.
        let moved = run(&["vcpu", "move", "0", "--to", &to.to_string(), "--host", &a.address]);
        if moved.status == 0 {
            (moves, to) = (moves + 1, 1 - to);
        }
        std::thread::sleep(Duration::from_millis(80));
    }
    let output = running.end();
    assert_eq!(results(&output), tests, "{output:?}");
    let cuts: u64 = middles.iter().map(Middle::cuts).sum();
    println!("{cuts} connections cut, resumed {:?} times, {moves} moves", resumed(&report));
    assert!(resumed(&report).iter().all(|&times| times > 3) && moves > 0, "too little happened");
    [a, b].into_iter().for_each(|daemon| drop(daemon.stop()));
}

#[test]
fn memory_is_right_while_nodes_lose_each_other_again_and_again() {
    pass_with_cuts("test=xadd,xadd_straddle rounds=100000", 2, &["--links", "tcp"]);
}

#[test]
fn memory_is_right_over_shared_memory_while_control_connections_break() {
    pass_with_cuts("test=xadd,xadd_straddle rounds=1000000", 2, &["--links", "shared"]);
}

#[test]
fn memory_is_right_while_all_pagers_of_two_nodes_lose_each_other_again_and_again() {
    let options = ["--links", "tcp", "--pagers", "2", "--stripe-mib", "2"];
    pass_with_cuts("test=xadd,xadd_straddle,mem_touch mb=8 rounds=100000", 3, &options);
}

#[test]
fn interrupts_arrive_once_while_nodes_lose_each_other_again_and_again() {
    pass_with_cuts("test=ipi_count rounds=4000 limit=250", 1, &["--links", "tcp"]);
}

/// A guest over both daemons whose vCPUs do nothing, when it has started.
fn halted(middles: &[Middle; 2], program: &Program, options: &[&str]) -> Running {
    let (hosts, kernel) = (format!("{},{}", middles[0].address, middles[1].address), program.path());
    let words = ["run", "--hosts", &hosts, "--cpus", "boot=2", "--memory", "size=16M", "--events", "json"];
    let running = start(&[&words[..], &["--kernel", &kernel], options].concat());
    running.await_stderr("\"started\"");
    running
}

#[test]
fn a_network_that_is_gone_for_two_seconds_is_waited_for() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let middles = [Middle::before(&a), Middle::before(&b)];
    let program = Program::new(&code::halt());
    // (Longer than any machine stands still.)
    let running = halted(&middles, &program, &["--lost-after-ms", "300000", "--links", "tcp"]);
    middles.iter().for_each(|middle| middle.darken(true));
    std::thread::sleep(Duration::from_secs(2));
    middles.iter().for_each(|middle| middle.darken(false));
    // A question to one node that both must answer.
    let both = || {
        let output = run(&["stats", "--host", &a.address, "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        stats["nodes"].as_array().expect("nodes").len() == 2
    };
    until("an answer of both nodes", both);
    assert_eq!(run(&["stop", "--host", &b.address]).status, 0);
    assert_eq!(running.end().status, 13);
    [a, b].into_iter().for_each(|daemon| drop(daemon.stop()));
}

#[test]
fn a_network_that_is_gone_for_longer_than_the_limit_is_a_lost_node() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let middles = [Middle::before(&a), Middle::before(&b)];
    let program = Program::new(&code::halt());
    let running = halted(&middles, &program, &["--links", "tcp"]);
    let begin = Instant::now();
    middles.iter().for_each(|middle| middle.darken(true));
    let output = running.end();
    assert_eq!(output.status, 12, "{output:?}");
    let line = output.stderr.lines().find(|line| line.starts_with("tessera: node ")).expect("a line");
    assert!(
        line.contains("no new connection could be made") || line.contains("no link worked for"),
        "{line}"
    );
    assert!(begin.elapsed() > Duration::from_secs(2), "it was not waited for: {:?}", begin.elapsed());
    assert!(begin.elapsed() < HANG, "it took {:?}", begin.elapsed());
    [a, b].into_iter().for_each(|daemon| drop(daemon.stop()));
}

/// Whether the daemon's worker has mapped memory of a link.
fn shares_memory(daemon: &Daemon) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.worker())).expect("its mappings");
    maps.contains("memfd:tessera-link")
}

#[test]
fn nodes_on_one_machine_share_memory_unless_told_otherwise() {
    for (links, shared) in [("auto", true), ("tcp", false)] {
        let (a, b) = (Daemon::start(), Daemon::start());
        let program = Program::new(&code::halt());
        let hosts = format!("{},{}", a.address, b.address);
        let kernel = program.path();
        let options = ["--links", links, "--cpus", "boot=2", "--memory", "size=16M", "--events", "json"];
        let mut arguments = vec!["run", "--hosts", &hosts, "--kernel", &kernel];
        arguments.extend(options);
        let running = start(&arguments);
        running.await_stderr("\"started\"");
        assert_eq!((shares_memory(&a), shares_memory(&b)), (shared, shared), "--links {links}");
        assert_eq!(run(&["stop", "--host", &a.address]).status, 0);
        assert_eq!(running.end().status, 13);
        [a, b].into_iter().for_each(|daemon| drop(daemon.stop()));
    }
}

#[test]
fn nodes_that_were_never_apart_resume_nothing() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let running = span(&[&a, &b], "g", &program);
    let output = run(&["stats", "--host", &a.address, "--json"]);
    let stats: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    for node in stats["nodes"].as_array().expect("nodes") {
        assert_eq!(node["traffic"]["links_resumed"], 0);
    }
    assert_eq!(run(&["stop", "--host", &a.address]).status, 0);
    assert_eq!(running.end().status, 13);
    [a, b].into_iter().for_each(|daemon| drop(daemon.stop()));
}
