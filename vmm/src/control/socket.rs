//! TCP connections as all parts here want them: without delay, with a short life after the other side's
//! death, and dialled within a deadline.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::sockopt;
use serde::Serialize;

use super::address::HostAddress;
use super::frame::{self, FrameError};
use super::hello::{self, HelloError, Role};

/// A launcher or a worker that says nothing to the other for this long is gone.
pub const DEAD_AFTER: Duration = Duration::from_secs(4);
/// How long the other side may take to accept a connection and to answer a Hello.
pub const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// Sends small frames at once, and notices within seconds when the other host is gone, even if nothing is
/// sent.
///
/// # Errors
/// When the operating system refuses an option.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// As [`tune`], and gives up on data that is not acknowledged, or not taken by the other side's reader, for half of
/// the time after which a silent node is lost: the other half is for another connection. For connections between nodes;
/// a launcher may be suspended by its user for longer than that.
///
/// # Errors
/// When the operating system refuses an option.
pub fn tune_peer(stream: &TcpStream, lost_after: Duration) -> io::Result<()> {
    tune(stream)?;
    let limit = lost_after / 2;
    sockopt::set_tcp_user_timeout(stream, limit.as_millis() as u32)?;
    stream.set_write_timeout(Some(limit))
}

/// Connects to `address`, trying each of its socket addresses until the deadline.
///
/// # Errors
/// The last error of those that the addresses gave.
pub fn connect(address: &HostAddress, by: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in address.resolve()? {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&socket, left) {
            Ok(stream) => {
                tune(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to a daemon and says what for; comes back when it said Welcome.
///
/// # Errors
/// When it cannot be reached, is of another version, or refuses.
pub fn dial(address: &HostAddress, role: &Role, by: Instant) -> Result<TcpStream, HelloError> {
    let io = |error| HelloError::Frame(FrameError::Io(error));
    let mut stream = connect(address, by).map_err(io)?;
    stream.set_write_timeout(Some(HELLO_LIMIT)).map_err(io)?;
    hello::send(&mut stream, role)?;
    hello::receive_reply(stream.try_clone().map_err(io)?, by)?;
    stream.set_write_timeout(None).and_then(|()| stream.set_read_timeout(None)).map_err(io)?;
    Ok(stream)
}

/// Whether the other side has closed or reset the connection, as far as is known without reading.
pub fn hung_up(stream: &TcpStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// Ends both directions, so that whoever waits on a clone of the stream wakes. It may already have ended.
pub fn hang_up(stream: &TcpStream) {
    let _already = stream.shutdown(Shutdown::Both);
}

/// Writes whole frames to a connection from any thread.
#[derive(Debug)]
pub struct FrameWriter {
    socket: TcpStream,
    writing: Mutex<()>,
    failure: OnceLock<String>,
}

impl FrameWriter {
    /// Writes to `socket`, of which others may hold clones to read from.
    pub fn new(socket: TcpStream) -> Self {
        FrameWriter { socket, writing: Mutex::new(()), failure: OnceLock::new() }
    }

    /// The connection, for its one reader.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends a frame. Blocks while the other side takes nothing, for as long as the socket's write limit
    /// says.
    ///
    /// # Errors
    /// When the frame is too large, or the other side is lost. The connection is then ended, so that its
    /// reader learns of it: part of a frame may be out, and nothing that followed could be understood.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), FrameError> {
        let bytes = frame::encode(message)?;
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = (&self.socket).write_all(&bytes);
        drop(writing);
        if let Err(error) = &written {
            // The first failure is the one that explains the others.
            let _first = self.failure.set(frame::plain(error));
            hang_up(&self.socket);
        }
        Ok(written?)
    }

    /// Why sending failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}
