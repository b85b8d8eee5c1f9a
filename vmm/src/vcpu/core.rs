//! The vCPU's file and what its own thread alone does with it.

use std::sync::Arc;

use kvm_bindings::{kvm_mp_state, kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use tessera_migration::context::{ContextError, MsrSet};
use tessera_migration::VcpuId;
use thiserror::Error;
use vmm_sys_util::errno;

use crate::host::priority::{self, Priority};

/// Why a vCPU cannot go on.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// A KVM call failed.
    #[error("{vcpu}: {call} failed: {source}")]
    Kvm {
        /// Whose.
        vcpu: VcpuId,
        /// The call.
        call: &'static str,
        /// The kernel's answer.
        source: errno::Error,
    },
    /// The state could not be read or written.
    #[error("{vcpu}: {source}")]
    Context {
        /// Whose.
        vcpu: VcpuId,
        /// What went wrong.
        source: ContextError,
    },
    /// KVM gave an exit that has no place here.
    #[error("{vcpu}: {what}")]
    Exit {
        /// Whose.
        vcpu: VcpuId,
        /// The exit, with where it happened.
        what: String,
    },
}

/// What KVM_RUN came back with when there was no exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupted {
    /// A kick.
    Kicked,
    /// A wake-up in a state in which nothing may run (KVM_RUN gave EAGAIN).
    Woken,
}

/// One vCPU on this node.
#[derive(Debug)]
pub struct VcpuCore {
    /// Which vCPU of the guest.
    pub id: VcpuId,
    /// KVM's vCPU.
    pub fd: VcpuFd,
    /// The MSRs that travel.
    pub msrs: Arc<MsrSet>,
    /// Bytes of extended state on this host.
    pub xsave_bytes: usize,
    /// What this host adds to its TSC to give the guest's, where the guest never adjusted it.
    pub tsc_offset_ticks: u64,
    /// The host has fewer CPUs than the guest has vCPUs: proxies must not wait for residents.
    pub crowded: bool,
}

impl VcpuCore {
    /// Runs until the next exit.
    ///
    /// # Errors
    /// When KVM_RUN fails for another reason than a kick or a wake-up.
    pub fn run(&mut self) -> Result<Result<VcpuExit<'_>, Interrupted>, VcpuError> {
        let id = self.id;
        match self.fd.run() {
            Ok(exit) => Ok(Ok(exit)),
            Err(error) => match error.errno() {
                libc::EINTR => Ok(Err(Interrupted::Kicked)),
                libc::EAGAIN => Ok(Err(Interrupted::Woken)),
                _ => Err(VcpuError::Kvm { vcpu: id, call: "KVM_RUN", source: error }),
            },
        }
    }

    /// Forgets a kick; whoever kicked has put something into the mailbox, which is read after this.
    pub fn clear_kick(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
    }

    /// The next [`VcpuCore::run`] only finishes what the last exit left open, and comes back as kicked.
    pub fn request_finish(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
    }

    /// Puts the vCPU's thread into the class that suits what it is about to be.
    pub fn set_priority(&self, priority: Priority) {
        if self.crowded {
            if let Err(error) = priority::set_own(priority) {
                tracing::debug!("{}: no {priority:?} priority: {error}", self.id);
            }
        }
    }

    /// Names the KVM call that failed.
    pub fn call<T>(&self, call: &'static str, result: Result<T, errno::Error>) -> Result<T, VcpuError> {
        result.map_err(|source| VcpuError::Kvm { vcpu: self.id, call, source })
    }

    /// Names the vCPU whose state could not be handled.
    pub fn context<T>(&self, result: Result<T, ContextError>) -> Result<T, VcpuError> {
        result.map_err(|source| VcpuError::Context { vcpu: self.id, source })
    }

    /// An exit that has no place here.
    pub fn unexpected(&self, what: impl std::fmt::Debug) -> VcpuError {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        VcpuError::Exit { vcpu: self.id, what: format!("unexpected exit {what:?} at rip {rip:#x}") }
    }

    /// `KVM_MP_STATE_*` of the vCPU; reading it accepts a pending INIT or SIPI.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mp_state(&self) -> Result<u32, VcpuError> {
        Ok(self.call("KVM_GET_MP_STATE", self.fd.get_mp_state())?.mp_state)
    }

    /// Sets `KVM_MP_STATE_*`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mp_state(&self, mp_state: u32) -> Result<(), VcpuError> {
        self.call("KVM_SET_MP_STATE", self.fd.set_mp_state(kvm_mp_state { mp_state }))
    }

    /// The segment and control registers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sregs(&self) -> Result<kvm_sregs, VcpuError> {
        self.call("KVM_GET_SREGS", self.fd.get_sregs())
    }

    /// Sets all plain registers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_registers(&self, sregs: &kvm_sregs, regs: &kvm_regs) -> Result<(), VcpuError> {
        self.call("KVM_SET_SREGS", self.fd.set_sregs(sregs))?;
        self.call("KVM_SET_REGS", self.fd.set_regs(regs))
    }
}
