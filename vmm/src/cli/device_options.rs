//! The devices that the options of `run` ask for.

use tessera_devices::net::MacAddress;

use super::args::RunArgs;
use super::key_values::{count, switch, text, KeyValues, OptionValues};
use super::Failure;
use crate::control::devices::{
    ConsoleSpec, DeviceSpec, DiskAccess, DiskFormat, DiskSpec, FolderSpec, NetLink, NetSpec, RngSpec,
    VsockSpec,
};
use crate::control::guest::GuestId;

/// Where random numbers come from if nothing else is said.
const RNG_SOURCE: &str = "/dev/urandom";

/// The devices in the order of their PCI slots: kind by kind, each kind as it was given.
pub(super) fn devices(args: &RunArgs) -> Result<Vec<DeviceSpec>, Failure> {
    let disks = args.disk.iter().map(disk);
    let rng = args.rng.iter().map(rng);
    let console = args.console.iter().map(|text| console(text)).filter_map(Result::transpose);
    let nets = args.net.iter().map(net);
    let vsock = args.vsock.iter().map(vsock);
    let folders = args.fs.iter().map(folder);
    disks.chain(nets).chain(rng).chain(console).chain(vsock).chain(folders).collect()
}

fn disk(values: &KeyValues) -> Result<DeviceSpec, Failure> {
    let values = values.expect("--disk", &["path", "readonly", "serial", "image_type", "backing_files"])?;
    let access = access(values)?;
    let may_build = values.one("backing_files", switch)? == Some(true);
    let format = match (values.one("image_type", image_type)?, may_build) {
        (Some(DiskFormat::Qcow2), true) => DiskFormat::Qcow2OnOthers,
        (_, true) => return Err(Failure::new("--disk: backing_files=on needs image_type=qcow2")),
        (format, false) => format.unwrap_or(DiskFormat::Unsaid),
    };
    Ok(DeviceSpec::Disk(DiskSpec {
        path: values.required("path", text)?.into(),
        format,
        access,
        serial: values.one("serial", text)?.unwrap_or_default(),
    }))
}

fn access(values: OptionValues<'_>) -> Result<DiskAccess, Failure> {
    Ok(match values.one("readonly", switch)? {
        Some(true) => DiskAccess::ReadOnly,
        Some(false) | None => DiskAccess::ReadWrite,
    })
}

fn image_type(text: &str) -> Result<DiskFormat, &'static str> {
    match text {
        "raw" => Ok(DiskFormat::Raw),
        "qcow2" => Ok(DiskFormat::Qcow2),
        _ => Err("this is neither raw nor qcow2"),
    }
}

fn net(values: &KeyValues) -> Result<DeviceSpec, Failure> {
    let values = values.expect("--net", &["tap", "socket", "mac"])?;
    let link = match (values.one("tap", text)?, values.one("socket", text)?) {
        (Some(name), None) => NetLink::Tap(name),
        (None, Some(path)) => NetLink::Socket(path.into()),
        _ => return Err(Failure::new("--net: one of tap= and socket= is needed")),
    };
    let read = |text: &str| text.parse::<MacAddress>().map_err(|_| "this is no hardware address of one card");
    let address = match values.one("mac", read)? {
        Some(address) => address,
        None => {
            let [a, b, c, d, e, f, ..] = GuestId::random()?.0.to_le_bytes();
            MacAddress::made_of([a, b, c, d, e, f])
        }
    };
    Ok(DeviceSpec::Net(NetSpec { link, address: address.bytes() }))
}

fn rng(values: &KeyValues) -> Result<DeviceSpec, Failure> {
    let source = values.expect("--rng", &["src"])?.one("src", text)?;
    Ok(DeviceSpec::Rng(RngSpec { source: source.unwrap_or_else(|| RNG_SOURCE.into()).into() }))
}

fn console(value: &str) -> Result<Option<DeviceSpec>, Failure> {
    let spec = match (value, value.strip_prefix("file=")) {
        ("off", _) => return Ok(None),
        ("null", _) => ConsoleSpec::Nowhere,
        ("tty", _) => ConsoleSpec::Launcher,
        (_, Some(path)) if !path.is_empty() => ConsoleSpec::File(path.into()),
        _ => return Err(Failure::new(format!("--console: {value} is none of off, null, tty, file=PATH"))),
    };
    Ok(Some(DeviceSpec::Console(spec)))
}

fn vsock(values: &KeyValues) -> Result<DeviceSpec, Failure> {
    let values = values.expect("--vsock", &["cid", "socket"])?;
    let (cid, socket) = (values.required("cid", count)?, values.required("socket", text)?.into());
    Ok(DeviceSpec::Vsock(VsockSpec { cid, socket }))
}

fn folder(values: &KeyValues) -> Result<DeviceSpec, Failure> {
    let values = values.expect("--fs", &["path", "tag", "readonly"])?;
    let (path, tag) = (values.required("path", text)?.into(), values.required("tag", text)?);
    Ok(DeviceSpec::Folder(FolderSpec { path, tag, access: access(values)? }))
}
