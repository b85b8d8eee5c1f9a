//! What a vCPU needs of the machine around it.

use serde::{Deserialize, Serialize};
use tessera_devices::GuestEnd;
use tessera_dsm::NodeId;
use tessera_migration::handover::Epoch;
use tessera_migration::VcpuId;

use super::mailbox::VcpuMove;

/// Something that a local APIC takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Interrupt {
    /// A vector, edge-triggered.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Reset into wait-for-SIPI.
    Init,
    /// Start at this page number.
    Sipi(u8),
}

/// A device register as the guest addresses it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum DeviceAccess {
    /// An I/O port.
    Port(u16),
    /// A guest-physical address outside RAM.
    Memory(u64),
}

/// What a vCPU's thread asks of its machine. Called from many threads at once.
pub trait Surroundings: Send + Sync + 'static {
    /// Reads a device register, here or at the home node; waits for the answer.
    fn device_read(&self, vcpu: VcpuId, at: DeviceAccess, data: &mut [u8]);
    /// Writes a device register, here or at the home node; in order with this vCPU's other accesses. A write to a PCI
    /// device's memory may be still on its way when this returns.
    fn device_write(&self, vcpu: VcpuId, at: DeviceAccess, data: &[u8]);
    /// The guest ended a level-triggered interrupt.
    fn end_of_interrupt(&self, vector: u8);
    /// Whether guest RAM is at this address.
    fn is_ram(&self, gpa: u64) -> bool;
    /// Sends what arrived for `vcpu` here to where it is resident.
    fn relay(&self, vcpu: VcpuId, interrupt: Interrupt);
    /// Puts an interrupt into the local APIC that this node has for `vcpu`, resident or proxy.
    fn inject_here(&self, vcpu: VcpuId, interrupt: Interrupt);
    /// Tells a peer about a move; `false` when the link is down.
    fn send_move(&self, to: NodeId, vcpu: VcpuId, message: VcpuMove) -> bool;
    /// This node.
    fn this_node(&self) -> NodeId;
    /// The vCPU's context is about to be sent: what it wrote to devices has arrived before it can write more, and what
    /// arrives for it here follows it.
    fn departing(&self, vcpu: VcpuId, to: NodeId);
    /// The vCPU has come and is resident here from now on.
    fn settled(&self, vcpu: VcpuId, epoch: Epoch);
    /// From now on `vcpu` is taken to be at `node`.
    fn placed(&self, vcpu: VcpuId, node: NodeId, epoch: Epoch);
    /// A move to this node is complete, after a blackout of so many microseconds.
    fn arrived(&self, vcpu: VcpuId, blackout_us: u32);
    /// The guest's TSC now, in ticks: the same on all nodes, to within the skew.
    fn guest_tsc(&self) -> u64;
    /// Ticks of the guest's TSC in a millisecond.
    fn tsc_khz(&self) -> u32;
    /// Whether the guest is to stand still: its vCPUs read their mail, and do nothing else.
    fn paused(&self) -> bool;
    /// The guest is over.
    fn guest_end(&self, end: GuestEnd);
    /// This node cannot go on.
    fn failed(&self, why: String);
}
