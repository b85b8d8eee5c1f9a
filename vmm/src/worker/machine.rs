//! What a worker needs of the machine that it runs, and what it gives to it: the seam between the process and
//! KVM.
//!
//! The product's machine is in [`super::kvm_guest`]; tests have one that only pretends.

use std::fs::File;
use std::sync::Arc;

use tessera_dsm::link::Link;
use tessera_dsm::pager::{Lane, LinkBroke, Rejoin};
use tessera_dsm::{Gfn, NodeId};

use super::peers::Peers;
use crate::control::ask::Moved;
use crate::control::ending::EndCause;
use crate::control::guest::GuestSpec;
use crate::control::stats::{DeviceStats, NodeStats, VcpuStats};

/// First frame and number of pages of each run of pages that the loader wrote.
pub type Written = Vec<(Gfn, u64)>;

/// Makes machines. Errors are one line for the user.
pub trait GuestBuilder: Send + Sync {
    /// Takes the memory of this node's part of the guest.
    ///
    /// # Errors
    /// When the host cannot provide it.
    fn configure(&self, spec: &Arc<GuestSpec>) -> Result<Box<dyn UnarmedGuest>, String>;
}

/// A guest that has memory, but no machine yet.
pub trait UnarmedGuest: Send {
    /// Puts the files into guest memory. Node 0 only.
    ///
    /// # Errors
    /// When they are no kernel, or do not fit.
    fn load(&mut self, kernel: File, initramfs: Option<File>) -> Result<Written, String>;

    /// Starts the pager and makes the machine; vCPUs do not run yet.
    ///
    /// # Errors
    /// When the host refuses.
    fn arm(self: Box<Self>, surroundings: Surroundings) -> Result<Arc<dyn GuestMachine>, String>;
}

/// What the machine is given by its worker.
pub struct Surroundings {
    /// What the loader wrote, on whichever node this is.
    pub written: Written,
    /// What to add to this host's TSC to get the guest's.
    pub guest_tsc_offset: i64,
    /// The data connections, for the pagers.
    pub data: Vec<(Lane, Box<dyn Link>)>,
    /// The control connections.
    pub peers: Arc<Peers>,
    /// Where to tell what happens.
    pub events: Arc<dyn GuestEvents>,
}

/// What a machine tells its worker. None of these blocks.
pub trait GuestEvents: Send + Sync {
    /// The guest wrote to its console. Node 0 only.
    fn console(&self, bytes: &[u8]);
    /// The guest ended by itself. Node 0 only.
    fn ended(&self, cause: EndCause);
    /// This node cannot go on.
    fn failed(&self, what: String);
    /// The pager lost another node, which alone had so many of the pages whose home this one is.
    fn peer_lost(&self, node: NodeId, how: String, pages_only_there: Option<u64>);
    /// A data connection broke. A new one goes to [`GuestMachine::relink`].
    fn link_broke(&self, broke: LinkBroke);
}

/// A machine: this node's part of a guest.
pub trait GuestMachine: Send + Sync {
    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// When the host refuses.
    fn start(&self) -> Result<(), String>;
    /// Takes a message of the machine on another node.
    ///
    /// # Errors
    /// When it is none.
    fn deliver(&self, from: NodeId, message: &[u8]) -> Result<(), String>;
    /// Moves a vCPU that is resident here. Blocks until it runs there or is back here.
    ///
    /// # Errors
    /// When it is not here, or stays here.
    fn move_vcpu(&self, vcpu: u32, to: NodeId) -> Result<Moved, String>;
    /// All vCPUs of the guest, and where each is.
    fn vcpus(&self) -> Vec<VcpuStats>;
    /// Gives bytes to the guest's console; how many it took. Node 0 only.
    fn console_input(&self, bytes: &[u8]) -> usize;
    /// The devices on the guest's PCI bus. Node 0 only.
    fn devices(&self) -> Vec<DeviceStats>;
    /// Presses the guest's power button. Node 0 only.
    fn press_power_button(&self);
    /// Lets no vCPU run here, and comes back when none does.
    ///
    /// # Errors
    /// When one of them does not stop in time.
    fn pause(&self) -> Result<(), String>;
    /// Lets the vCPUs run again.
    fn resume(&self);
    /// Pages that no other node has a copy of.
    fn pages_alone(&self) -> u64;
    /// Pages that only `node` has, as far as this one is their home; `None` if that is not known any more.
    fn pages_only_at(&self, node: NodeId) -> Option<u64>;
    /// Gives the pager a new data connection in place of one that broke.
    fn relink(&self, lane: Lane, link: Box<dyn Link>, rejoin: Rejoin);
    /// Fills in the figures that the machine knows.
    fn fill_stats(&self, stats: &mut NodeStats);
    /// Stops the vCPUs. Memory is still served to the other nodes.
    fn halt(&self);
    /// Stops serving memory. Only after all nodes have halted or are lost.
    fn close(&self);
}
