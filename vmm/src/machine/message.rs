//! What machines of one guest say to each other, and whom a machine speaks to.

use serde::{Deserialize, Serialize};
use tessera_devices::GuestEnd;
use tessera_dsm::NodeId;
use tessera_migration::handover::Epoch;
use tessera_migration::VcpuId;
use thiserror::Error;

use crate::vcpu::{DeviceAccess, Interrupt, VcpuMove};

/// Most bytes in one device access: string I/O fills at most KVM's one page.
pub const DEVICE_BYTES_MAX: usize = 4096;

/// What machines say to each other, on the control connection between two nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerMessage {
    /// This arrived for `vcpu` at a node where it does not run.
    Interrupt(VcpuId, Interrupt),
    /// Read a device register, to the home node.
    DeviceRead {
        /// Who reads, and who waits.
        vcpu: VcpuId,
        /// Tells this read from an earlier one of the same vCPU.
        token: u32,
        /// The register.
        at: DeviceAccess,
        /// How many bytes.
        len: u16,
    },
    /// Write a device register, to the home node.
    DeviceWrite {
        /// Who writes, and who waits.
        vcpu: VcpuId,
        /// Tells this write from an earlier one of the same vCPU.
        token: u32,
        /// The register.
        at: DeviceAccess,
        /// What is written.
        data: Vec<u8>,
    },
    /// Write a device's memory, to the home node. Nobody waits.
    DevicePost {
        /// The register.
        at: DeviceAccess,
        /// What is written.
        data: Vec<u8>,
    },
    /// The answer to a read (with the bytes) or a write (without), from the home node.
    DeviceAnswer {
        /// Who waits.
        vcpu: VcpuId,
        /// The access.
        token: u32,
        /// What was read.
        data: Vec<u8>,
    },
    /// The guest ended a level-triggered interrupt, to the home node.
    EndOfInterrupt(u8),
    /// A vCPU's move.
    Move(VcpuId, VcpuMove),
    /// A vCPU has begun a stay.
    Placed(VcpuId, NodeId, Epoch),
    /// The guest is over, to the home node.
    GuestEnd(GuestEnd),
}

/// The control connection to a peer is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the connection to {0} is down")]
pub struct PeerLost(pub NodeId);

/// Sends to peers; keeps the order of one thread's messages to one peer.
pub trait PeerSink: Send + Sync {
    /// Sends `message` to `to`.
    ///
    /// # Errors
    /// When the connection is down.
    fn send(&self, to: NodeId, message: PeerMessage) -> Result<(), PeerLost>;
}

/// Hears what becomes of the machine. Called from its threads; must not wait for them.
pub trait MachineEvents: Send + Sync {
    /// The guest wrote to its console. Only on the home node.
    fn console(&self, bytes: &[u8]);
    /// The guest is over. Only on the home node; the first end counts.
    fn guest_end(&self, end: GuestEnd);
    /// This node cannot go on: the guest must be stopped everywhere.
    fn failed(&self, why: String);
    /// A vCPU has begun a stay at a node.
    fn placed(&self, vcpu: VcpuId, node: NodeId);
}
