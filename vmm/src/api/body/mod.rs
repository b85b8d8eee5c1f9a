//! What is in requests and answers. Names and meanings are Cloud Hypervisor's, but for what is under `tessera`.
//!
//! What Tessera does not know of is not passed over: a request that asks for it is refused by its name. What is null,
//! false, zero or empty asks for nothing.

mod devices;
mod rest;

use serde::{Deserialize, Serialize};

use super::reply::Refusal;
use crate::control::address::HostAddress;
use crate::control::guest::GuestName;

pub use devices::{ConsoleConfig, ConsoleMode, DiskConfig, FsConfig, NetConfig, RngConfig, VsockConfig};
pub use rest::{Rest, Usual, ANYTHING};

/// A guest (`vm.create`, `vm.info`).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct VmConfig {
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpusConfig>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryConfig>,
    /// What it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<PayloadConfig>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<DiskConfig>>,
    /// Network cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<Vec<NetConfig>>,
    /// A source of random numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rng: Option<RngConfig>,
    /// The serial console: it is always the launcher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<ConsoleConfig>,
    /// A virtio console besides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<ConsoleConfig>,
    /// Sockets between guest and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockConfig>,
    /// Folders of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs: Option<Vec<FsConfig>>,
    /// What only Tessera has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tessera: Option<OwnConfig>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

/// vCPUs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CpusConfig {
    /// How many.
    pub boot_vcpus: u32,
    /// How many there may ever be: no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Memory.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// How much, in bytes.
    pub size: u64,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What a guest boots.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PayloadConfig {
    /// The kernel's path.
    pub kernel: String,
    /// The initramfs's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<String>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// What Tessera has not.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What only Tessera has. What is not given is as the options of `tessera run` say.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnConfig {
    /// The guest's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<GuestName>,
    /// Its hosts, by node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<HostAddress>>,
    /// How many vCPUs start on each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus_per_host: Option<Vec<u32>>,
    /// How much memory each gives, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_per_host: Option<Vec<u64>>,
}

/// The answer to `vm.info`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VmInfo {
    /// The guest.
    pub config: VmConfig,
    /// How it fares.
    pub state: VmState,
    /// Its memory in bytes.
    pub memory_actual_size: u64,
}

/// How a guest fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum VmState {
    /// It does not run.
    Created,
    /// It runs, or is about to, or is about to end.
    Running,
    /// It stands still.
    Paused,
}

/// The answer to `vmm.ping`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pong {
    /// What answers, and its version.
    pub build_version: String,
    /// The version.
    pub version: String,
    /// The process that answers.
    pub pid: u32,
    /// What was built into it besides.
    pub features: Vec<String>,
}

/// The body of `vm.remove-device`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveDevice {
    /// Which.
    pub id: String,
}

/// The body of `tessera.move-vcpu`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveVcpu {
    /// The vCPU's number.
    pub vcpu: u32,
    /// A node's number, or its host's address or name.
    pub to: String,
}

/// Reads a body.
///
/// # Errors
/// When it is not what it should be.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::BadRequest(format!("the body: {error}")))
}

impl VmConfig {
    /// Checks that nothing is asked for that Tessera has not.
    ///
    /// # Errors
    /// The name of the first such thing.
    pub fn check_rest(&self) -> Result<(), Refusal> {
        // Every guest has these two.
        self.rest.check("", &[("watchdog", "true"), ("pvpanic", "true")])?;
        if let Some(cpus) = &self.cpus {
            cpus.rest.check(
                "cpus.",
                &[("max_phys_bits", "46"), ("core_scheduling", "\"Vm\""), ("nested", ANYTHING)],
            )?;
            if cpus.max_vcpus.is_some_and(|most| most != cpus.boot_vcpus) {
                return Err(Refusal::BadRequest(
                    "cpus.max_vcpus: a guest has as many vCPUs as it boots with".into(),
                ));
            }
        }
        if let Some(memory) = &self.memory {
            // Guest memory is always shared, and no memory is plugged in later.
            memory.rest.check(
                "memory.",
                &[("shared", ANYTHING), ("hotplug_method", "\"Acpi\""), ("thp", ANYTHING)],
            )?;
        }
        self.payload.iter().try_for_each(|payload| payload.rest.check("payload.", &[]))
    }
}
