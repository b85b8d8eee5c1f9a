//! The Unix socket where the server listens.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

/// Most callers that wait to be taken.
const BACKLOG: i32 = 16;

/// Why nobody can listen there.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody does.
    #[error("cannot serve the API at {0}: another process does")]
    InUse(PathBuf),
    /// The operating system says no.
    #[error("cannot serve the API at {path}: {source}", path = .path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is listened to. Its file is removed with it.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ApiSocket {
    /// Listens at `path`, for this user alone. A file that a process has left is replaced.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn listen(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Listen { path: path.into(), source };
        if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            if UnixStream::connect(path).is_ok() {
                return Err(SocketError::InUse(path.into()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = bind_private(path).map_err(failed)?;
        Ok(ApiSocket { listener, path: path.into() })
    }

    /// The socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// Nobody else can connect at any moment: only who may use it finds it listening.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // Somebody may have removed it.
        let _gone = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_listens_for_its_user_alone_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("api");
        let socket = ApiSocket::listen(&path).expect("listens");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(ApiSocket::listen(&path), Err(SocketError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
        // What a killed process leaves.
        drop(UnixListener::bind(&path).expect("bind"));
        assert!(path.exists());
        drop(ApiSocket::listen(&path).expect("listens"));
        std::fs::write(&path, "mine").expect("write");
        assert!(ApiSocket::listen(&path).is_err(), "a file is not replaced");
        assert_eq!(std::fs::read(&path).expect("still there"), b"mine");
    }
}
