//! What the pager's link to another node goes over: shared memory if both run on one machine and may, else the TCP
//! connection that was made between them.
//!
//! The connection comes first in either case. It went through the other's daemon and is thus as trusted as any; over it the
//! two agree on a Unix socket, over which the memory comes. Each looks who is at the other end of that: another user of the
//! machine is turned away. If it does not work, because the two are in different containers for example, the connection
//! itself is the link.
//!
//! ```text
//! dials                                  accepts
//! Invitation, listens       --------->   connects to the socket
//!                           <---------   Answer
//! gives the memory          ---socket->  maps it
//!                           <---------   Answer
//! ```

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Instant;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use tessera_dsm::link::session::Side;
use tessera_dsm::link::{Link, SharedLink, TcpLink};
use tessera_dsm::NodeId;
use thiserror::Error;
use tracing::info;

use crate::control::ending::tidy;
use crate::control::frame::{self, FrameError, FrameReader};
use crate::control::guest::{GuestId, GuestSpec, Transport};

/// Most bytes in a frame of the agreement.
const AGREEMENT_BYTES_MAX: usize = 4096;

/// Where the one who dials listens: an abstract Unix socket with this number in its name.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Invitation(u128);

/// What came of a step; if nothing, why, for the other side to know.
type Step<T> = Result<T, String>;

