//! The guest stands still: its vCPUs keep out of KVM_RUN, on whichever node they are.
//!
//! All else goes on. Pages are served, interrupts are taken by the local APICs, vCPUs can be moved (they stand still
//! where they arrive), devices end what they have begun. The guest's clock goes on too: when it wakes, time has passed.

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tessera_migration::VcpuId;
use thiserror::Error;

use super::Machine;
use crate::vcpu::Mail;

/// How long a vCPU may take to come out of KVM_RUN. It may have to wait for a page.
const STILL_LIMIT: Duration = Duration::from_secs(5);

/// A vCPU does not come to a stand.
#[derive(Debug, Error)]
#[error("{vcpu} still runs after {limit} s", vcpu = .0, limit = STILL_LIMIT.as_secs())]
pub struct StillRuns(VcpuId);

impl Machine {
    /// Lets no vCPU run here, and comes back when none does. Every node must be told: a vCPU runs on where it arrives if
    /// that node has not been.
    ///
    /// # Errors
    /// When one of them does not stop within a few seconds. It does as soon as it can, unless [`Machine::resume`] comes first.
    pub fn pause(&self) -> Result<(), StillRuns> {
        self.shared.paused.store(true, Ordering::SeqCst);
        if let Some(platform) = &self.shared.platform {
            platform.hold();
        }
        let by = Instant::now() + STILL_LIMIT;
        let mut answers = Vec::new();
        for mailbox in &self.shared.mailboxes {
            let (seen, answer) = channel();
            // With a full box the vCPU is reading it.
            mailbox.post(Mail::Look(seen));
            answers.push(answer);
        }
        for (index, answer) in answers.iter().enumerate() {
            let left = by.saturating_duration_since(Instant::now());
            // One whose thread has ended does not run either.
            if answer.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return Err(StillRuns(VcpuId(index as u16)));
            }
        }
        Ok(())
    }

    /// Lets the vCPUs run again.
    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
        if let Some(platform) = &self.shared.platform {
            platform.go_on();
        }
        for mailbox in &self.shared.mailboxes {
            let (seen, _nobody_waits) = channel();
            mailbox.post(Mail::Look(seen));
        }
    }
}
