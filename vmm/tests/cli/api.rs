//! The API, asked as Cloud Hypervisor's own client (`ch-remote`) asks: the same bytes in the same pieces, and answers read
//! as it reads them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{json, Value};
use tempfile::TempDir;

use crate::support::{code, start, start_with_stdin, text, until, Daemon, Program, Running, HANG};

/// Where the API is.
struct Api {
    _folder: TempDir,
    path: PathBuf,
}

/// An answer as `ch-remote` understands it.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Option<Value>,
}

impl Api {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("api");
        Api { _folder: folder, path }
    }

    /// Starts `tessera run` with this API.
    fn run(&self, more: &[&str]) -> Running {
        let path = text(&self.path);
        let mut arguments = vec!["run", "--memory", "size=16M", "--api-socket", &path];
        arguments.extend(more);
        let running = start(&arguments);
        until("the API", || UnixStream::connect(&self.path).is_ok());
        running
    }

    fn put(&self, verb: &str) -> u16 {
        ask(&self.path, "PUT", verb, None).status
    }

    fn send(&self, verb: &str, body: &Value) -> Answer {
        ask(&self.path, "PUT", verb, Some(&body.to_string()))
    }

    fn get(&self, verb: &str) -> Value {
        let answer = ask(&self.path, "GET", verb, None);
        assert_eq!(answer.status, 200, "{verb}: {answer:?}");
        answer.body.expect("a body")
    }
}

fn ask(path: &Path, method: &str, verb: &str, body: Option<&str>) -> Answer {
    let mut socket = UnixStream::connect(path).expect("connects");
    socket.set_read_timeout(Some(HANG)).expect("limit");
    write!(socket, "{method} /api/v1/{verb} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n").expect("sent");
    if let Some(body) = body {
        write!(socket, "Content-Length: {}\r\n", body.len()).expect("sent");
    }
    socket.write_all(b"\r\n").expect("sent");
    socket.write_all(body.unwrap_or_default().as_bytes()).expect("sent");
    read_answer(&mut socket)
}

/// Reads what has the length that `Content-Length` says, written in just this way; nothing if it is not there.
fn read_answer(socket: &mut UnixStream) -> Answer {
    let mut got = String::new();
    loop {
        let mut piece = [0; 256];
        let count = socket.read(&mut piece).expect("an answer");
        got.push_str(std::str::from_utf8(&piece[..count]).expect("UTF-8"));
        let Some((head, body)) = got.split_once("\r\n\r\n") else {
            assert!(count > 0, "cut off: {got:?}");
            continue;
        };
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
        if body.len() >= length {
            let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("a status");
            let body = (length > 0).then(|| serde_json::from_str(body).expect("JSON"));
            return Answer { status: status.parse().expect("a number"), body };
        }
        assert!(count > 0, "cut off: {got:?}");
    }
}

#[test]
fn a_guest_of_the_command_line_is_paused_resumed_restarted_and_ended() {
    // Lines for ever: jmp back over the two writes of seven bytes each, and itself.
    let program = Program::new(&[code::out(0xe9, b'x'), code::out(0xe9, b'\n'), vec![0xeb, 0xf0]].concat());
    let api = Api::new();
    let running = api.run(&["--name", "web", "--kernel", &program.path()]);
    until("a running guest", || api.put("vm.pause") == 204);
    assert_eq!(api.get("vm.info")["state"], "Paused");
    // What was printed before may still be on its way.
    let mut printed = usize::MAX;
    until("silence", || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut printed, running.stdout_bytes()) == printed
    });
    assert_eq!(api.put("vm.resume"), 204);
    until("more output", || running.stdout_bytes() > printed);
    assert_eq!(api.get("vm.info")["config"]["tessera"]["name"], "web");
    assert_eq!(api.get("tessera.vcpus")[0]["node"], 0);
    assert_eq!(api.get("tessera.stats")["guest"], "web");
    assert_eq!(api.get("tessera.devices"), json!([]));
    assert_eq!(api.get("vm.counters"), json!({}));
    assert_eq!(api.put("vm.power-button"), 204);
    let nowhere = api.send("tessera.move-vcpu", &json!({"vcpu": 0, "to": "7"}));
    assert_eq!(nowhere.status, 500, "{nowhere:?}");
    assert_eq!([api.put("vm.reboot"), api.put("vm.shutdown"), api.put("vm.shutdown")], [204, 204, 405]);
    assert_eq!(api.get("vm.info")["state"], "Created");
    assert_eq!([api.put("vm.boot"), api.put("vmm.shutdown")], [204, 204]);
    let output = running.end();
    assert_eq!((output.status, output.stderr.as_str()), (0, ""));
    assert!(!api.path.exists(), "the socket is left");
}

