//! A guest as the API sees it: what is to be run, and what its devices are called.

use super::body::{
    ConsoleConfig, CpusConfig, DiskConfig, FsConfig, MemoryConfig, NetConfig, OwnConfig, PayloadConfig, Rest,
    RngConfig, VmConfig, VsockConfig,
};
use super::body::{ConsoleMode, Pong};
use super::reply::Refusal;
use crate::control::devices::DeviceSpec;
use crate::launch::request::{CpuRequest, MemoryRequest, RunRequest, DEFAULT_MEMORY_BYTES};

/// Most characters in a device's name.
const ID_CHARS_MAX: usize = 64;

/// A guest that was created.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// What is to be run.
    pub request: RunRequest,
    /// What its devices are called, in their order.
    ids: Vec<String>,
}

impl GuestConfig {
    /// The guest that `request` describes; its devices get names.
    pub fn new(mut request: RunRequest) -> Self {
        let devices = std::mem::take(&mut request.devices);
        let mut config = GuestConfig { request, ids: vec![] };
        for device in devices {
            let id = config.free_id(&device);
            config.put(id, device);
        }
        config
    }

    /// The guest that a body describes; what it does not say is as in `template`.
    ///
    /// # Errors
    /// When it asks for what cannot be.
    pub fn from_body(body: &VmConfig, template: &RunRequest) -> Result<Self, Refusal> {
        body.check_rest()?;
        let Some(payload) = &body.payload else {
            return Err(Refusal::BadRequest("payload: the guest needs a kernel".into()));
        };
        let own = body.tessera.clone().unwrap_or_default();
        let mut request = RunRequest { devices: vec![], ..template.clone() };
        request.kernel = Some(payload.kernel.clone().into());
        request.initramfs = payload.initramfs.clone().map(Into::into);
        request.cmdline = payload.cmdline.clone().unwrap_or_default();
        if let Some(cpus) = &body.cpus {
            request.cpus = CpuRequest { boot: Some(cpus.boot_vcpus), per_host: vec![] };
        }
        if let Some(memory) = &body.memory {
            request.memory = MemoryRequest { size_bytes: Some(memory.size), per_host_bytes: vec![] };
        }
        request.name = own.name.or(request.name);
        request.hosts = own.hosts.unwrap_or(request.hosts);
        request.cpus.per_host = own.vcpus_per_host.unwrap_or(request.cpus.per_host);
        request.memory.per_host_bytes = own.memory_per_host.unwrap_or(request.memory.per_host_bytes);
        let mut config = GuestConfig { request, ids: vec![] };
        config.add_all(body)?;
        Ok(config)
    }

    /// Adds the devices of a body, kind by kind.
    fn add_all(&mut self, body: &VmConfig) -> Result<(), Refusal> {
        for disk in body.disks.iter().flatten() {
            self.add(disk.id.as_deref(), DeviceSpec::Disk(disk.spec()?))?;
        }
        for net in body.net.iter().flatten() {
            self.add(net.id.as_deref(), DeviceSpec::Net(net.spec()?))?;
        }
        if let Some(rng) = &body.rng {
            self.add(None, DeviceSpec::Rng(rng.spec()?))?;
        }
        if let Some(serial) = &body.serial {
            serial.check_serial()?;
        }
        if let Some(console) = body.console.as_ref().map(ConsoleConfig::spec).transpose()?.flatten() {
            self.add(None, DeviceSpec::Console(console))?;
        }
        if let Some(vsock) = &body.vsock {
            self.add(vsock.id.as_deref(), DeviceSpec::Vsock(vsock.spec()?))?;
        }
        for fs in body.fs.iter().flatten() {
            self.add(fs.id.as_deref(), DeviceSpec::Folder(fs.spec()?))?;
        }
        Ok(())
    }

    /// Adds a device, under a name of its own or one that is made up.
    ///
    /// # Errors
    /// When the name is no name or taken.
    pub fn add(&mut self, id: Option<&str>, device: DeviceSpec) -> Result<(), Refusal> {
        let id = match id {
            None => self.free_id(&device),
            Some(id) if id.is_empty() || id.len() > ID_CHARS_MAX || id.starts_with('_') => {
                return Err(Refusal::BadRequest(format!(
                    "id: a device's name has 1 to {ID_CHARS_MAX} characters, and no '_' at its beginning"
                )));
            }
            Some(id) if self.ids.iter().any(|known| known == id) => {
                return Err(Refusal::Conflict(format!("id: there is a device {id:?} already")));
            }
            Some(id) => id.into(),
        };
        self.put(id, device);
        Ok(())
    }

