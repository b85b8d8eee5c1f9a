//! Which verb a method and a path mean.

use super::reply::Refusal;

/// What all paths begin with.
const ROOT: &str = "/api/v1/";

/// How it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// For an answer.
    Get,
    /// For a deed.
    Put,
}

impl Method {
    /// Its name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
        }
    }
}

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Whether somebody is there.
    Ping,
    /// End the guest, and the process that serves the API.
    Quit,
    /// Say what the guest is.
    Create,
    /// Forget it, and end it if it runs.
    Delete,
    /// Start it.
    Boot,
    /// End it, but remember what it is.
    Shutdown,
    /// End it and start it anew.
    Reboot,
    /// Let it stand still.
    Pause,
    /// Let it go on.
    Resume,
    /// Press its power button.
    PowerButton,
    /// What it is and how it fares.
    Info,
    /// What its devices have done.
    Counters,
    /// Give it a disk.
    AddDisk,
    /// Give it a network card.
    AddNet,
    /// Give it sockets to the host.
    AddVsock,
    /// Give it a folder of the host.
    AddFs,
    /// Take a device away.
    RemoveDevice,
    /// Where its vCPUs are.
    Vcpus,
    /// Move a vCPU.
    MoveVcpu,
    /// What its nodes have done.
    Stats,
    /// Where its devices are.
    Devices,
    /// End it for whoever waits for it, as `tessera stop` does.
    Stop,
}

/// Every verb with its method and its path below [`ROOT`].
pub const ROUTES: [(Method, &str, Verb); 22] = [
    (Method::Get, "vmm.ping", Verb::Ping),
    (Method::Put, "vmm.shutdown", Verb::Quit),
    (Method::Put, "vm.create", Verb::Create),
    (Method::Put, "vm.delete", Verb::Delete),
    (Method::Put, "vm.boot", Verb::Boot),
    (Method::Put, "vm.shutdown", Verb::Shutdown),
    (Method::Put, "vm.reboot", Verb::Reboot),
    (Method::Put, "vm.pause", Verb::Pause),
    (Method::Put, "vm.resume", Verb::Resume),
    (Method::Put, "vm.power-button", Verb::PowerButton),
    (Method::Get, "vm.info", Verb::Info),
    (Method::Get, "vm.counters", Verb::Counters),
    (Method::Put, "vm.add-disk", Verb::AddDisk),
    (Method::Put, "vm.add-net", Verb::AddNet),
    (Method::Put, "vm.add-vsock", Verb::AddVsock),
    (Method::Put, "vm.add-fs", Verb::AddFs),
    (Method::Put, "vm.remove-device", Verb::RemoveDevice),
    (Method::Get, "tessera.vcpus", Verb::Vcpus),
    (Method::Put, "tessera.move-vcpu", Verb::MoveVcpu),
    (Method::Get, "tessera.stats", Verb::Stats),
    (Method::Get, "tessera.devices", Verb::Devices),
    (Method::Put, "tessera.stop", Verb::Stop),
];

/// What Cloud Hypervisor's users may ask for besides.
pub const NOT_DONE: [&str; 16] = [
    "vm.add-device",
    "vm.add-generic-vhost-user",
    "vm.add-pmem",
    "vm.add-user-device",
    "vm.add-vdpa",
    "vm.balloon-stats",
    "vm.coredump",
    "vm.nmi",
    "vm.receive-migration",
    "vm.resize",
    "vm.resize-disk",
    "vm.resize-zone",
    "vm.restore",
    "vm.send-migration",
    "vm.send-migration-status",
    "vm.snapshot",
];

/// The verb of a request.
///
/// # Errors
/// When there is none.
pub fn find(method: &str, path: &str) -> Result<Verb, Refusal> {
    let no_path = || Refusal::NotFound("there is no such path".into());
    let name = path.strip_prefix(ROOT).ok_or_else(no_path)?;
    match ROUTES.iter().find(|(_, known, _)| *known == name) {
        Some((expected, _, verb)) if expected.name() == method => Ok(*verb),
        Some((expected, ..)) => {
            Err(Refusal::BadRequest(format!("{name} is asked for with {}", expected.name())))
        }
        None if NOT_DONE.contains(&name) => Err(Refusal::NotDone(format!("Tessera cannot do {name}"))),
        None => Err(no_path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_method_and_one_verb() {
        for (method, name, verb) in ROUTES {
            let path = format!("{ROOT}{name}");
            assert_eq!(find(method.name(), &path), Ok(verb));
            assert_eq!(find("DELETE", &path).expect_err("no such method").status(), 400);
            assert!(!NOT_DONE.contains(&name), "{name}");
        }
        let status = |path: &str| find("PUT", path).expect_err("nothing there").status();
        assert_eq!(status("/api/v1/vm.snapshot"), 501);
        for path in ["", "/", "/api/v1/", "/api/v1/vm.info/", "/api/v2/vm.info", "api/v1/vm.info"] {
            assert_eq!(status(path), 404, "{path:?}");
        }
    }
}
