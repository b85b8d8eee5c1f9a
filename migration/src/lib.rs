//! Contexts that move between hosts.
//!
//! - [`context`]: everything that makes a vCPU, read from one KVM vCPU and written to another.
//! - [`handover`]: who runs a vCPU while it moves: a pure two-phase state machine.
//! - [`policy`]: what placement knows of hosts and memory, pure.
//! - [`kvm_ext`]: the KVM calls that kvm-ioctls does not wrap on x86.

pub mod context;
pub mod handover;
pub mod kvm_ext;
pub mod policy;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A vCPU of the guest: its place in the guest's list, from 0. Not its APIC id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct VcpuId(pub u16);

impl VcpuId {
    /// The vCPU that starts the guest.
    pub const BOOT: VcpuId = VcpuId(0);

    /// The vCPU's place as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}", self.0)
    }
}
