//! The daemon's port under whatever is thrown at it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{run, until, Daemon};

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(&daemon.address).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream
}

/// Sends bytes; what comes back until the daemon closes.
fn answer_to(daemon: &Daemon, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(daemon);
    stream.write_all(bytes).expect("write");
    let mut back = Vec::new();
    // A reset is as good an end as any.
    let _closed = stream.read_to_end(&mut back);
    back
}

/// A frame with this body.
fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

fn still_serves(daemon: &Daemon) {
    let output = run(&["list", "--host", &daemon.address]);
    assert!(output.status == 0 && output.stdout.starts_with("GUEST"), "{output:?}");
}

#[test]
fn garbage_takes_one_log_line_and_closes() {
    let daemon = Daemon::start();
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\0",
        &frame(b"tessera\n"),
        &frame(b"tessera\n\x03\0\0\0\xff\xff\xff"),
        &frame(&[0xaa; 300]),
        &[0xff; 64],
    ];
    for bytes in garbage {
        assert_eq!(answer_to(&daemon, bytes), b"", "{bytes:?}");
    }
    until("the log lines", || daemon.log().matches("not the protocol of Tessera").count() == garbage.len());
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn a_frame_that_is_announced_too_large_is_refused_without_waiting_for_it() {
    let daemon = Daemon::start();
    let begin = Instant::now();
    assert_eq!(answer_to(&daemon, &(1u32 << 30).to_le_bytes()), b"");
    assert!(begin.elapsed() < Duration::from_secs(4), "it waited");
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn another_version_is_told_ours() {
    let daemon = Daemon::start();
    let reply = answer_to(&daemon, &frame(b"tessera\n\x63\0\0\0\0"));
    assert_eq!(reply[4..16], *b"tessera\n\x03\0\0\0", "{reply:?}");
    daemon.await_log("protocol version 99");
    daemon.stop();
}

#[test]
fn silence_and_trickles_are_cut_off() {
    let daemon = Daemon::start();
    let begin = Instant::now();
    let mut silent = connect(&daemon);
    let mut trickling = connect(&daemon);
    let trickle = std::thread::spawn(move || {
        let hello = frame(&[0; 4000]);
        for byte in &hello {
            if trickling.write_all(&[*byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    assert_eq!(silent.read(&mut [0; 1]).expect("closed"), 0);
    assert!(begin.elapsed() >= Duration::from_secs(4), "it was cut off early");
    assert!(trickle.join().expect("no panic"), "a trickle kept the connection open");
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn hundreds_of_idle_connections_do_not_stop_the_daemon() {
    let daemon = Daemon::start();
    let idle: Vec<TcpStream> = (0..400).map(|_| connect(&daemon)).collect();
    daemon.await_log("others have not said what they want");
    drop(idle);
    until("room", || run(&["list", "--host", &daemon.address]).status == 0);
    daemon.stop();
}

#[test]
fn a_guest_that_does_not_exist_cannot_be_joined_or_asked() {
    let daemon = Daemon::start();
    for verb in
        [&["stats"][..], &["stop"], &["power-button"], &["vcpu", "list"], &["vcpu", "move", "0", "--to", "1"]]
    {
        let mut arguments = verb.to_vec();
        arguments.extend(["--host", &daemon.address]);
        let output = run(&arguments);
        assert_eq!((output.status, output.error_line()), (1, "tessera: no guest runs here"));
        arguments.extend(["--guest", "g"]);
        assert_eq!(run(&arguments).error_line(), "tessera: no guest named g runs here");
    }
    daemon.stop();
}

#[test]
fn a_port_in_use_and_a_public_address_are_refused() {
    let daemon = Daemon::start();
    let output = run(&["node", "--listen", &daemon.address]);
    assert_eq!(output.status, 1);
    let line = output.error_line();
    assert!(
        line.contains(&format!("cannot listen on {}", daemon.address)) && line.contains("in use"),
        "{line}"
    );
    assert!(line.contains("choose one with --listen"), "{line}");
    daemon.stop();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let output = run(&["node", "--listen", address]);
        assert_eq!(output.status, 1);
        let line = output.error_line();
        assert!(line.contains("do not authenticate each other yet") && line.contains("--public"), "{line}");
    }
}

#[test]
fn a_public_daemon_says_what_that_means() {
    let daemon = Daemon::start_with(&["--listen", "0.0.0.0:0", "--public"]);
    assert!(daemon.log().contains("do not authenticate each other yet"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_daemon_logs_json_if_asked() {
    let daemon = Daemon::start_with(&["--log-format", "json"]);
    for line in daemon.stop().stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    }
}
