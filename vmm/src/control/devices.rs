//! The devices that a user gives to a guest. They live on the home node: every path is one of its host.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tessera_devices::net::MacAddress;
use tessera_devices::p9;
use tessera_devices::vsock;
use thiserror::Error;

use crate::host::tap;

/// Most devices of a guest: a PCI bus has room for one more, the host bridge.
pub const DEVICES_MAX: usize = 31;
/// Most bytes in a path.
const PATH_BYTES_MAX: usize = 4096;
/// Most bytes in a disk's serial number (virtio 1.2, 5.2.6.1).
const SERIAL_BYTES_MAX: usize = 20;

/// Whether a guest may write a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DiskAccess {
    /// It may.
    ReadWrite,
    /// It may only read.
    ReadOnly,
}

/// How an image holds a disk's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DiskFormat {
    /// Nobody has said so: as they are, unless it begins as another format does.
    Unsaid,
    /// As they are.
    Raw,
    /// As QEMU's qcow2 has it, all in one file.
    Qcow2,
    /// The same; what is not in it is in other images, which it names.
    Qcow2OnOthers,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The image: a file or a block device.
    pub path: PathBuf,
    /// How it holds the bytes.
    pub format: DiskFormat,
    /// Whether it may be written.
    pub access: DiskAccess,
    /// Its serial number, as the guest sees it.
    pub serial: String,
}

/// What becomes of what a guest writes to its virtio console.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ConsoleSpec {
    /// The launcher prints it, and what is typed there goes to this console instead of to the serial one.
    Launcher,
    /// It is written to a file, from its beginning.
    File(PathBuf),
    /// Nothing.
    Nowhere,
}

/// A source of random numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RngSpec {
    /// The file that they are read from.
    pub source: PathBuf,
}

/// What a network card is connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NetLink {
    /// A tap device of this name.
    Tap(String),
    /// A Unix stream socket, where passt or the like listens.
    Socket(PathBuf),
}

/// A network card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetSpec {
    /// What it is connected to.
    pub link: NetLink,
    /// Its hardware address.
    pub address: [u8; 6],
}

/// Sockets between guest and host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VsockSpec {
    /// The guest's address.
    pub cid: u32,
    /// The socket where the guest is called; those of the host's ports have this path, `_` and the port.
    pub socket: PathBuf,
}

/// A folder of the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FolderSpec {
    /// Which.
    pub path: PathBuf,
    /// Under which name the guest mounts it.
    pub tag: String,
    /// Whether it may change what is in it.
    pub access: DiskAccess,
}

/// A device, in the order of the guest's PCI slots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DeviceSpec {
    /// A disk.
    Disk(DiskSpec),
    /// A network card.
    Net(NetSpec),
    /// A source of random numbers.
    Rng(RngSpec),
    /// A console besides the serial one.
    Console(ConsoleSpec),
    /// Sockets between guest and host.
    Vsock(VsockSpec),
    /// A folder of the host.
    Folder(FolderSpec),
}

/// What is wrong with a guest's devices.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DeviceSpecError {
    /// There are too many.
    #[error("a guest has at most {DEVICES_MAX} devices, not {0}")]
    Count(usize),
    /// There are several consoles.
    #[error("a guest has at most one console besides the serial one, not {0}")]
    Consoles(usize),
    /// There are several socket devices: Linux drives one.
    #[error("a guest has at most one vsock device, not {0}")]
    Vsocks(usize),
    /// An address cannot be a guest's.
    #[error("a guest's vsock address is from {min} to {max}, not {0}", min = vsock::CID_MIN, max = vsock::CID_MAX)]
    Cid(u32),
    /// A socket's path leaves no room for ports.
    #[error("a vsock path has at most {max} bytes, unlike {0:?}", max = vsock::PATH_BYTES_MAX)]
    VsockPath(PathBuf),
    /// A folder's name in the guest is empty or too long, or not its own.
    #[error("a folder's tag has 1 to {max} bytes and is no other's, unlike {0:?}", max = p9::TAG_BYTES_MAX)]
    Tag(String),
    /// A path is empty, too long, or depends on who reads it.
    #[error("{0:?} is no absolute path of at most {PATH_BYTES_MAX} bytes on the home node's host")]
    Path(PathBuf),
    /// A text is no name of a tap device.
    #[error("{0:?} is no name of a tap device")]
    Tap(String),
    /// A hardware address cannot be.
    #[error("{0:02x?} is no hardware address of one card")]
    Address([u8; 6]),
    /// A serial number cannot be.
    #[error("a disk's serial number has at most {SERIAL_BYTES_MAX} printable ASCII characters, not {0:?}")]
    Serial(String),
}