/// Why there is no link over a connection.
#[derive(Debug, Error)]
pub enum TransportError {
    /// Memory cannot be shared, and nothing else was allowed.
    #[error("they cannot share memory: {0}")]
    Unshared(String),
    /// The other node did not say what it must say.
    #[error("while agreeing on shared memory: {0}")]
    Agreement(#[from] FrameError),
    /// The connection cannot be used.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// The pager's link to `peer` over a connection on which nothing was sent since the Welcome. Waits for the other node
/// until the deadline, which calls this too.
///
/// # Errors
/// Why there is none; the connection is closed.
pub(super) fn data_link(
    spec: &GuestSpec,
    peer: NodeId,
    stream: TcpStream,
    by: Instant,
) -> Result<Box<dyn Link>, TransportError> {
    if !spec.may_share_memory(peer) {
        return Ok(Box::new(TcpLink::new(stream)?));
    }
    let shared = match Side::of(spec.me, peer) {
        Side::Dials => invite(&stream, by)?,
        Side::Accepts => follow(&stream, by)?,
    };
    match shared {
        Ok(link) => {
            info!("link to {peer}: shared memory");
            Ok(Box::new(link))
        }
        Err(why) if spec.links.transport == Transport::Shared => Err(TransportError::Unshared(tidy(&why))),
        Err(why) => {
            info!("link to {peer}: TCP, because memory cannot be shared: {}", tidy(&why));
            Ok(Box::new(TcpLink::new(stream)?))
        }
    }
}

/// The side that dials: makes the memory.
fn invite(mut stream: &TcpStream, by: Instant) -> Result<Step<SharedLink>, FrameError> {
    let invitation = Invitation(GuestId::random()?.0);
    // If nobody listens the other side finds nobody, and says so.
    let address = SocketAddr::from_abstract_name(name(invitation.0));
    let listener = address.and_then(|address| UnixListener::bind_addr(&address));
    frame::write(&mut stream, &invitation)?;
    let mut answers = FrameReader::with_limit(stream, AGREEMENT_BYTES_MAX);
    if let Err(why) = read_answer(&mut answers, by)? {
        return Ok(Err(why));
    }
    let offered = listener.and_then(|listener| accept_own_user(&listener, by)).and_then(SharedLink::offer);
    // Without memory, its socket is closed, and the other side says so.
    let answer = read_answer(&mut answers, by)?;
    Ok(answer.and_then(|()| offered.map_err(|error| error.to_string())))
}

/// The side that accepts: takes the memory.
fn follow(stream: &TcpStream, by: Instant) -> Result<Step<SharedLink>, FrameError> {
    let invitation = FrameReader::with_limit(stream, AGREEMENT_BYTES_MAX).read::<Invitation>(Some(by))?;
    let text = |error: io::Error| error.to_string();
    let connected = connect(invitation).and_then(of_own_user).map_err(text);
    let socket = match answer(stream, connected)? {
        Ok(socket) => socket,
        // Nobody waits for a second answer.
        Err(why) => return Ok(Err(why)),
    };
    answer(stream, SharedLink::join(socket, by).map_err(text))
}

/// Tells the other side whether a step was taken.
fn answer<T>(mut stream: &TcpStream, step: Step<T>) -> Result<Step<T>, FrameError> {
    let step = step.map_err(|why| tidy(&why));
    frame::write(&mut stream, &step.as_ref().map(|_| ()))?;
    Ok(step)
}

fn read_answer(answers: &mut FrameReader<&TcpStream>, by: Instant) -> Result<Step<()>, FrameError> {
    answers.read(Some(by))
}

fn name(number: u128) -> String {
    format!("tessera-link-{number:032x}")
}

/// Connects to who listens there. Never waits: somebody else may have filled the queue.
fn connect(Invitation(number): Invitation) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new_abstract_name(name(number).as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// Lets a socket pass whose other end is a process of this one's user.
fn of_own_user(socket: UnixStream) -> io::Result<UnixStream> {
    let (theirs, own) = (rustix::net::sockopt::socket_peercred(&socket)?.uid, rustix::process::geteuid());
    match theirs == own {
        true => Ok(socket),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the nodes belong to different users ({} and {})", own.as_raw(), theirs.as_raw()),
        )),
    }
}

/// The first connection that comes from a process of this one's user.
fn accept_own_user(listener: &UnixListener, by: Instant) -> io::Result<UnixStream> {
    loop {
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        listener.set_nonblocking(true)?;
        match listener.accept() {
            Ok((socket, _)) => {
                if let Ok(socket) = of_own_user(socket) {
                    return Ok(socket);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::guest::tests::spec;
    use std::io::{IoSlice, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let dials = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (dials, listener.accept().expect("accept").0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Node `me` of two on one machine.
    fn node(me: u8, transport: Transport) -> GuestSpec {
        let mut spec = spec(2);
        spec.me = NodeId(me);
        spec.links.transport = transport;
        spec
    }

    /// The links that two nodes make over a connection: that of node 1, which dials, and that of node 0.
    fn both(dials: Transport, accepts: Transport) -> [Result<Box<dyn Link>, TransportError>; 2] {
        let (one, other) = connection();
        let thread = std::thread::spawn(move || data_link(&node(0, accepts), NodeId(1), other, soon()));
        let dialled = data_link(&node(1, dials), NodeId(0), one, soon());
        [dialled, thread.join().expect("no panic")]
    }

    /// Whether a link is a TCP connection.
    fn is_tcp(link: &dyn Link) -> bool {
        rustix::net::sockopt::socket_domain(link.descriptor()).expect("a socket") != AddressFamily::UNIX
    }

    fn carries(mut links: [Box<dyn Link>; 2]) {
        for (from, to) in [(0, 1), (1, 0)] {
            assert_eq!(links[from].send(&[IoSlice::new(b"hello")]).expect("room"), 5);
            let mut into = [0; 16];
            let bytes = loop {
                match links[to].receive(&mut into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    taken => break taken.expect("bytes"),
                }
            };
            assert_eq!(&into[..bytes], b"hello");
        }
    }

    #[test]
    fn nodes_on_one_machine_share_memory_unless_told_otherwise() {
        for (transport, tcp) in [(Transport::Auto, false), (Transport::Shared, false), (Transport::Tcp, true)]
        {
            let links = both(transport, transport).map(|link| link.expect("a link"));
            assert!(links.iter().all(|link| is_tcp(&**link) == tcp), "{transport:?}");
            carries(links);
        }
    }

    #[test]
    fn nodes_on_different_machines_use_the_connection() {
        let (stream, _other) = connection();
        let mut spec = node(0, Transport::Auto);
        spec.hosts[1].boot_id = "another machine".into();
        assert!(is_tcp(&*data_link(&spec, NodeId(1), stream, soon()).expect("a link")));
    }

    /// A peer that dials and cannot be reached by its socket.
    fn invite_to_nowhere(accepts: Transport) -> (Result<Box<dyn Link>, TransportError>, TcpStream) {
        let (mut one, other) = connection();
        frame::write(&mut one, &Invitation(GuestId::random().expect("urandom").0)).expect("sent");
        let link = data_link(&node(0, accepts), NodeId(1), other, soon());
        FrameReader::new(&one)
            .read::<Step<()>>(Some(soon()))
            .expect("an answer")
            .expect_err("it cannot be reached");
        (link, one)
    }

    #[test]
    fn who_cannot_be_reached_by_its_socket_is_spoken_to_over_the_connection() {
        let (link, one) = invite_to_nowhere(Transport::Auto);
        // Nothing of the agreement is left over on it.
        carries([link.expect("a link"), Box::new(TcpLink::new(one).expect("link"))]);
        let (link, _) = invite_to_nowhere(Transport::Shared);
        assert!(matches!(link, Err(TransportError::Unshared(_))));
    }

    #[test]
    fn who_declines_is_spoken_to_over_the_connection() {
        let (one, mut other) = connection();
        let thread = std::thread::spawn(move || data_link(&node(1, Transport::Auto), NodeId(0), one, soon()));
        FrameReader::new(&other).read::<Invitation>(Some(soon())).expect("an invitation");
        frame::write(&mut other, &Step::<()>::Err("not\nhere".into())).expect("sent");
        let link = thread.join().expect("no panic").expect("a link");
        carries([link, Box::new(TcpLink::new(other).expect("link"))]);
    }

    #[test]
    fn who_accepts_and_does_not_come_or_sends_nonsense_is_no_link() {
        let (one, mut other) = connection();
        let by = Instant::now() + Duration::from_millis(100);
        let thread = std::thread::spawn(move || data_link(&node(1, Transport::Auto), NodeId(0), one, by));
        frame::write(&mut other, &Step::Ok(())).expect("sent");
        let error = thread.join().expect("no panic").err().expect("nobody came");
        assert!(
            matches!(error, TransportError::Agreement(FrameError::TimedOut | FrameError::Closed)),
            "{error}"
        );
        for nonsense in [&b"\xff\xff\xff\xff"[..], b"\x03\0\0\0abc", b"\0\0\0\0"] {
            let (mut one, other) = connection();
            one.write_all(nonsense).expect("sent");
            drop(one);
            data_link(&node(0, Transport::Auto), NodeId(1), other, soon()).err().expect("nonsense");
        }
    }
}
