//! Devices, as requests and answers have them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tessera_devices::net::MacAddress;

use super::rest::{Rest, Usual, ANYTHING};
use crate::api::reply::Refusal;
use crate::control::devices::{
    ConsoleSpec, DiskAccess, DiskFormat, DiskSpec, FolderSpec, NetLink, NetSpec, RngSpec, VsockSpec,
};
use crate::control::guest::GuestId;

/// A disk (`vm.add-disk`).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DiskConfig {
    /// The image's path.
    pub path: PathBuf,
    /// What the device is called; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether it may only be read.
    #[serde(default)]
    pub readonly: bool,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// `Raw` or `Qcow2`; if absent, raw unless it begins like another format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_type: Option<ImageType>,
    /// Whether it may build on the images that it names.
    #[serde(default)]
    pub backing_files: bool,
    /// How many queues: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_queues: Option<u32>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The format of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ImageType {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's.
    Qcow2,
    /// Nobody has said so.
    Unknown,
}

/// What Cloud Hypervisor's client says of every disk.
const DISK_USUAL: [Usual; 5] = [
    ("queue_size", ANYTHING),
    ("disable_io_uring", ANYTHING),
    ("disable_aio", ANYTHING),
    ("sparse", "true"),
    ("lock_granularity", ANYTHING),
];

/// What Cloud Hypervisor's client says of every network card. (The addresses are what it would give to a tap device that
/// it makes.)
const NET_USUAL: [Usual; 7] = [
    ("queue_size", ANYTHING),
    ("ip", "\"192.168.249.1\""),
    ("mask", "\"255.255.255.0\""),
    ("vhost_mode", "\"Client\""),
    ("offload_tso", "true"),
    ("offload_ufo", "true"),
    ("offload_csum", "true"),
];

impl DiskConfig {
    /// The disk.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn spec(&self) -> Result<DiskSpec, Refusal> {
        self.rest.check("disk.", &DISK_USUAL)?;
        check_queues("disk", self.num_queues, 1)?;
        let format = match (self.image_type, self.backing_files) {
            (Some(ImageType::Qcow2), true) => DiskFormat::Qcow2OnOthers,
            (_, true) => return Err(Refusal::BadRequest("disk.backing_files: only with Qcow2".into())),
            (Some(ImageType::Qcow2), false) => DiskFormat::Qcow2,
            (Some(ImageType::Raw), false) => DiskFormat::Raw,
            (Some(ImageType::Unknown) | None, false) => DiskFormat::Unsaid,
        };
        let access = if self.readonly { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite };
        let serial = self.serial.clone().unwrap_or_default();
        Ok(DiskSpec { path: self.path.clone(), format, access, serial })
    }

    /// A disk that is called `id`.
    pub fn of(id: &str, spec: &DiskSpec) -> Self {
        DiskConfig {
            path: spec.path.clone(),
            id: Some(id.into()),
            readonly: spec.access == DiskAccess::ReadOnly,
            serial: Some(spec.serial.clone()).filter(|serial| !serial.is_empty()),
            image_type: match spec.format {
                DiskFormat::Unsaid => None,
                DiskFormat::Raw => Some(ImageType::Raw),
                DiskFormat::Qcow2 | DiskFormat::Qcow2OnOthers => Some(ImageType::Qcow2),
            },
            backing_files: spec.format == DiskFormat::Qcow2OnOthers,
            ..DiskConfig::default()
        }
    }
}

/// A network card (`vm.add-net`).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NetConfig {
    /// What the device is called; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A tap device's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// A socket's path, where passt or the like listens. (Tessera's own.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Its hardware address; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// How many queues: two, one for each direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_queues: Option<u32>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

impl NetConfig {
    /// The card.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn spec(&self) -> Result<NetSpec, Refusal> {
        self.rest.check("net.", &NET_USUAL)?;
        check_queues("net", self.num_queues, 2)?;
        let link = match (&self.tap, &self.socket) {
            (Some(name), None) => NetLink::Tap(name.clone()),
            (None, Some(path)) => NetLink::Socket(path.clone()),
            _ => return Err(Refusal::BadRequest("net: one of tap and socket is needed".into())),
        };
        let address = match &self.mac {
            Some(text) => text.parse::<MacAddress>().map_err(|_| {
                Refusal::BadRequest("net.mac: this is no hardware address of one card".into())
            })?,
            None => {
                let random = GuestId::random();
                let random =
                    random.map_err(|error| Refusal::Failed(format!("no random numbers: {error}")))?;
                let [a, b, c, d, e, f, ..] = random.0.to_le_bytes();
                MacAddress::made_of([a, b, c, d, e, f])
            }
        };
        Ok(NetSpec { link, address: address.bytes() })
    }

    /// A card that is called `id`.
    pub fn of(id: &str, spec: &NetSpec) -> Self {
        let (tap, socket) = match &spec.link {
            NetLink::Tap(name) => (Some(name.clone()), None),
            NetLink::Socket(path) => (None, Some(path.clone())),
        };
        let mac = spec.address.map(|byte| format!("{byte:02x}")).join(":");
        NetConfig { id: Some(id.into()), tap, socket, mac: Some(mac), ..NetConfig::default() }
    }
}

