//! Everything that makes a vCPU, as it travels.
//!
//! [`capture`] reads it from a stopped vCPU, [`restore`] writes it into another. Neither touches pending
//! interrupts: what waits in the local APIC's request register is never read and written back, because what
//! arrives between reading and writing would be lost. The proxy drains it instead, vector by vector, and
//! relays it (see the guide to interrupts).

mod apic;
mod async_faults;
mod capture;
mod msrs;
mod restore;

use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use apic::{eoi_everything, lapic_register, set_apic_msr, ApicContext, ApicMsr};
pub use async_faults::{disown_async_faults, AsyncFaultContext};
pub use capture::{capture, release_timer};
pub use msrs::{MsrSet, MSRS_MAX};
pub use restore::restore;

/// A vCPU at rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuContext {
    /// General registers.
    pub regs: kvm_regs,
    /// Segments, control registers, APIC base.
    pub sregs: kvm_sregs,
    /// Extended control registers.
    pub xcrs: kvm_xcrs,
    /// x87, SSE, AVX... as XSAVE lays it out; zeros at the end cut off.
    #[serde(with = "bytes")]
    pub xsave: Vec<u8>,
    /// Debug registers.
    pub debug: kvm_debugregs,
    /// Exceptions and interrupts in the middle of delivery. Never a pending NMI: that is relayed.
    pub events: kvm_vcpu_events,
    /// Model-specific registers, index and value.
    pub msrs: Vec<(u32, u64)>,
    /// The local APIC without its request register.
    pub apic: ApicContext,
    /// Asynchronous page faults.
    pub async_faults: AsyncFaultContext,
    /// `KVM_MP_STATE_*`.
    pub mp_state: u32,
}

/// Why a context could not be read or written.
#[derive(Debug, Error)]
pub enum ContextError {
    /// A KVM call failed.
    #[error("{call} failed: {source}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: vmm_sys_util::errno::Error,
    },
    /// The vCPU is between INIT and SIPI.
    #[error("the vCPU is just being started")]
    Starting,
    /// A register that holds a value here cannot be set there.
    #[error("this host cannot set MSR {index:#x} to {value:#x}")]
    Msr {
        /// Which register.
        index: u32,
        /// What it holds.
        value: u64,
    },
    /// The extended state does not fit this host's.
    #[error("{got} bytes of extended state do not fit this host's {room}")]
    Xsave {
        /// Bytes that came.
        got: usize,
        /// Bytes that there is room for.
        room: usize,
    },
    /// A list is longer than any that a node sends.
    #[error("{what}: {got} entries are more than {max}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The longest allowed.
        max: usize,
    },
}

/// Names the call that failed.
pub(crate) fn call<T>(
    name: &'static str,
    result: Result<T, vmm_sys_util::errno::Error>,
) -> Result<T, ContextError> {
    result.map_err(|source| ContextError::Kvm { call: name, source })
}

/// serde for byte strings, without one length per byte.
mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(<[u8]>::to_vec)
    }
}
