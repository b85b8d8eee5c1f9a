//! Shared links with a hostile other side. (What every link must do is in `link/tests/conformance.rs`.)

use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use vm_memory::{Bytes, VolatileMemory};

use super::ring::{REGION_BYTES, RING_BYTES};
use super::*;
use crate::link::session::Side;
use crate::link::tests::Random;
use crate::link::{Connection, LinkError};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A node's link, and all that its peer has: the socket and the memory.
fn with_hostile_peer() -> (SharedLink, UnixStream, std::sync::Arc<vm_memory::MmapRegion>) {
    let (here, there) = UnixStream::pair().expect("pair");
    let link = SharedLink::offer(here).expect("offer");
    await_input(&there, soon()).expect("the memory");
    let memory = memory::receive(&there).expect("a descriptor");
    (link, there, memory::map(memory).expect("mapped"))
}

/// What [`SharedLink::join`] makes of a descriptor.
fn join_with(memory: &OwnedFd) -> ErrorKind {
    let (here, there) = UnixStream::pair().expect("pair");
    memory::give(&there, memory).expect("sent");
    SharedLink::join(here, soon()).expect_err("refused").kind()
}

fn memfd(bytes: u64, flags: MemfdFlags, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", flags | MemfdFlags::ALLOW_SEALING).expect("memfd");
    rustix::fs::ftruncate(&fd, bytes).expect("size");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}

#[test]
fn memory_that_could_be_taken_away_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let plain = MemfdFlags::empty();
    let whole = REGION_BYTES as u64;
    // It could be made shorter under the mapping.
    assert_eq!(join_with(&memfd(whole, plain, SealFlags::GROW)), ErrorKind::InvalidData);
    assert_eq!(join_with(&memfd(whole - 4096, plain, all)), ErrorKind::InvalidData);
    assert_eq!(join_with(&memfd(whole + 4096, plain, all)), ErrorKind::InvalidData);
    let no_memfd = std::fs::OpenOptions::new().read(true).write(true).open("/dev/zero").expect("open");
    assert_eq!(join_with(&no_memfd.into()), ErrorKind::InvalidData);
    assert_eq!(join_with(&OwnedFd::from(UnixStream::pair().expect("pair").0)), ErrorKind::InvalidData);
}

#[test]
fn memory_that_may_not_be_written_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let (here, there) = UnixStream::pair().expect("pair");
    memory::give(&there, &memfd(REGION_BYTES as u64, MemfdFlags::empty(), all)).expect("sent");
    SharedLink::join(here, soon()).expect_err("refused");
}

#[test]
fn who_sends_no_memory_is_refused() {
    let (here, there) = UnixStream::pair().expect("pair");
    rustix::net::send(there.as_fd(), b"m", SendFlags::empty()).expect("sent");
    assert_eq!(SharedLink::join(here, soon()).expect_err("no memory").kind(), ErrorKind::InvalidData);
    let (here, there) = UnixStream::pair().expect("pair");
    drop(there);
    SharedLink::join(here, soon()).expect_err("gone");
    let (here, _there) = UnixStream::pair().expect("pair");
    assert_eq!(SharedLink::join(here, Instant::now()).expect_err("late").kind(), ErrorKind::TimedOut);
}

#[test]
fn positions_that_cannot_be_end_the_link() {
    for lie in [1 + RING_BYTES as u64, u64::MAX / 2, 1 << 40] {
        let (mut link, _socket, memory) = with_hostile_peer();
        // How far the peer has written, and how far it has taken.
        memory
            .get_atomic_ref::<std::sync::atomic::AtomicU64>(256)
            .expect("word")
            .store(lie, Ordering::SeqCst);
        assert_eq!(link.receive(&mut [0; 64]).expect_err("a lie").kind(), ErrorKind::InvalidData);
        memory.get_atomic_ref::<std::sync::atomic::AtomicU64>(64).expect("word").store(lie, Ordering::SeqCst);
        assert_eq!(link.send(&[IoSlice::new(b"x")]).expect_err("a lie").kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn a_connection_survives_whatever_is_in_the_memory() {
    let mut random = Random::new();
    for _ in 0..200 {
        let (link, socket, memory) = with_hostile_peer();
        let mut connection = Connection::new(Box::new(link), Side::Accepts);
        let ended = (0..200).find_map(|_| {
            // Words about the rings, and bytes in them; often such that something seems to have come.
            let at = [64, 128, 192, 256, 320, 384, 448, 4096 + RING_BYTES][random.below(8)] + random.below(8);
            let byte = [0, 1, 32, 0xff, random.below(256) as u8][random.below(5)];
            memory.as_volatile_slice().write_slice(&[byte], at).expect("inside");
            if random.below(4) == 0 {
                let _full = rustix::net::send(socket.as_fd(), &[7; 100], SendFlags::DONTWAIT);
            }
            round(&mut connection).err()
        });
        // Noise is no frame, so that sooner or later it is at fault; what counts is that nobody panics.
        if let Some(error) = ended {
            assert!(
                matches!(error, LinkError::Broken(_) | LinkError::Frame(_) | LinkError::Session(_)),
                "{error}"
            );
        }
    }
}

fn round(connection: &mut Connection) -> Result<(), LinkError> {
    let _more = connection.fill()?;
    while connection.next_frame()?.is_some() {}
    let _due = connection.confirm()?;
    let _blocked = connection.flush()?;
    Ok(())
}

#[test]
fn a_peer_that_dies_leaves_what_it_had_sent_and_then_the_end() {
    let (mut link, socket, memory) = with_hostile_peer();
    let mut peer = Writer::new(memory, Direction::ToMaker);
    assert!(peer.put(&[IoSlice::new(b"last words")]).expect("room").ring, "the first bytes must ring");
    // Without a bell, as when it is killed in between.
    drop(socket);
    let mut into = [0; 64];
    assert_eq!(link.receive(&mut into).expect("bytes"), 10);
    assert_eq!(&into[..10], b"last words");
    assert_eq!(link.receive(&mut into).expect("the end"), 0);
    let error = std::iter::repeat_with(|| link.send(&[IoSlice::new(&[0; 1000])])).find_map(Result::err);
    assert_eq!(error.expect("endless").kind(), ErrorKind::BrokenPipe);
}

#[test]
fn as_long_as_nobody_waits_no_bell_rings() {
    let (here, there) = UnixStream::pair().expect("pair");
    let mut near = SharedLink::offer(here).expect("offer");
    let mut far = SharedLink::join(there, soon()).expect("join");
    let mut into = [0; 100];
    for _ in 0..100 {
        assert_eq!(near.send(&[IoSlice::new(&[1; 200])]).expect("room"), 200);
        // There is always more than the reader has room for.
        assert_eq!(far.receive(&mut into).expect("bytes"), 100);
    }
    let rung = rustix::net::recv(&far.socket, &mut [0; 64], RecvFlags::DONTWAIT).expect("the first one").0;
    assert_eq!(rung, 1, "bells for a reader that was awake");
}
