//! The memory of a shared link, and how it gets from the one who makes it to the other.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use vm_memory::{FileOffset, MmapRegion};

use super::ring::REGION_BYTES;

/// The byte with which the memory comes.
const GIVEN: u8 = b'm';
/// `f_type` of a memfd without huge pages (`statfs(2)`).
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// A memfd whose size stays: no access to the mapping can hit its end (SIGBUS).
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// New memory, all zeros.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn make() -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("tessera-link", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, REGION_BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// Maps memory of a link, made here or elsewhere, with all its pages.
///
/// # Errors
/// If it is not what [`make`] makes.
pub(super) fn map(memory: OwnedFd) -> io::Result<Arc<MmapRegion>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a link's memory {what}"));
    // Only a memfd has such seals. One with huge pages may fail to give a page when it is touched.
    let seals = rustix::fs::fcntl_get_seals(&memory).map_err(|_| wrong("is no memfd"))?;
    if !seals.contains(SEALS) {
        return Err(wrong("may change its size"));
    }
    if rustix::fs::fstatfs(&memory)?.f_type != TMPFS_MAGIC {
        return Err(wrong("has pages of another kind"));
    }
    let bytes = rustix::fs::fstat(&memory)?.st_size;
    if bytes != REGION_BYTES as i64 {
        return Err(wrong(&format!("has {bytes} bytes, not {REGION_BYTES}")));
    }
    let file = FileOffset::new(File::from(memory), 0);
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    let region = MmapRegion::build(Some(file), REGION_BYTES, protection, flags).map_err(io::Error::other)?;
    Ok(Arc::new(region))
}

/// Sends the memory over a socket.
///
/// # Errors
/// If the socket does not take it at once.
pub(super) fn give(socket: &UnixStream, memory: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [memory.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(&[GIVEN])], &mut control, flags)?;
    Ok(())
}

/// Receives what [`give`] sent.
///
/// # Errors
/// `WouldBlock` if nothing has come; anything else if it is not one descriptor.
pub(super) fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "no memory came for the link");
    let mut given = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // (Whatever is more is closed.)
            given = descriptors.last();
        }
    }
    given.filter(|_| byte == [GIVEN]).ok_or_else(wrong)
}
