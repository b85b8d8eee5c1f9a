//! What this host has to offer to a guest, and whether it can carry one at all.
//!
//! [`offer`] gathers the facts; the launcher judges the hosts of a guest against each other.

mod kvm_probe;
pub mod modules;
pub mod priority;
mod proc_files;
pub mod signals;
pub mod tap;

use std::path::Path;

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use modules::KvmKind;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a host has to offer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostOffer {
    /// The version of its daemon.
    pub version: String,
    /// Its name for itself.
    pub hostname: String,
    /// Its kernel's boot id.
    pub boot_id: String,
    /// Its CPUs.
    pub cpus: u32,
    /// Memory that new programs can have, in bytes.
    pub memory_free_bytes: u64,
    /// All its memory, in bytes.
    pub memory_total_bytes: u64,
    /// KVM, or why it cannot be used.
    pub kvm: Result<KvmFacts, KvmProblem>,
    /// Why pages cannot be tracked, if they cannot: userfaultfd is needed when a guest spans hosts.
    pub tracking_problem: Option<String>,
    /// Guests that it may still take.
    pub guests_free: u32,
}

/// A usable KVM.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KvmFacts {
    /// Which, and how it is set up.
    pub kind: KvmKind,
    /// TSC frequency of its vCPUs.
    pub tsc_khz: u32,
    /// What KVM_GET_SUPPORTED_CPUID gives.
    pub cpuid: Vec<kvm_cpuid_entry2>,
}

/// Why KVM cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum KvmProblem {
    /// There is no device node.
    #[error("there is no /dev/kvm: load kvm_intel or kvm_amd, and turn on virtualization in the firmware")]
    Missing,
    /// The daemon's user may not open it.
    #[error(
        "no permission to open /dev/kvm: add the daemon's user to the group that owns it \
         (usually `usermod -aG kvm USER`)"
    )]
    Permission,
    /// It lacks something that Tessera builds on.
    #[error("its KVM lacks {0}: use a newer kernel")]
    Lacks(String),
    /// Something else.
    #[error("/dev/kvm cannot be used: {0}")]
    Other(String),
}

/// Gathers what this host has to offer. What cannot be read is left empty, but for KVM, whose problem is
/// told.
pub fn offer(guests_free: u32) -> HostOffer {
    offer_from(Path::new("/"), guests_free)
}

/// Whether this host's KVM shadows the guest's page tables, so that what it made from one must be dropped
/// when the page leaves.
pub fn shadows_page_tables() -> bool {
    modules::judge(Path::new("/")).shadows_page_tables()
}

/// As [`offer`], with `/proc` and `/sys` below `root`.
fn offer_from(root: &Path, guests_free: u32) -> HostOffer {
    let memory = proc_files::memory(root);
    HostOffer {
        version: VERSION.into(),
        hostname: proc_files::line(&root.join("proc/sys/kernel/hostname")),
        boot_id: proc_files::line(&root.join("proc/sys/kernel/random/boot_id")),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        memory_free_bytes: memory.free_bytes,
        memory_total_bytes: memory.total_bytes,
        kvm: kvm_probe::probe(modules::judge(root)),
        tracking_problem: kvm_probe::tracking_problem(),
        guests_free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_crosses_the_wire_unchanged() {
        let offer = offer(3);
        let bytes = crate::control::frame::encode(&offer).expect("an offer fits in a frame");
        let back: HostOffer = crate::control::frame::decode(&bytes[4..]).expect("decodes");
        assert_eq!(back, offer);
        assert!(back.memory_total_bytes >= back.memory_free_bytes && back.memory_free_bytes > 0);
        assert_eq!(back.boot_id.len(), 36, "{}", back.boot_id);
    }
}
