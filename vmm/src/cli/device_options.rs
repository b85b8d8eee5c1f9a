//! The devices that the options of `run` ask for.

use super::args::RunArgs;
use super::key_values::{switch, text, KeyValues};
use super::Failure;
use crate::control::devices::{DeviceSpec, DiskAccess, DiskSpec};

/// The devices in the order of their PCI slots: kind by kind, each kind as it was given.
pub(super) fn devices(args: &RunArgs) -> Result<Vec<DeviceSpec>, Failure> {
    args.disk.iter().map(disk).collect()
}

fn disk(values: &KeyValues) -> Result<DeviceSpec, Failure> {
    let values = values.expect("--disk", &["path", "readonly", "serial"])?;
    let access = match values.one("readonly", switch)? {
        Some(true) => DiskAccess::ReadOnly,
        Some(false) | None => DiskAccess::ReadWrite,
    };
    Ok(DeviceSpec::Disk(DiskSpec {
        path: values.required("path", text)?.into(),
        access,
        serial: values.one("serial", text)?.unwrap_or_default(),
    }))
}
