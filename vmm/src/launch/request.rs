//! What a user asks of `tessera run`.

use std::path::PathBuf;

use crate::control::address::HostAddress;
use crate::control::devices::DeviceSpec;
use crate::control::guest::{GuestName, LinkSpec, STRIPE_MIB_DEFAULT};
use crate::cpuid::AsyncFaults;

/// How many vCPUs, and where they start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CpuRequest {
    /// All of them; `None`: the sum of `per_host`, or one.
    pub boot: Option<u32>,
    /// On each host; empty: spread evenly, the first hosts get what is left over.
    pub per_host: Vec<u32>,
}

/// How much memory, and whose.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryRequest {
    /// All of it, in bytes; `None`: the sum of `per_host`, or [`DEFAULT_MEMORY_BYTES`].
    pub size_bytes: Option<u64>,
    /// From each host, in bytes; empty: even shares, or what the hosts have free where that does not fit.
    pub per_host_bytes: Vec<u64>,
}

/// Memory of a guest for which none is given.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// How many pagers each node has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagerRequest {
    /// The most; `None`: what suits the hosts.
    pub most: Option<u8>,
    /// The least MiB of memory that are one pager's.
    pub stripe_mib: u32,
}

impl Default for PagerRequest {
    fn default() -> Self {
        PagerRequest { most: None, stripe_mib: STRIPE_MIB_DEFAULT }
    }
}

/// What to do when the guest resets itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnReboot {
    /// Start it anew.
    Restart,
    /// End with the status for a reset.
    Exit,
}

/// What to do with hosts whose processors write to guest page tables that they only walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableWritePolicy {
    /// Refuse to span them.
    Refuse,
    /// Take the consequences.
    Allow,
}

/// How to tell what happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventFormat {
    /// Log lines, if asked for.
    Log,
    /// One JSON object a line on stderr.
    Json,
}

/// A guest to run.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// Its name; `None`: one is made up.
    pub name: Option<GuestName>,
    /// Its hosts, in the order of its nodes; empty: this machine alone, without a daemon.
    pub hosts: Vec<HostAddress>,
    /// The kernel; `None` in a template for guests that the API creates.
    pub kernel: Option<PathBuf>,
    /// The initramfs.
    pub initramfs: Option<PathBuf>,
    /// The kernel command line, without what Tessera adds.
    pub cmdline: String,
    /// vCPUs.
    pub cpus: CpuRequest,
    /// Memory.
    pub memory: MemoryRequest,
    /// Devices. Paths are of the first host, absolute where `hosts` are given.
    pub devices: Vec<DeviceSpec>,
    /// For how long a granted page may be kept, in microseconds.
    pub lease_us: Option<u32>,
    /// How the nodes are connected.
    pub links: LinkSpec,
    /// How many pagers each node has.
    pub pagers: PagerRequest,
    /// Where to write the report.
    pub report: Option<PathBuf>,
    /// What a reset does.
    pub on_reboot: OnReboot,
    /// How to tell what happens.
    pub events: EventFormat,
    /// Whether to accept table page writes.
    pub table_writes: TableWritePolicy,
    /// By how many parts in a million the hosts' TSC frequencies may differ.
    pub tsc_tolerance_ppm: u32,
    /// How many times slower than on the wall time passes for a Linux guest.
    pub slow_clock: u32,
    /// Whether the guest is offered asynchronous page faults.
    pub async_faults: AsyncFaults,
    /// Arguments for the workers of a guest without `hosts`: how to log.
    pub worker_arguments: Vec<String>,
}
