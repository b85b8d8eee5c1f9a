//! Asynchronous page faults, which a guest gets if its user wants it to.
//!
//! KVM tells a guest that has them of a page that is not there, and again when it has come; a task waits, the vCPU does not.
//! Linux takes them by itself (`no-kvmapf` on its command line: not). See `docs/memory.md`.

use kvm_bindings::kvm_cpuid_entry2;

use thiserror::Error;

use super::{ensure, find};

/// KVM's paravirtual features (leaf).
const FEATURES: u32 = 0x4000_0001;
/// Bits of EAX: asynchronous page faults, and that a page's coming is told by an interrupt, the only way that guests since
/// Linux 5.8 take and KVM still has. Not bit 10, faults as exits of a nested guest: there are none.
pub const ASYNC_FAULTS: u32 = 1 << 4 | 1 << 14;

/// Whether a guest is offered asynchronous page faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsyncFaults {
    /// No: a vCPU waits for its pages.
    Hidden,
    /// Yes.
    Offered,
}

/// A host's KVM has no asynchronous page faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("has a KVM without asynchronous page faults: leave out --async-faults")]
pub struct NoAsyncFaults {
    /// Which of the hosts, by its place in the list.
    pub host: usize,
}

/// Shows the guest asynchronous page faults, if all `hosts` have them: each is what KVM_GET_SUPPORTED_CPUID gave there.
///
/// # Errors
/// The first host that has none.
pub fn offer_async_faults(
    leaves: &mut Vec<kvm_cpuid_entry2>,
    hosts: &[Vec<kvm_cpuid_entry2>],
) -> Result<(), NoAsyncFaults> {
    let has =
        |host: &Vec<_>| find(host, FEATURES, 0).is_some_and(|leaf| leaf.eax & ASYNC_FAULTS == ASYNC_FAULTS);
    match hosts.iter().position(|host| !has(host)) {
        Some(host) => Err(NoAsyncFaults { host }),
        None => {
            ensure(leaves, FEATURES, 0).eax |= ASYNC_FAULTS;
            Ok(())
        }
    }
}
