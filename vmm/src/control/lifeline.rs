//! Between a daemon and its workers: a local socket over which connections are handed on, and whose end tells
//! each of the other's death.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tessera_dsm::link::session::Greeting;
use tessera_dsm::NodeId;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::hello::Channel;
use super::orders::Stage;

/// Most bytes in a message.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// A side that takes no message for this long is stuck.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// From a daemon to a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// With a connection: another node of the guest has connected.
    Peer {
        /// Which.
        from: NodeId,
        /// For what.
        channel: Channel,
    },
    /// With a connection: one of those with another node broke, and this is in its place.
    Resume {
        /// Which node.
        from: NodeId,
        /// For what.
        channel: Channel,
        /// From where on it goes.
        greeting: Greeting,
    },
    /// With a connection: a user has a question.
    Cli,
    /// The daemon is shutting down.
    Shutdown,
}

/// From a worker to its daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// The worker knows what it is for.
    Configured {
        /// Its node.
        node: NodeId,
        /// The guest's hosts.
        hosts: Vec<String>,
    },
    /// A stage was reached.
    Reached(Stage),
}

/// One end. Messages keep their bounds (SOCK_SEQPACKET), so that a connection comes with its message.
#[derive(Debug)]
pub struct Lifeline(UnixStream);

impl Lifeline {
    /// Both ends.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn pair() -> io::Result<(Lifeline, Lifeline)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Lifeline::from_fd(one)?, Lifeline::from_fd(other)?))
    }

    /// An end that was inherited.
    ///
    /// # Errors
    /// When the descriptor is no socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Lifeline> {
        let socket = UnixStream::from(fd);
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        Ok(Lifeline(socket))
    }

    /// The descriptor, to hand it to a child.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the other end is gone or stuck.
    pub fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let bytes = encode(message)?;
        self.0.send_with_fds(&[bytes.as_slice()], &[]).map(drop).map_err(into_io)
    }

    /// Sends a message with a connection. The other end gets a copy of the descriptor.
    ///
    /// # Errors
    /// When the other end is gone or stuck.
    pub fn hand_over<T: Serialize>(&self, message: &T, connection: &impl AsRawFd) -> io::Result<()> {
        let bytes = encode(message)?;
        self.0.send_with_fd(bytes.as_slice(), connection.as_raw_fd()).map(drop).map_err(into_io)
    }

    /// Waits for the next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// When the socket fails or the message is not understood.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        loop {
            match self.0.recv_with_fd(&mut buffer) {
                Ok((0, _)) => return Ok(None),
                Ok((bytes, connection)) => {
                    let message = super::frame::decode(&buffer[..bytes])
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                    return Ok(Some((message, connection.map(OwnedFd::from))));
                }
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) if error.errno() == libc::ECONNRESET => return Ok(None),
                Err(error) => return Err(into_io(error)),
            }
        }
    }

    /// Ends the line in both directions: the other end, and whoever waits on this one, sees its end.
    pub fn hang_up(&self) {
        let _already = self.0.shutdown(std::net::Shutdown::Both);
    }
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    match bytes.len() <= MESSAGE_BYTES_MAX {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long")),
    }
}

fn into_io(error: vmm_sys_util::errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_comes_with_its_message_and_works() {
        let (daemon, worker) = Lifeline::pair().expect("socketpair");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut there = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (here, _) = listener.accept().expect("accept");
        daemon.send(&ToWorker::Shutdown).expect("send");
        daemon.hand_over(&ToWorker::Cli, &here).expect("hand over");
        drop(here);
        let (first, none) = worker.receive::<ToWorker>().expect("receive").expect("message");
        assert!(first == ToWorker::Shutdown && none.is_none());
        let (second, connection) = worker.receive::<ToWorker>().expect("receive").expect("message");
        assert_eq!(second, ToWorker::Cli);
        let mut connection = TcpStream::from(connection.expect("a connection"));
        connection.write_all(b"x").expect("write");
        let mut byte = [0];
        there.read_exact(&mut byte).expect("read");
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn the_end_of_one_side_is_seen_by_the_other() {
        let (daemon, worker) = Lifeline::pair().expect("socketpair");
        drop(daemon);
        assert!(worker.receive::<ToWorker>().expect("end").is_none());
        assert!(worker.send(&FromWorker::Reached(Stage::Running)).is_err());
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        let (daemon, worker) = Lifeline::pair().expect("socketpair");
        daemon.send(&[0xffu8; 9]).expect("send");
        assert!(worker.receive::<ToWorker>().is_err());
    }
}
