//! How other threads reach a vCPU's thread: a small queue and a kick.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tessera_dsm::NodeId;
use tessera_migration::context::VcpuContext;
use tessera_migration::handover::{Arrival, Epoch, MoveMessage, Refusal};

use crate::kvm::Kicker;

/// Most letters that may wait: moves are one at a time and peers few, so more than this is somebody's fault.
const MAIL_MAX: usize = 256;

/// A vCPU on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transit {
    /// Its state.
    pub context: VcpuContext,
    /// The guest's TSC when it stopped.
    pub frozen_at_tsc: u64,
}

/// What nodes say to each other about a vCPU's move.
pub type VcpuMove = MoveMessage<Box<Transit>>;

/// A letter to a vCPU's thread.
#[derive(Debug)]
pub enum Mail {
    /// Move to `to`, and say how it went.
    Move {
        /// The destination.
        to: NodeId,
        /// Where the outcome goes.
        reply: Sender<Result<Arrival, Refusal>>,
    },
    /// The move that was ordered has had no answer for too long.
    Timeout,
    /// A peer said something about a move.
    Peer(NodeId, VcpuMove),
    /// The vCPU has begun a stay somewhere else.
    Learn(Epoch),
    /// A peer is gone for good.
    Lost(NodeId),
    /// Take no vCPU from now on (with the reason), or take them again.
    Close(Option<String>),
    /// See whether the guest is to stand still; what is sent through this says that the vCPU is out of KVM_RUN.
    Look(Sender<()>),
    /// End the thread.
    Quit,
}

/// A vCPU thread's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    queue: Mutex<VecDeque<Mail>>,
    waiting: AtomicBool,
    arrived: Condvar,
    kicker: Kicker,
}

impl Mailbox {
    /// An empty mailbox whose letters kick through `kicker`.
    pub fn new(kicker: Kicker) -> Self {
        Mailbox { queue: Mutex::default(), waiting: AtomicBool::new(false), arrived: Condvar::new(), kicker }
    }

    /// The thread's kicker.
    pub fn kicker(&self) -> &Kicker {
        &self.kicker
    }

    /// Puts a letter in and kicks the thread; `false` if the box is full and the letter was dropped.
    pub fn post(&self, mail: Mail) -> bool {
        {
            let mut queue = self.lock();
            // A quit always finds room.
            if queue.len() >= MAIL_MAX && !matches!(mail, Mail::Quit) {
                return false;
            }
            queue.push_back(mail);
            self.waiting.store(true, Ordering::SeqCst);
        }
        self.arrived.notify_all();
        self.kicker.kick();
        true
    }

    /// Sleeps until a letter waits.
    pub fn wait(&self) {
        let queue = self.lock();
        let _arrived = self.arrived.wait_while(queue, |queue| queue.is_empty());
    }

    /// Whether a letter waits; cheap.
    pub fn waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Takes the oldest letter.
    pub fn take(&self) -> Option<Mail> {
        if !self.waiting() {
            return None;
        }
        let mut queue = self.lock();
        let mail = queue.pop_front();
        self.waiting.store(!queue.is_empty(), Ordering::SeqCst);
        mail
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Mail>> {
        // The queue is whole after every statement: a panic elsewhere leaves it usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
