//! The agent that runs inside a lab host: carries out what `cargo xtask` asks for, one request a connection.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tessera_lab_agent::{decode_command, read_frame, write_frame, Kind, PORT};

/// The writing half of a connection, shared by the threads that carry output and error.
type Reply = Arc<Mutex<TcpStream>>;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                thread::spawn(move || serve(stream));
            }
            Err(error) => eprintln!("lab agent: accept: {error}"),
        }
    }
}

fn serve(mut stream: TcpStream) {
    let reply = match stream.set_nodelay(true).and_then(|()| stream.try_clone()) {
        Ok(half) => Arc::new(Mutex::new(half)),
        Err(error) => return eprintln!("lab agent: connection: {error}"),
    };
    let outcome = match read_frame(&mut stream) {
        Ok((Kind::Run, payload)) => run(stream, &payload, &reply),
        Ok((Kind::Put, payload)) => put(&mut stream, &payload),
        Ok((kind, _)) => Err(io::Error::other(format!("{kind:?} does not start a request"))),
        Err(_) => return,
    };
    // The client may have gone; then there is nobody to tell.
    let _ = match outcome {
        Ok(status) => send(&reply, Kind::Exit, &status.to_le_bytes()),
        Err(error) => send(&reply, Kind::Failed, error.to_string().as_bytes()),
    };
}

fn send(reply: &Reply, kind: Kind, payload: &[u8]) -> io::Result<()> {
    write_frame(&mut *reply.lock().unwrap_or_else(PoisonError::into_inner), kind, payload)
}

/// Runs the command in a process group of its own and waits for it; a client that goes away kills the group.
fn run(stream: TcpStream, payload: &[u8], reply: &Reply) -> io::Result<i32> {
    let command = decode_command(payload)?;
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::other(format!("cannot run {}: {error}", command[0])))?;
    let group = child.id();
    let outputs =
        [carry(child.stdout.take(), Kind::Out, reply), carry(child.stderr.take(), Kind::Err, reply)];
    let input = child.stdin.take();
    thread::spawn(move || feed(stream, input, group));
    let status = wait(&mut child)?;
    for output in outputs {
        let _ = output.join();
    }
    Ok(status)
}

fn wait(child: &mut Child) -> io::Result<i32> {
    let status = child.wait()?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Passes on what the client sends as input until it ends it; kills the command when the client has gone.
fn feed(mut stream: TcpStream, input: Option<ChildStdin>, group: u32) {
    let mut input = input;
    loop {
        match read_frame(&mut stream) {
            Ok((Kind::Data, bytes)) => {
                let written = input.as_mut().map(|pipe| pipe.write_all(&bytes).and_then(|()| pipe.flush()));
                if matches!(written, Some(Err(_))) {
                    input = None;
                }
            }
            Ok(_) => input = None,
            Err(_) => {
                // SAFETY: `kill` takes no pointers. The group may be gone already: then it says ESRCH.
                unsafe { libc::kill(-(group as i32), libc::SIGKILL) };
                return;
            }
        }
    }
}

/// Carries one stream of the command to the client as it comes.
fn carry<R: Read + Send + 'static>(from: Option<R>, kind: Kind, reply: &Reply) -> thread::JoinHandle<()> {
    let reply = Arc::clone(reply);
    thread::spawn(move || {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if send(&reply, kind, &buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// Writes the file that follows.
fn put(stream: &mut TcpStream, payload: &[u8]) -> io::Result<i32> {
    let (mode, path) = payload
        .split_first_chunk::<4>()
        .and_then(|(mode, path)| Some((u32::from_le_bytes(*mode), std::str::from_utf8(path).ok()?)))
        .ok_or_else(|| io::Error::other("malformed request to write a file"))?;
    let named = |error: io::Error| io::Error::other(format!("cannot write {path}: {error}"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).map_err(named)?;
    loop {
        match read_frame(stream)? {
            (Kind::Data, bytes) => file.write_all(&bytes).map_err(named)?,
            (Kind::End, _) => break,
            (kind, _) => return Err(io::Error::other(format!("{kind:?} inside a file"))),
        }
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(named)?;
    Ok(0)
}
