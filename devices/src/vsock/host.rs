//! The Unix sockets on the host.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::error::VsockError;

/// Where callers come in, and where ports of the host are. The socket file goes when this does.
#[derive(Debug)]
pub struct HostSockets {
    listener: UnixListener,
    path: PathBuf,
}

impl HostSockets {
    /// Listens at `path`. A socket that somebody left there is replaced.
    ///
    /// # Errors
    /// When another program listens there, or nothing can be made there.
    pub fn listen(path: &Path) -> Result<Self, VsockError> {
        let failed = |source| VsockError::Listen { path: path.into(), source };
        let is_left = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        if is_left {
            // One that answers belongs to somebody who lives.
            if UnixStream::connect(path).is_ok() {
                return Err(VsockError::InUse(path.into()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let sockets = HostSockets { listener, path: path.into() };
        sockets.listener.set_nonblocking(true).map_err(failed)?;
        Ok(sockets)
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next caller, if one waits.
    pub(super) fn accept(&self) -> Option<UnixStream> {
        let (socket, _) = self.listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    }

    /// Connects to a port of the host. Does not wait: who has no room for callers is as good as absent.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(Path::new(&path))?)?;
        Ok(socket.into())
    }
}

impl Drop for HostSockets {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}
