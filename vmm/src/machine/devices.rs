//! The devices that the user gave to the guest, on the home node's PCI bus.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_devices::block::{self, BackingFiles, Disk, DiskError, Qcow2Disk, RawDisk, Writes};
use tessera_devices::console::{self, ConsoleError, ConsoleInput, ConsoleOutput};
use tessera_devices::entropy::{self, EntropyError, EntropySource};
use tessera_devices::net::{self, MacAddress, NetBackend, NetError, StreamBackend, TapBackend};
use tessera_devices::p9::{self, Changes, Folder, P9Error};
use tessera_devices::pci::window::WindowError;
use tessera_devices::pci::{MemoryWindow, PciRoot, RootError};
use tessera_devices::ram::{GuestRam, NodeRam};
use tessera_devices::virtio::transport::layout::BAR_BYTES;
use tessera_devices::virtio::{Device, VirtioError, VirtioParts, VirtioPci};
use tessera_devices::vsock::{self, HostSockets, VsockError};
use tessera_devices::{BusError, MsiSink, Platform, PlatformEvents};
use tessera_dsm::Layout;
use thiserror::Error;

use crate::boot::pci_window;
use crate::control::devices::{ConsoleSpec, DeviceSpec, DiskAccess, DiskFormat, DiskSpec, NetLink, NetSpec};
use crate::host::tap;

/// How long to wait for an image or a tap device that another program uses: a guest that is started anew may be ahead of the end of its
/// last life.
const IN_USE_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait before it is tried again.
const IN_USE_PAUSE: Duration = Duration::from_millis(50);

/// Why a device cannot be had.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// A disk's image cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A network cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A source of random numbers cannot be used.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A console cannot be made.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Sockets between guest and host cannot be had.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// A folder cannot be shared.
    #[error(transparent)]
    Folder(#[from] P9Error),
    /// A console's file cannot be written.
    #[error("cannot write the console's file {path}: {source}", path = .path.display())]
    ConsoleFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The PCI bus is full.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A device finds no addresses.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A device could not be made.
    #[error(transparent)]
    Virtio(#[from] VirtioError),
    /// A place is taken.
    #[error("a device cannot be placed: {0}")]
    Bus(#[from] BusError),
}

/// A device whose files are open.
enum Opened {
    Disk(Arc<dyn Disk>, DiskSpec),
    Net(Box<dyn NetBackend>, MacAddress),
    Rng(EntropySource),
    Console(ConsolePlace),
    Vsock(u32, HostSockets),
    Folder(Folder, String),
}

/// Where a console's output goes.
enum ConsolePlace {
    Launcher,
    File(File),
    Nowhere,
}

/// A console's output goes where the serial console's does.
struct ToLauncher(Arc<dyn PlatformEvents>);

impl ConsoleOutput for ToLauncher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.console(bytes);
    }
}

/// A console's output goes into a file, or nowhere.
struct ToFile(Option<File>);

impl ConsoleOutput for ToFile {
    fn write(&mut self, bytes: &[u8]) {
        let written = self.0.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        if let Err(error) = written {
            tracing::warn!("the console's file cannot be written any more: {error}");
            self.0 = None;
        }
    }
}

/// A device, and where what is typed goes if it goes there.
type Made = (Device, Option<Arc<ConsoleInput>>);

/// The home node's devices before they have a machine.
pub struct HomeDevices {
    opened: Vec<Opened>,
    ram: Arc<NodeRam>,
}

impl HomeDevices {
    /// Opens what the devices need, so that what cannot be had is known before a guest is brought up. They will borrow
    /// guest memory of `ram`.
    ///
    /// # Errors
    /// When something cannot be opened.
    pub fn open(specs: &[DeviceSpec], ram: Arc<NodeRam>) -> Result<Self, DeviceError> {
        let open = |spec: &DeviceSpec| match spec {
            DeviceSpec::Disk(disk) => Ok(Opened::Disk(open_disk(disk)?, disk.clone())),
            DeviceSpec::Net(net) => Ok(Opened::Net(open_net(net)?, MacAddress::new(net.address)?)),
            DeviceSpec::Rng(rng) => Ok(Opened::Rng(EntropySource::open(&rng.source)?)),
            DeviceSpec::Console(console) => Ok(Opened::Console(open_console(console)?)),
            DeviceSpec::Vsock(vsock) => {
                let listen = || HostSockets::listen(&vsock.socket);
                Ok(Opened::Vsock(vsock.cid, open_when_free(listen)?))
            }
            DeviceSpec::Folder(folder) => {
                let changes = match folder.access {
                    DiskAccess::ReadWrite => Changes::Allowed,
                    DiskAccess::ReadOnly => Changes::Refused,
                };
                Ok(Opened::Folder(Folder::open(&folder.path, changes)?, folder.tag.clone()))
            }
        };
        Ok(HomeDevices { opened: specs.iter().map(open).collect::<Result<_, DeviceError>>()?, ram })
    }

