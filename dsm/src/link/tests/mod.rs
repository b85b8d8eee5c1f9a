//! Tests of links and of the connections over them.

mod conformance;
mod frames;
mod resume;

use std::io::{self, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;

use super::{Link, RoomSign, SharedLink, TcpLink, UnixLink};

/// Nothing here takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(60);

/// The two ends of a link.
type Ends = (Box<dyn Link>, Box<dyn Link>);

fn tcp() -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let far = listener.accept().expect("accept").0;
    // Else the kernel grows them for as long as a test can send.
    sockopt::set_socket_send_buffer_size(&near, 256 << 10).expect("a buffer of that size");
    sockopt::set_socket_recv_buffer_size(&far, 256 << 10).expect("a buffer of that size");
    (Box::new(TcpLink::new(near).expect("link")), Box::new(TcpLink::new(far).expect("link")))
}

fn unix() -> Ends {
    let (near, far) = UnixStream::pair().expect("pair");
    (Box::new(UnixLink::new(near).expect("link")), Box::new(UnixLink::new(far).expect("link")))
}

fn shared() -> Ends {
    let (near, far) = UnixStream::pair().expect("pair");
    let near = SharedLink::offer(near).expect("memory");
    (Box::new(near), Box::new(SharedLink::join(far, Instant::now() + HANG).expect("memory")))
}

/// What `epoll` would tell of the descriptor within `limit`.
fn readiness(fd: BorrowedFd<'_>, wanted: PollFlags, limit: Duration) -> PollFlags {
    let mut fds = [PollFd::new(&fd, wanted)];
    let limit: Timespec = limit.try_into().expect("fits");
    rustix::event::poll(&mut fds, Some(&limit)).expect("poll");
    fds[0].revents()
}

/// Waits until the link can do what `wanted` says.
fn await_readiness(link: &dyn Link, wanted: PollFlags) {
    await_fd(link.descriptor(), wanted);
}

/// Waits until there may be room. Where bytes tell of it, they are taken by somebody else.
fn await_room(link: &dyn Link) {
    await_readiness(
        link,
        match link.room_sign() {
            RoomSign::Writable => PollFlags::OUT,
            RoomSign::Readable => PollFlags::IN,
        },
    );
}

/// The same of a link's descriptor.
fn await_fd(fd: BorrowedFd<'_>, wanted: PollFlags) {
    let told = readiness(fd, wanted, HANG);
    assert!(told.intersects(wanted | PollFlags::HUP | PollFlags::ERR), "told of {told:?}, not of {wanted:?}");
}

/// How many bytes the link took; none if it would have to wait.
fn offer(link: &mut dyn Link, parts: &[IoSlice<'_>]) -> usize {
    match link.send(parts) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => panic!("the link broke: {error}"),
    }
}

/// Waits for bytes; none means that the link has ended.
fn take(link: &mut dyn Link, into: &mut [u8]) -> usize {
    loop {
        match link.receive(into) {
            Ok(bytes) => return bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => await_readiness(link, PollFlags::IN),
            Err(error) => panic!("the link broke: {error}"),
        }
    }
}

/// A small generator of pseudo-random numbers (xorshift64*). Its seed is printed; `TESSERA_SEED` sets it.
pub(crate) struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let seed =
            std::env::var("TESSERA_SEED").ok().map_or(0x11_4b5, |text| text.parse().expect("a number"));
        println!("TESSERA_SEED={seed}");
        Random::seeded(seed)
    }

    /// With a seed that whoever calls this prints.
    pub fn seeded(seed: u64) -> Self {
        // Small seeds are spread, and zero would stay zero.
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}