/// A source of random numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RngConfig {
    /// The file that they are read from.
    pub src: PathBuf,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

impl RngConfig {
    /// The source.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn spec(&self) -> Result<RngSpec, Refusal> {
        self.rest.check("rng.", &[])?;
        Ok(RngSpec { source: self.src.clone() })
    }
}

/// Where a console's output goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConsoleConfig {
    /// How.
    pub mode: ConsoleMode,
    /// Into which file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How a console's output goes somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ConsoleMode {
    /// There is no console.
    Off,
    /// It goes nowhere.
    Null,
    /// To the launcher.
    Tty,
    /// Into a file.
    File,
}

impl ConsoleConfig {
    /// With this mode and nothing else.
    pub fn with(mode: ConsoleMode) -> Self {
        ConsoleConfig { mode, file: None, rest: Rest::default() }
    }

    /// The console, if there is one.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn spec(&self) -> Result<Option<ConsoleSpec>, Refusal> {
        self.rest.check("console.", &[])?;
        match (self.mode, &self.file) {
            (ConsoleMode::Off, _) => Ok(None),
            (ConsoleMode::Null, _) => Ok(Some(ConsoleSpec::Nowhere)),
            (ConsoleMode::Tty, _) => Ok(Some(ConsoleSpec::Launcher)),
            (ConsoleMode::File, Some(path)) => Ok(Some(ConsoleSpec::File(path.clone()))),
            (ConsoleMode::File, None) => Err(Refusal::BadRequest("console.file is missing".into())),
        }
    }

    /// What there is to say of a console.
    pub fn of(spec: &ConsoleSpec) -> Self {
        match spec {
            ConsoleSpec::Launcher => ConsoleConfig::with(ConsoleMode::Tty),
            ConsoleSpec::Nowhere => ConsoleConfig::with(ConsoleMode::Null),
            ConsoleSpec::File(path) => {
                ConsoleConfig { file: Some(path.clone()), ..ConsoleConfig::with(ConsoleMode::File) }
            }
        }
    }

    /// Checks what is asked of the serial console, which is the launcher's.
    ///
    /// # Errors
    /// When that is something else.
    pub fn check_serial(&self) -> Result<(), Refusal> {
        self.rest.check("serial.", &[])?;
        match self.mode {
            ConsoleMode::Tty => Ok(()),
            _ => Err(Refusal::BadRequest("serial.mode: the serial console is always Tty".into())),
        }
    }
}

/// Sockets between guest and host (`vm.add-vsock`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's address.
    pub cid: u32,
    /// Where the guest is called.
    pub socket: PathBuf,
    /// What the device is called; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

impl VsockConfig {
    /// The device.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn spec(&self) -> Result<VsockSpec, Refusal> {
        self.rest.check("vsock.", &[])?;
        Ok(VsockSpec { cid: self.cid, socket: self.socket.clone() })
    }

    /// A device that is called `id`.
    pub fn of(id: &str, spec: &VsockSpec) -> Self {
        VsockConfig { cid: spec.cid, socket: spec.socket.clone(), id: Some(id.into()), rest: Rest::default() }
    }
}

/// A folder of the host (`vm.add-fs`). Cloud Hypervisor's are a socket's, where a file server listens; Tessera serves a path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FsConfig {
    /// Under which name the guest mounts it.
    pub tag: String,
    /// Which folder. (Tessera's own.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether it may only be read. (Tessera's own.)
    #[serde(default)]
    pub readonly: bool,
    /// What the device is called; made up if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How many queues: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_queues: Option<u32>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

impl FsConfig {
    /// The folder.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn spec(&self) -> Result<FolderSpec, Refusal> {
        self.rest.check("fs.", &[("queue_size", ANYTHING)])?;
        check_queues("fs", self.num_queues, 1)?;
        let Some(path) = self.path.clone() else {
            return Err(Refusal::BadRequest("fs.path: the folder is missing".into()));
        };
        let access = if self.readonly { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite };
        Ok(FolderSpec { path, tag: self.tag.clone(), access })
    }

    /// A folder that is called `id`.
    pub fn of(id: &str, spec: &FolderSpec) -> Self {
        FsConfig {
            tag: spec.tag.clone(),
            path: Some(spec.path.clone()),
            readonly: spec.access == DiskAccess::ReadOnly,
            id: Some(id.into()),
            num_queues: None,
            rest: Rest::default(),
        }
    }
}

fn check_queues(device: &str, asked: Option<u32>, queues: u32) -> Result<(), Refusal> {
    match asked {
        Some(count) if count != queues => {
            Err(Refusal::BadRequest(format!("{device}.num_queues: it has {queues}, not {count}")))
        }
        _ => Ok(()),
    }
}