    /// Puts them on a bus of `platform`.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub(super) fn install(
        self,
        mut platform: Platform,
        layout: &Layout,
        msi: &Arc<dyn MsiSink>,
        events: &Arc<dyn PlatformEvents>,
    ) -> Result<Platform, DeviceError> {
        let window = pci_window(layout);
        let (mut root, mut places) = (PciRoot::default(), MemoryWindow::new(window.clone())?);
        for (number, opened) in self.opened.into_iter().enumerate() {
            let (device, keyboard) = opened.make(events)?;
            if let Some(input) = keyboard {
                platform = platform.with_console(input);
            }
            let name = format!("{}{number}", device.model.kind.name());
            let parts = VirtioParts {
                ram: self.ram.clone() as Arc<dyn GuestRam>,
                msi: msi.clone(),
                bar_address: places.place(BAR_BYTES)?,
            };
            root.add(VirtioPci::new(&name, device, parts)?)?;
        }
        Ok(platform.with_pci(root, window)?)
    }
}

impl Opened {
    fn make(self, events: &Arc<dyn PlatformEvents>) -> Result<Made, DeviceError> {
        let to_file =
            |file| console::device(Box::new(ToFile(file))).map(|(device, _nobody_types)| (device, None));
        Ok(match self {
            Opened::Disk(disk, spec) => (block::device(disk, &spec.serial)?, None),
            Opened::Net(backend, address) => (net::device(address, backend), None),
            Opened::Rng(source) => (entropy::device(source), None),
            Opened::Console(ConsolePlace::Launcher) => {
                let (device, input) = console::device(Box::new(ToLauncher(events.clone())))?;
                (device, Some(input))
            }
            Opened::Console(ConsolePlace::File(file)) => to_file(Some(file))?,
            Opened::Console(ConsolePlace::Nowhere) => to_file(None)?,
            Opened::Vsock(cid, sockets) => (vsock::device(cid, sockets), None),
            Opened::Folder(folder, tag) => (p9::device(folder, &tag)?, None),
        })
    }
}

fn open_net(spec: &NetSpec) -> Result<Box<dyn NetBackend>, NetError> {
    match &spec.link {
        NetLink::Socket(path) => Ok(Box::new(StreamBackend::connect(path)?)),
        NetLink::Tap(name) => match open_when_free(|| tap::open(name)) {
            Ok(tap) => Ok(Box::new(TapBackend::new(tap))),
            Err(source) => Err(NetError::Backend { what: format!("the tap device {name}"), source }),
        },
    }
}

fn open_console(spec: &ConsoleSpec) -> Result<ConsolePlace, DeviceError> {
    match spec {
        ConsoleSpec::Launcher => Ok(ConsolePlace::Launcher),
        ConsoleSpec::Nowhere => Ok(ConsolePlace::Nowhere),
        ConsoleSpec::File(path) => match File::create(path) {
            Ok(file) => Ok(ConsolePlace::File(file)),
            Err(source) => Err(DeviceError::ConsoleFile { path: path.clone(), source }),
        },
    }
}

fn open_disk(spec: &DiskSpec) -> Result<Arc<dyn Disk>, DiskError> {
    let writes = match spec.access {
        DiskAccess::ReadWrite => Writes::Allowed,
        DiskAccess::ReadOnly => Writes::Refused,
    };
    let path = &spec.path;
    let qcow2 = |backing| open_when_free(|| Qcow2Disk::open(path, writes, backing));
    Ok(match spec.format {
        DiskFormat::Unsaid => Arc::new(open_when_free(|| RawDisk::open_unsaid(path, writes))?),
        DiskFormat::Raw => Arc::new(open_when_free(|| RawDisk::open(path, writes))?),
        DiskFormat::Qcow2 => Arc::new(qcow2(BackingFiles::Refused)?),
        DiskFormat::Qcow2OnOthers => Arc::new(qcow2(BackingFiles::Allowed)?),
    })
}

/// Whether something cannot be had because somebody else has it.
trait InUse {
    fn is_in_use(&self) -> bool;
}

impl InUse for DiskError {
    fn is_in_use(&self) -> bool {
        matches!(self, DiskError::InUse(_))
    }
}

impl InUse for VsockError {
    fn is_in_use(&self) -> bool {
        matches!(self, VsockError::InUse(_))
    }
}

impl InUse for io::Error {
    fn is_in_use(&self) -> bool {
        self.kind() == io::ErrorKind::ResourceBusy
    }
}

/// Tries until whoever has it lets go, but not for long.
fn open_when_free<T, E: InUse>(open: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + IN_USE_LIMIT;
    loop {
        match open() {
            Err(error) if error.is_in_use() && Instant::now() < deadline => std::thread::sleep(IN_USE_PAUSE),
            opened => return opened,
        }
    }
}
