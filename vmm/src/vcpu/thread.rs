//! The loop of a vCPU's thread.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::thread::JoinHandle;

use tessera_migration::handover::{Arrival, Handover, Refusal};

use super::core::{VcpuCore, VcpuError};
use super::mailbox::{Mail, Mailbox, Transit};
use super::proxy::{self, Waiting};
use super::resident::{self, Step};
use super::surroundings::Surroundings;
use crate::host::priority::Priority;

/// What a vCPU is on this node when its thread starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuPlace {
    /// It runs here, or waits here for INIT.
    Here,
    /// It runs elsewhere.
    Elsewhere,
}

/// A vCPU's thread.
pub(super) struct VcpuThread {
    pub(super) core: VcpuCore,
    pub(super) handover: Handover<Box<Transit>>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) around: Arc<dyn Surroundings>,
    /// What the proxy waits for, while it is one.
    pub(super) waiting: Waiting,
    /// Who wants to know how the move under way ends.
    pub(super) order: Option<Sender<Result<Arrival, Refusal>>>,
    /// The blackout of the move that has just brought the vCPU here starts at this guest TSC.
    pub(super) frozen_at_tsc: Option<u64>,
    /// The context that has just been captured here.
    pub(super) departed: Option<Box<Transit>>,
}

/// Starts the thread. It ends on [`Mail::Quit`] or when the vCPU cannot go on, which it reports.
///
/// # Errors
/// When no thread can be made.
pub fn spawn(
    core: VcpuCore,
    place: VcpuPlace,
    mailbox: Arc<Mailbox>,
    around: Arc<dyn Surroundings>,
) -> io::Result<JoinHandle<()>> {
    let handover = Handover::new(core.id, place == VcpuPlace::Here);
    let thread = VcpuThread {
        core,
        handover,
        mailbox,
        around,
        waiting: Waiting::Parked,
        order: None,
        frozen_at_tsc: None,
        departed: None,
    };
    std::thread::Builder::new().name(format!("vcpu{}", thread.core.id.0)).spawn(move || thread.run())
}

impl VcpuThread {
    fn run(mut self) {
        let armed = self.mailbox.kicker().arm(std::ptr::from_mut(self.core.fd.get_kvm_run()));
        if let Err(error) = self.serve() {
            self.around.failed(error.to_string());
        }
        if let (Ok(regs), Ok(sregs)) = (self.core.fd.get_regs(), self.core.sregs()) {
            let here = self.handover.may_run();
            tracing::debug!(
                "{}: ends {}, rip {:#x} rsp {:#x} rflags {:#x} cs {:#x} cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
                self.core.id,
                if here { "as resident" } else { "as proxy" },
                regs.rip,
                regs.rsp,
                regs.rflags,
                sregs.cs.base,
                sregs.cr0,
                sregs.cr2,
                sregs.cr3,
                sregs.cr4,
                sregs.efer
            );
        }
        // The kvm_run that the handler writes to goes with `core`, after this.
        drop(armed);
    }

    /// Mail, then one step, for ever.
    fn serve(&mut self) -> Result<(), VcpuError> {
        if !self.handover.may_run() {
            self.core.set_priority(Priority::RealTime);
            self.waiting = proxy::install(&mut self.core)?;
        }
        loop {
            self.core.clear_kick();
            while let Some(mail) = self.mailbox.take() {
                if matches!(mail, Mail::Quit) {
                    return Ok(());
                }
                self.read(mail)?;
            }
            if self.handover.may_run() && self.around.paused() {
                self.mailbox.wait();
            } else if self.handover.may_run() {
                self.run_resident()?;
            } else {
                self.waiting = proxy::step(&mut self.core, self.waiting, &*self.around)?;
            }
        }
    }

    /// Runs the guest until there is mail.
    fn run_resident(&mut self) -> Result<(), VcpuError> {
        if let Some(frozen_at) = self.frozen_at_tsc.take() {
            self.around.arrived(self.core.id, self.blackout_us(frozen_at));
        }
        while !self.mailbox.waiting() {
            match resident::step(&mut self.core, &*self.around)? {
                Step::Exit => {}
                Step::Interrupted => return Ok(()),
                Step::Ended(end) => {
                    self.around.guest_end(end);
                    return self.await_quit();
                }
            }
        }
        Ok(())
    }

    /// After the guest's end nothing runs any more; the machine sends [`Mail::Quit`].
    fn await_quit(&mut self) -> Result<(), VcpuError> {
        loop {
            match self.mailbox.take() {
                Some(Mail::Quit) => {
                    // Leave it for the loop that called.
                    self.mailbox.post(Mail::Quit);
                    return Ok(());
                }
                Some(_) => {}
                None => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    }

    /// Microseconds of guest time since `frozen_at_tsc`; 0 if the clocks' skew is larger than the time.
    pub(super) fn blackout_us(&self, frozen_at_tsc: u64) -> u32 {
        let ticks = self.around.guest_tsc().saturating_sub(frozen_at_tsc);
        let us = u128::from(ticks) * 1000 / u128::from(self.around.tsc_khz().max(1));
        u32::try_from(us).unwrap_or(u32::MAX)
    }
}