    /// Takes a device away.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn remove(&mut self, id: &str) -> Result<(), Refusal> {
        let Some(index) = self.ids.iter().position(|known| known == id) else {
            return Err(Refusal::NotFound("there is no device of this name".into()));
        };
        self.ids.remove(index);
        self.request.devices.remove(index);
        Ok(())
    }

    /// What the device at this place of the description is called.
    pub fn id_of(&self, index: usize) -> Option<&str> {
        self.ids.get(index).map(String::as_str)
    }

    fn put(&mut self, id: String, device: DeviceSpec) {
        self.ids.push(id);
        self.request.devices.push(device);
    }

    /// A name that no device has: its kind and the first number that is free.
    fn free_id(&self, device: &DeviceSpec) -> String {
        let kind = match device {
            DeviceSpec::Disk(_) => "disk",
            DeviceSpec::Net(_) => "net",
            DeviceSpec::Rng(_) => "rng",
            DeviceSpec::Console(_) => "console",
            DeviceSpec::Vsock(_) => "vsock",
            DeviceSpec::Folder(_) => "fs",
        };
        // Among one more names than there are devices, one is free.
        let names = (0..=self.ids.len()).map(|number| format!("_{kind}{number}"));
        let mut free = names.filter(|name| !self.ids.contains(name));
        free.next().unwrap_or_default()
    }

    /// All of the guest's memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let memory = &self.request.memory;
        match (memory.size_bytes, memory.per_host_bytes.is_empty()) {
            (Some(bytes), _) => bytes,
            (None, true) => DEFAULT_MEMORY_BYTES,
            (None, false) => memory.per_host_bytes.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes)),
        }
    }

    /// All of its vCPUs.
    fn vcpus(&self) -> u32 {
        let cpus = &self.request.cpus;
        let sum = cpus.per_host.iter().fold(0u32, |sum, &count| sum.saturating_add(count));
        cpus.boot.unwrap_or(sum.max(1))
    }

    /// The guest as answers have it.
    pub fn body(&self) -> VmConfig {
        let request = &self.request;
        let text = |path: &std::path::Path| path.display().to_string();
        let some = |list: &[u32]| Some(list.to_vec()).filter(|list| !list.is_empty());
        let mut body = VmConfig {
            cpus: Some(CpusConfig {
                boot_vcpus: self.vcpus(),
                max_vcpus: Some(self.vcpus()),
                rest: Rest::default(),
            }),
            memory: Some(MemoryConfig { size: self.memory_bytes(), rest: Rest::default() }),
            payload: request.kernel.as_deref().map(|kernel| PayloadConfig {
                kernel: text(kernel),
                initramfs: request.initramfs.as_deref().map(text),
                cmdline: Some(request.cmdline.clone()),
                rest: Rest::default(),
            }),
            serial: Some(ConsoleConfig::with(ConsoleMode::Tty)),
            console: Some(ConsoleConfig::with(ConsoleMode::Off)),
            tessera: Some(OwnConfig {
                name: request.name.clone(),
                hosts: Some(request.hosts.clone()).filter(|hosts| !hosts.is_empty()),
                vcpus_per_host: some(&request.cpus.per_host),
                memory_per_host: Some(request.memory.per_host_bytes.clone()).filter(|list| !list.is_empty()),
            }),
            ..VmConfig::default()
        };
        for (id, device) in self.ids.iter().zip(&request.devices) {
            match device {
                DeviceSpec::Disk(disk) => body.disks.get_or_insert_default().push(DiskConfig::of(id, disk)),
                DeviceSpec::Net(net) => body.net.get_or_insert_default().push(NetConfig::of(id, net)),
                DeviceSpec::Rng(rng) => {
                    body.rng = Some(RngConfig { src: rng.source.clone(), rest: Rest::default() });
                }
                DeviceSpec::Console(console) => body.console = Some(ConsoleConfig::of(console)),
                DeviceSpec::Vsock(vsock) => body.vsock = Some(VsockConfig::of(id, vsock)),
                DeviceSpec::Folder(folder) => {
                    body.fs.get_or_insert_default().push(FsConfig::of(id, folder));
                }
            }
        }
        body
    }
}

impl Pong {
    /// From this process.
    pub fn of_this_process() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Pong {
            build_version: format!("tessera {version}"),
            version: version.into(),
            pid: std::process::id(),
            features: vec![],
        }
    }
}
