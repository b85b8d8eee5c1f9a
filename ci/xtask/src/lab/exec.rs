//! Runs commands inside a lab host through its agent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use tessera_lab_agent::{encode_command, read_frame, write_frame, Kind, MAX_PAYLOAD};

/// The way to the agent of one host.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    port: u16,
}

/// What a running command has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes of its standard output.
    Out(Vec<u8>),
    /// Bytes of its standard error.
    Err(Vec<u8>),
    /// It ended with this status, or with 128 plus the number of a signal.
    Exit(i32),
}

/// All that a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit status, or 128 plus the number of a signal.
    pub status: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Remote {
    /// The agent behind this port of 127.0.0.1.
    pub fn new(port: u16) -> Self {
        Self { port }
    }

    /// Starts a command. It is killed when the result is dropped before its end.
    ///
    /// # Errors
    /// When the agent cannot be reached.
    pub fn start(self, command: &[String]) -> Result<RemoteCommand> {
        let mut stream = self.connect()?;
        write_frame(&mut stream, Kind::Run, &encode_command(command))
            .context("the lab host's agent is gone")?;
        let mut from = stream.try_clone()?;
        let (sender, events) = sync_channel(64);
        std::thread::spawn(move || loop {
            let event = next_event(&mut from);
            let last = !matches!(event, Ok(Event::Out(_) | Event::Err(_)));
            if sender.send(event).is_err() || last {
                return;
            }
        });
        Ok(RemoteCommand { stream, events })
    }

    /// Runs a command without input to its end.
    ///
    /// # Errors
    /// When the agent cannot be reached, the command not be started, or it takes longer than `limit`.
    pub fn run(self, command: &[String], limit: Duration) -> Result<Said> {
        let mut running = self.start(command)?;
        running.end_input()?;
        let deadline = Instant::now() + limit;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match running.next(deadline).with_context(|| format!("in the lab host: {}", command.join(" ")))? {
                Event::Out(bytes) => out.extend(bytes),
                Event::Err(bytes) => err.extend(bytes),
                Event::Exit(status) => {
                    let [out, err] = [out, err].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    return Ok(Said { status, out, err });
                }
            }
        }
    }

    /// Runs a line of shell to its end and gives its output.
    ///
    /// # Errors
    /// As [`Remote::run`]; and when its exit status is not 0.
    pub fn shell(self, line: &str, limit: Duration) -> Result<String> {
        let said = self.run(&["sh", "-c", line].map(str::to_owned), limit)?;
        ensure!(said.status == 0, "status {} in the lab host: {line}\n{}{}", said.status, said.out, said.err);
        Ok(said.out)
    }

    /// Writes a file into the host.
    ///
    /// # Errors
    /// When it cannot be read here or written there.
    pub fn put(self, from: &Path, to: &str, permissions: u32) -> Result<()> {
        let mut file =
            std::fs::File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mut stream = self.connect()?;
        let request = [&permissions.to_le_bytes(), to.as_bytes()].concat();
        write_frame(&mut stream, Kind::Put, &request)?;
        let mut buffer = vec![0; MAX_PAYLOAD];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => write_frame(&mut stream, Kind::Data, &buffer[..count])?,
            }
        }
        write_frame(&mut stream, Kind::End, &[])?;
        match next_event(&mut stream)? {
            Event::Exit(0) => Ok(()),
            other => bail!("the lab host did not write {to}: {other:?}"),
        }
    }

    fn connect(self) -> Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .with_context(|| format!("cannot reach the lab host's agent at 127.0.0.1:{}", self.port))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn next_event(from: &mut TcpStream) -> Result<Event> {
    let (kind, payload) = read_frame(from).context("the lab host's agent is gone")?;
    match kind {
        Kind::Out => Ok(Event::Out(payload)),
        Kind::Err => Ok(Event::Err(payload)),
        Kind::Exit => {
            let status = payload.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok(Event::Exit(i32::from_le_bytes(status)))
        }
        Kind::Failed => bail!("{}", String::from_utf8_lossy(&payload)),
        other => bail!("unexpected {other:?} from the lab host's agent"),
    }
}

/// A command that runs inside a lab host.
pub struct RemoteCommand {
    stream: TcpStream,
    events: Receiver<Result<Event>>,
}

impl RemoteCommand {
    /// Waits for the next thing that the command has to tell.
    ///
    /// # Errors
    /// When the deadline passes, the agent is gone, or the command could not be started.
    pub fn next(&mut self, deadline: Instant) -> Result<Event> {
        match self.next_before(deadline) {
            Ok(Some(event)) => Ok(event),
            Ok(None) => bail!("time is up"),
            Err(error) => Err(error),
        }
    }

    /// Like [`RemoteCommand::next`], but a deadline that passes is no error: then there is `None`.
    ///
    /// # Errors
    /// When the agent is gone or the command could not be started.
    pub fn next_before(&mut self, deadline: Instant) -> Result<Option<Event>> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => event.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the command has already ended"),
        }
    }

    /// Gives the command these bytes as standard input.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn input(&mut self, bytes: &[u8]) -> Result<()> {
        write_frame(&mut self.stream, Kind::Data, bytes).context("the lab host's agent is gone")
    }

    /// Ends the command's standard input.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn end_input(&mut self) -> Result<()> {
        write_frame(&mut self.stream, Kind::End, &[]).context("the lab host's agent is gone")
    }

    /// Passes this process's standard input on, from a thread, until it ends.
    ///
    /// # Errors
    /// When the connection cannot be shared with the thread.
    pub fn pass_input(&mut self) -> Result<()> {
        let mut stream = self.stream.try_clone()?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
                if write_frame(&mut stream, Kind::Data, &buffer[..count]).is_err() {
                    return;
                }
            }
            let _ = write_frame(&mut stream, Kind::End, &[]);
        });
        Ok(())
    }

    /// Passes output on to this process's own until the command ends; gives its exit status.
    ///
    /// # Errors
    /// When it takes longer than until the deadline, or the agent is gone.
    pub fn pass_output(&mut self, deadline: Instant) -> Result<i32> {
        loop {
            match self.next(deadline)? {
                Event::Out(bytes) => {
                    let mut out = io::stdout().lock();
                    out.write_all(&bytes)?;
                    out.flush()?;
                }
                Event::Err(bytes) => io::stderr().write_all(&bytes)?,
                Event::Exit(status) => return Ok(status),
            }
        }
    }
}

impl Drop for RemoteCommand {
    fn drop(&mut self) {
        // The agent sees the end of the connection and kills the command, if it still runs.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