impl DeviceSpec {
    /// The path that it names, if any.
    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            DeviceSpec::Disk(disk) => Some(&mut disk.path),
            DeviceSpec::Net(NetSpec { link: NetLink::Socket(path), .. }) => Some(path),
            DeviceSpec::Net(NetSpec { link: NetLink::Tap(_), .. }) => None,
            DeviceSpec::Rng(rng) => Some(&mut rng.source),
            DeviceSpec::Console(ConsoleSpec::File(path)) => Some(path),
            DeviceSpec::Console(ConsoleSpec::Launcher | ConsoleSpec::Nowhere) => None,
            DeviceSpec::Vsock(vsock) => Some(&mut vsock.socket),
            DeviceSpec::Folder(folder) => Some(&mut folder.path),
        }
    }

    /// What is behind it, for people.
    pub fn behind(&self) -> String {
        match self {
            DeviceSpec::Disk(disk) => disk.path.display().to_string(),
            DeviceSpec::Net(NetSpec { link: NetLink::Tap(name), .. }) => format!("tap {name}"),
            DeviceSpec::Net(NetSpec { link: NetLink::Socket(path), .. }) => path.display().to_string(),
            DeviceSpec::Rng(rng) => rng.source.display().to_string(),
            DeviceSpec::Console(ConsoleSpec::Launcher) => "launcher".into(),
            DeviceSpec::Console(ConsoleSpec::File(path)) => path.display().to_string(),
            DeviceSpec::Console(ConsoleSpec::Nowhere) => "nothing".into(),
            DeviceSpec::Vsock(vsock) => format!("{} (address {})", vsock.socket.display(), vsock.cid),
            DeviceSpec::Folder(folder) => format!("{} (tag {})", folder.path.display(), folder.tag),
        }
    }

    fn check(&self) -> Result<(), DeviceSpecError> {
        match self {
            DeviceSpec::Disk(disk) => {
                check_path(&disk.path)?;
                let fits = disk.serial.len() <= SERIAL_BYTES_MAX
                    && disk.serial.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
                fits.then_some(()).ok_or_else(|| DeviceSpecError::Serial(disk.serial.clone()))
            }
            DeviceSpec::Net(net) => net.check(),
            DeviceSpec::Rng(rng) => check_path(&rng.source),
            DeviceSpec::Console(ConsoleSpec::File(path)) => check_path(path),
            DeviceSpec::Console(ConsoleSpec::Launcher | ConsoleSpec::Nowhere) => Ok(()),
            DeviceSpec::Vsock(vsock) => vsock.check(),
            DeviceSpec::Folder(folder) => check_path(&folder.path),
        }
    }
}

impl NetSpec {
    fn check(&self) -> Result<(), DeviceSpecError> {
        if MacAddress::new(self.address).is_err() {
            return Err(DeviceSpecError::Address(self.address));
        }
        match &self.link {
            NetLink::Socket(path) => check_path(path),
            NetLink::Tap(name) if tap::is_name(name) => Ok(()),
            NetLink::Tap(name) => Err(DeviceSpecError::Tap(name.clone())),
        }
    }
}

impl VsockSpec {
    fn check(&self) -> Result<(), DeviceSpecError> {
        if !(vsock::CID_MIN..=vsock::CID_MAX).contains(&self.cid) {
            return Err(DeviceSpecError::Cid(self.cid));
        }
        if self.socket.as_os_str().len() > vsock::PATH_BYTES_MAX {
            return Err(DeviceSpecError::VsockPath(self.socket.clone()));
        }
        check_path(&self.socket)
    }
}

fn check_path(path: &std::path::Path) -> Result<(), DeviceSpecError> {
    let bytes = path.as_os_str().as_bytes();
    let fits = path.is_absolute() && bytes.len() <= PATH_BYTES_MAX && !bytes.contains(&0);
    fits.then_some(()).ok_or_else(|| DeviceSpecError::Path(path.into()))
}

