//! What users ask of a running guest, and what they get.

use serde::{Deserialize, Serialize};
use tessera_dsm::NodeId;

use super::guest::GuestName;
use super::orders::Stage;
use super::stats::{DeviceStats, NodeStats, VcpuStats};

/// A question or an order. To a worker from the command line, and from worker to worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// The figures of all nodes.
    Stats,
    /// The figures of the node that is asked.
    NodeStats,
    /// Where the vCPUs are.
    Vcpus,
    /// Move a vCPU, from whichever node it is on.
    Move {
        /// Its number.
        vcpu: u32,
        /// A node number, or a host's address or name.
        to: String,
    },
    /// Move a vCPU which is resident on the node that is asked.
    MoveFromHere {
        /// Its number.
        vcpu: u32,
        /// Where to.
        to: NodeId,
    },
    /// Stop the guest.
    Stop,
    /// The devices of the guest, wherever they are.
    Devices,
    /// Press the guest's power button, on whichever node its devices are.
    PowerButton,
    /// Let the guest stand still, or go on, on all nodes.
    Run(Pace),
    /// The same on the node that is asked.
    RunHere(Pace),
}

/// Whether a guest's vCPUs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Pace {
    /// None of them does.
    Still,
    /// They do.
    Going,
}

/// What became of it: an answer, or one line that says why not.
pub type Outcome = Result<Answer, String>;

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Stats`].
    Stats(Box<GuestStats>),
    /// To [`Ask::NodeStats`].
    NodeStats(Box<NodeStats>),
    /// To [`Ask::Vcpus`].
    Vcpus(Vec<VcpuStats>),
    /// To [`Ask::Move`] and [`Ask::MoveFromHere`].
    Moved(Moved),
    /// To [`Ask::Stop`].
    Stopping,
    /// To [`Ask::Devices`].
    Devices(Vec<DeviceStats>),
    /// To [`Ask::PowerButton`].
    Pressed,
    /// To [`Ask::Run`] and [`Ask::RunHere`].
    Runs(Pace),
}

/// The figures of a whole guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuestStats {
    /// The guest's name.
    pub guest: GuestName,
    /// For how long its vCPUs have been running, in milliseconds.
    pub running_ms: u64,
    /// By node; those that did not answer are left out and named in `silent`.
    pub nodes: Vec<NodeStats>,
    /// Nodes that did not answer in time.
    pub silent: Vec<String>,
}

/// A vCPU was moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Its number.
    pub vcpu: u32,
    /// Where it was.
    pub from: NodeId,
    /// Where it is.
    pub to: NodeId,
    /// From its last instruction there to its first one here, in microseconds.
    pub blackout_us: u64,
    /// Bytes of state that were sent.
    pub bytes: u64,
}

/// A daemon's answer to [`super::hello::Role::List`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestList {
    /// Guests that run here.
    pub guests: Vec<ListedGuest>,
    /// Guests that were lost here, the latest last.
    pub lost: Vec<LostGuest>,
}

/// A guest of which a daemon runs a part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedGuest {
    /// Its name.
    pub name: GuestName,
    /// The start of its id.
    pub id: String,
    /// How far it is.
    pub stage: Stage,
    /// Which of its nodes is here, once that is known.
    pub node: Option<NodeId>,
    /// The addresses of all its hosts, once they are known.
    pub hosts: Vec<String>,
    /// The worker's process id.
    pub pid: u32,
}

/// A guest whose worker died.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LostGuest {
    /// Its name.
    pub name: GuestName,
    /// How: `worker 4711 was killed by signal 9`.
    pub how: String,
}