#[test]
fn guests_are_created_over_hosts_and_each_other() {
    let (a, b) = (Daemon::start(), Daemon::start());
    let program = Program::new(&code::halt());
    let image = program.beside("image");
    std::fs::write(&image, [0; 4096]).expect("write");
    let api = Api::new();
    let running = api.run(&[]);
    assert_eq!(api.get("vmm.ping")["pid"], running.pid());
    assert_eq!([api.put("vm.boot"), api.put("vm.delete")], [404, 404]);
    let mut guest = json!({
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "memory": {"size": 32 << 20},
        "payload": {"kernel": image},
        "tessera": {"hosts": [a.address, b.address]},
    });
    assert_eq!(api.send("vm.create", &guest).status, 204);
    let refused = ask(&api.path, "PUT", "vm.boot", None);
    let why = refused.body.expect("why").to_string();
    assert!(refused.status == 500 && why.contains("is no kernel"), "{why}");
    assert_eq!(api.put("vm.delete"), 204);
    guest["payload"]["kernel"] = json!(program.path());
    assert_eq!(api.send("vm.create", &guest).status, 204);
    assert_eq!(api.send("vm.add-disk", &json!({"path": image, "id": "data"})).status, 204);
    assert_eq!(api.put("vm.boot"), 204);
    assert_eq!(api.get("vm.counters")["data"]["pages_borrowed"], 0);
    assert_eq!(api.send("vm.remove-device", &json!({"id": "data"})).status, 501);
    assert_eq!(api.get("tessera.stats")["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!([api.put("vm.pause"), api.put("vm.resume")], [204, 204]);
    assert_eq!(api.put("tessera.stop"), 204);
    let output = running.end();
    assert_eq!(output.status, 13, "{output:?}");
    a.stop();
    b.stop();
}

#[test]
fn what_is_no_request_does_no_harm() {
    let api = Api::new();
    let running = api.run(&[]);
    let long = "x".repeat(300 << 10);
    assert_eq!(ask(&api.path, "PUT", "vm.create", Some(&long)).status, 413);
    assert_eq!(ask(&api.path, "POST", "vm.boot", None).status, 400);
    assert_eq!(ask(&api.path, "PUT", "vm.snapshot", Some("{}")).status, 501);
    assert_eq!(ask(&api.path, "GET", &"y".repeat(4000), None).status, 404);
    for bytes in
        [&b"\0\xff\0\xff"[..], b"GET\r\n\r\n", b"PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
    {
        let mut socket = UnixStream::connect(&api.path).expect("connects");
        socket.write_all(bytes).expect("sent");
        drop(socket);
    }
    let endless = UnixStream::connect(&api.path).expect("connects");
    let head = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(20_000));
    // It is hung up on before the end.
    let _cut = (&endless).write_all(head.as_bytes());
    // More callers than are served at a time, none of whom says anything.
    let silent: Vec<_> = (0..30).map(|_| UnixStream::connect(&api.path)).collect();
    drop(silent);
    assert_eq!(api.get("vmm.ping")["features"], json!([]));
    running.signal(Signal::TERM);
    assert_eq!(running.end().status, 130);
    assert!(!api.path.exists(), "the socket is left");
}

#[test]
fn an_api_that_cannot_be_served_is_one_line() {
    let path = "/nowhere/api";
    let output = start_with_stdin(&["run", "--api-socket", path], std::process::Stdio::null()).end();
    assert_eq!(output.status, 1);
    assert!(output.error_line().contains("cannot serve the API at /nowhere/api"), "{output:?}");
}
