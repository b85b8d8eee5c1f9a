//! Ordering a vCPU's move and waiting for its outcome.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tessera_dsm::NodeId;
use tessera_migration::handover::Refusal;
use tessera_migration::VcpuId;

use super::Machine;
use crate::vcpu::Mail;

/// How long the destination may take to say that it is ready, before the move is called off.
const READY_WAIT: Duration = Duration::from_secs(3);
/// How long a committed move may take: it cannot be called off, and a destination that is lost in the
/// meantime ends the wait sooner.
const DONE_WAIT: Duration = Duration::from_secs(10);

/// A move that succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveReport {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Where it came from.
    pub from: NodeId,
    /// Where it is.
    pub to: NodeId,
    /// How long it rested, in microseconds.
    pub blackout_us: u32,
}

impl Machine {
    /// Moves a vCPU that runs on this node, and waits until it runs at `to`.
    ///
    /// # Errors
    /// The reason why it still runs here (or, after the destination was lost, nowhere).
    pub fn move_vcpu(&self, vcpu: VcpuId, to: NodeId) -> Result<MoveReport, Refusal> {
        let outcome = self.order_move(vcpu, to);
        if outcome.is_err() {
            self.shared.move_errors.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn order_move(&self, vcpu: VcpuId, to: NodeId) -> Result<MoveReport, Refusal> {
        let from = self.shared.me;
        if to.0 >= self.shared.nodes {
            return Err(Refusal::NoSuchNode);
        }
        let mailbox = self.mailbox(vcpu).ok_or(Refusal::NotHere)?;
        if self.shared.places.get(vcpu).node != from {
            return Err(Refusal::NotHere);
        }
        if to == from {
            return Err(Refusal::AlreadyThere);
        }
        let (reply, outcome) = channel();
        if !mailbox.post(Mail::Move { to, reply }) {
            return Err(Refusal::Busy);
        }
        let arrival = match outcome.recv_timeout(READY_WAIT) {
            Err(RecvTimeoutError::Timeout) => {
                mailbox.post(Mail::Timeout);
                outcome.recv_timeout(DONE_WAIT).unwrap_or(Err(Refusal::NoAnswer))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Refusal::NotHere),
            Ok(outcome) => outcome,
        }?;
        Ok(MoveReport { vcpu, from, to: arrival.node, blackout_us: arrival.blackout_us })
    }
}
