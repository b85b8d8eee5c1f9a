//! Between the launcher and a worker: how a guest comes up, its console, its end.
//!
//! ```text
//! launcher                         worker (each node)
//!   Create (Hello)        ------>
//!                         <------  Welcome
//!   Configure(spec)       ------>  checks it, takes memory
//!                         <------  Configured
//!   Connect               ------>  connects to lower nodes, waits for the others, compares clocks
//!                         <------  Connected
//!   Image, Chunk ...      ------>  (node 0 alone) kernel, then initramfs
//!   Load                  ------>  (node 0 alone)
//!                         <------  Loaded { written, guest_zero_tsc }
//!   Arm { .. }            ------>  starts the pager, makes the machine
//!                         <------  Armed
//!   Start                 ------>  vCPUs run
//!                         <------  Started, then Console, Alive ...
//!   Input, Stop           ------>
//!                         <------  Ended
//! ```
//! Every step has a deadline on both sides ([`Stage::limit`]). A worker that cannot do what it is told
//! answers [`Report::Failed`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_dsm::Gfn;

use super::ending::EndCause;
use super::guest::GuestSpec;
use super::stats::NodeStats;

/// Most bytes in a kernel image.
pub const KERNEL_BYTES_MAX: u64 = 512 << 20;
/// Most bytes in an initramfs: it must lie below 3 GiB, with the kernel.
pub const INITRAMFS_BYTES_MAX: u64 = 2 << 30;
/// Most bytes of console input that the guest has not taken, over all frames.
pub const INPUT_BYTES_MAX: usize = 16 << 10;
/// Most extents of pages that a loader may have written.
pub const WRITTEN_MAX: usize = 4096;

/// The steps in which a guest comes up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Worker started; waits for its description.
    Created,
    /// Description accepted.
    Configured,
    /// Connected to all peers.
    Connected,
    /// Kernel and initramfs are in guest memory.
    Loaded,
    /// Pager and machine are there.
    Armed,
    /// vCPUs run.
    Running,
    /// The guest has ended.
    Ended,
}

impl Stage {
    /// For how long a worker may take to come to this stage from the one before.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Stage::Created | Stage::Configured => 10,
            Stage::Connected => 15,
            Stage::Loaded => 120,
            Stage::Armed => 30,
            Stage::Running => 10,
            Stage::Ended => 5,
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Created => "created",
            Stage::Configured => "configured",
            Stage::Connected => "connected",
            Stage::Loaded => "loaded",
            Stage::Armed => "armed",
            Stage::Running => "running",
            Stage::Ended => "ended",
        })
    }
}

/// A file that node 0 needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Image {
    /// The kernel.
    Kernel,
    /// The initramfs.
    Initramfs,
}

impl Image {
    /// Most bytes of this file.
    pub fn bytes_max(self) -> u64 {
        match self {
            Image::Kernel => KERNEL_BYTES_MAX,
            Image::Initramfs => INITRAMFS_BYTES_MAX,
        }
    }
}

/// From the launcher to a worker.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// What the guest is.
    Configure(Box<GuestSpec>),
    /// Connect to the peers.
    Connect,
    /// A file of `bytes` follows in chunks.
    Image {
        /// Which.
        image: Image,
        /// Its size.
        bytes: u64,
    },
    /// The next bytes of the file.
    Chunk(Vec<u8>),
    /// Put the files into guest memory.
    Load,
    /// Start the pager and make the machine.
    Arm(Arming),
    /// Run the vCPUs.
    Start,
    /// Bytes for the guest's console. No more than [`INPUT_BYTES_MAX`] may be on the way.
    Input(Vec<u8>),
    /// Stop the guest: the launcher was interrupted.
    Stop,
}

/// What all nodes must know of the load on node 0 before their pagers start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Arming {
    /// First frame and number of pages of everything that the loader wrote; node 0 owns them.
    pub written: Vec<(Gfn, u64)>,
    /// Node 0's TSC at the moment that is the guest's TSC 0.
    pub guest_zero_tsc: u64,
}

/// From a worker to its launcher.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Report {
    /// A stage was reached; [`Stage::Loaded`] comes as [`Report::Loaded`].
    Reached(Stage),
    /// The files are in guest memory.
    Loaded(Arming),
    /// A stage cannot be reached.
    Failed {
        /// Which.
        stage: Stage,
        /// Why, in one line.
        why: String,
    },
    /// Output of the guest's console.
    Console(Vec<u8>),
    /// Output of the guest's console was lost here because nobody read it.
    ConsoleLost {
        /// How much.
        bytes: u64,
    },
    /// The guest took this many bytes of console input: so many more may be sent.
    InputTaken {
        /// How many.
        bytes: u32,
    },
    /// This node is alive. Once a second.
    Alive,
    /// The guest has ended; the last report.
    Ended {
        /// Why.
        cause: EndCause,
        /// What this node did.
        stats: Box<NodeStats>,
    },
}