/// Checks what decoding could not.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(devices: &[DeviceSpec]) -> Result<(), DeviceSpecError> {
    if devices.len() > DEVICES_MAX {
        return Err(DeviceSpecError::Count(devices.len()));
    }
    let consoles = devices.iter().filter(|device| matches!(device, DeviceSpec::Console(_))).count();
    if consoles > 1 {
        return Err(DeviceSpecError::Consoles(consoles));
    }
    let vsocks = devices.iter().filter(|device| matches!(device, DeviceSpec::Vsock(_))).count();
    if vsocks > 1 {
        return Err(DeviceSpecError::Vsocks(vsocks));
    }
    let mut tags = BTreeSet::new();
    for device in devices {
        device.check()?;
        if let DeviceSpec::Folder(FolderSpec { tag, .. }) = device {
            let fits = (1..=p9::TAG_BYTES_MAX).contains(&tag.len()) && tags.insert(tag);
            fits.then_some(()).ok_or_else(|| DeviceSpecError::Tag(tag.clone()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str, serial: &str) -> DeviceSpec {
        let access = DiskAccess::ReadWrite;
        let format = DiskFormat::Unsaid;
        DeviceSpec::Disk(DiskSpec { path: path.into(), format, access, serial: serial.into() })
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let net = |name: &str, first| {
            let link = NetLink::Tap(name.into());
            DeviceSpec::Net(NetSpec { link, address: [first, 0, 0, 0, 0, 1] })
        };
        assert_eq!(check(&[net("tap0", 2)]), Ok(()));
        assert!(matches!(check(&[net("a/b", 2)]), Err(DeviceSpecError::Tap(_))));
        assert!(matches!(check(&[net("tap0", 1)]), Err(DeviceSpecError::Address(_))));
        let rng = |path: &str| DeviceSpec::Rng(RngSpec { source: path.into() });
        assert_eq!(check(&[rng("/dev/urandom"), DeviceSpec::Console(ConsoleSpec::Launcher)]), Ok(()));
        assert!(matches!(check(&[rng("urandom")]), Err(DeviceSpecError::Path(_))));
        let file = DeviceSpec::Console(ConsoleSpec::File("log".into()));
        assert!(matches!(check(&[file]), Err(DeviceSpecError::Path(_))));
        let consoles = vec![DeviceSpec::Console(ConsoleSpec::Nowhere); 2];
        assert_eq!(check(&consoles), Err(DeviceSpecError::Consoles(2)));
        let vsock = |cid, path: &str| DeviceSpec::Vsock(VsockSpec { cid, socket: path.into() });
        assert_eq!(check(&[vsock(3, "/v")]), Ok(()));
        assert_eq!(check(&[vsock(3, "/v"), vsock(4, "/w")]), Err(DeviceSpecError::Vsocks(2)));
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(check(&[vsock(cid, "/v")]), Err(DeviceSpecError::Cid(cid)));
        }
        assert!(matches!(check(&[vsock(3, "v")]), Err(DeviceSpecError::Path(_))));
        let long = format!("/{}", "v".repeat(96));
        assert!(matches!(check(&[vsock(3, &long)]), Err(DeviceSpecError::VsockPath(_))));
        let folder = |path: &str, tag: &str| {
            let access = DiskAccess::ReadOnly;
            DeviceSpec::Folder(FolderSpec { path: path.into(), tag: tag.into(), access })
        };
        assert_eq!(check(&[folder("/a", "a"), folder("/a", "b")]), Ok(()));
        assert!(matches!(check(&[folder("a", "a")]), Err(DeviceSpecError::Path(_))));
        for tags in [["", "b"], ["a", "a"], [&"x".repeat(256), "b"]] {
            assert!(
                matches!(check(&tags.map(|tag| folder("/a", tag))), Err(DeviceSpecError::Tag(_))),
                "{tags:?}"
            );
        }
        assert_eq!(check(&vec![disk("/a", "x y-1"); 31]), Ok(()));
        assert_eq!(check(&vec![disk("/a", ""); 32]), Err(DeviceSpecError::Count(32)));
        for path in ["", "a", "./a", "/a\0", &format!("/{}", "a".repeat(4096))] {
            assert!(matches!(check(&[disk(path, "")]), Err(DeviceSpecError::Path(_))), "{path:?}");
        }
        for serial in ["123456789012345678901", "a\n", "\u{e4}"] {
            assert!(matches!(check(&[disk("/a", serial)]), Err(DeviceSpecError::Serial(_))), "{serial:?}");
        }
    }
}
