//! The devices that the user gave to the guest, on the home node's PCI bus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tessera_devices::block::{self, DiskError, RawDisk, Writes};
use tessera_devices::pci::window::WindowError;
use tessera_devices::pci::{MemoryWindow, PciRoot, RootError};
use tessera_devices::ram::{GuestRam, NodeRam};
use tessera_devices::virtio::transport::layout::BAR_BYTES;
use tessera_devices::virtio::{Engine, Model, VirtioError, VirtioParts, VirtioPci};
use tessera_devices::{BusError, MsiSink, Platform};
use tessera_dsm::Layout;
use thiserror::Error;

use crate::boot::pci_window;
use crate::control::devices::{DeviceSpec, DiskAccess, DiskSpec};

/// How long to wait for an image that another program uses: a guest that is started anew may be ahead of the end of its
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
    Disk(Arc<RawDisk>, DiskSpec),
}

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
            DeviceSpec::Disk(disk) => Ok(Opened::Disk(Arc::new(open_disk(disk)?), disk.clone())),
        };
        Ok(HomeDevices { opened: specs.iter().map(open).collect::<Result<_, DeviceError>>()?, ram })
    }

    /// Puts them on a bus of `platform`.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub(super) fn install(
        self,
        platform: Platform,
        layout: &Layout,
        msi: &Arc<dyn MsiSink>,
    ) -> Result<Platform, DeviceError> {
        let window = pci_window(layout);
        let (mut root, mut places) = (PciRoot::default(), MemoryWindow::new(window.clone())?);
        for (number, opened) in self.opened.into_iter().enumerate() {
            let (model, engine) = opened.into_device()?;
            let name = format!("{}{number}", model.kind.name());
            let parts = VirtioParts {
                ram: self.ram.clone() as Arc<dyn GuestRam>,
                msi: msi.clone(),
                bar_address: places.place(BAR_BYTES)?,
            };
            root.add(VirtioPci::new(&name, model, engine, parts)?)?;
        }
        Ok(platform.with_pci(root, window)?)
    }
}

impl Opened {
    fn into_device(self) -> Result<(Model, Box<dyn Engine>), DeviceError> {
        match self {
            Opened::Disk(disk, spec) => Ok(block::device(disk, &spec.serial)?),
        }
    }
}

fn open_disk(spec: &DiskSpec) -> Result<RawDisk, DiskError> {
    let writes = match spec.access {
        DiskAccess::ReadWrite => Writes::Allowed,
        DiskAccess::ReadOnly => Writes::Refused,
    };
    let deadline = Instant::now() + IN_USE_LIMIT;
    loop {
        match RawDisk::open(&spec.path, writes) {
            Err(DiskError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(IN_USE_PAUSE),
            opened => return opened,
        }
    }
}
