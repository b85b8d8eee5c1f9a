//! KVM's paravirtual asynchronous page faults as they travel (Linux, `Documentation/virt/kvm/x86/msr.rst`).
//!
//! A guest that uses them gives KVM 64 bytes of its memory for each vCPU and an interrupt vector. When a task touches a page
//! that is not there, KVM injects a page fault with a token in CR2 in place of waiting, and the guest runs another task;
//! when the page has come, KVM writes the token to those 64 bytes and sends the vector.
//!
//! What KVM knows of faults under way cannot be read and does not travel. It need not: writing the enable register makes
//! KVM send the token that wakes *all* tasks that wait on this vCPU (`kvm_async_pf_wakeup_all`), each tries its access
//! again, and faults anew where it is now. Nothing may come from the source any more then: two nodes that both write tokens
//! to the same 64 bytes would lose some. Hence [`disown_async_faults`].

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::apic::set_msr;
use super::{msrs, ContextError, MsrSet};

/// MSR_KVM_ASYNC_PF_EN: where the 64 bytes are, and bits that switch it on.
const ENABLE: u32 = 0x4b56_4d02;
/// MSR_KVM_ASYNC_PF_INT: the vector that announces pages.
const VECTOR: u32 = 0x4b56_4d06;
/// MSR_KVM_ASYNC_PF_ACK: the guest has taken the token and is ready for the next. Reads as 0.
const ACKNOWLEDGE: u32 = 0x4b56_4d07;

/// A vCPU's registers for asynchronous page faults; zeros where the guest has not switched them on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AsyncFaultContext {
    enable: u64,
    vector: u64,
}

impl AsyncFaultContext {
    /// Reads them; zeros where this KVM has none.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn capture(vcpu: &VcpuFd, set: &MsrSet) -> Result<Self, ContextError> {
        if !set.has_async_faults() {
            return Ok(AsyncFaultContext::default());
        }
        match msrs::read(vcpu, &[ENABLE, VECTOR])?.as_slice() {
            &[(_, enable), (_, vector)] => Ok(AsyncFaultContext { enable, vector }),
            _ => Err(ContextError::Msr { index: ENABLE, value: 0 }),
        }
    }

    /// Writes them; after the local APIC, which KVM wants to see enabled. Tasks that waited where the vCPU was are woken.
    ///
    /// # Errors
    /// When KVM refuses, or has none and the guest uses them.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), ContextError> {
        // A KVM that has none takes no zeros either.
        if *self == AsyncFaultContext::default() {
            return Ok(());
        }
        set_msr(vcpu, VECTOR, self.vector)?;
        set_msr(vcpu, ENABLE, self.enable)
    }
}

/// Whether this KVM has the registers: it lets all of them be written, and reads them back.
pub(super) fn offered(vcpu: &VcpuFd) -> bool {
    let registers = [ENABLE, VECTOR, ACKNOWLEDGE];
    msrs::read(vcpu, &registers).is_ok_and(|got| got.len() == registers.len())
}

/// Makes KVM forget the faults under way of a vCPU that has just been captured: it becomes a proxy, and its tasks are
/// woken where it is now. Before KVM_RUN is called again, which would write tokens to the guest's memory.
///
/// Waits for pages that KVM's threads have asked for: a thread that waits in userfaultfd cannot be called back. The pager
/// serves it without any vCPU's help.
///
/// The acknowledgement is for a token that was announced here and will be taken elsewhere: KVM would otherwise not
/// interrupt a running vCPU for its next token, should this one come back.
///
/// # Errors
/// When KVM refuses.
pub fn disown_async_faults(vcpu: &VcpuFd, set: &MsrSet) -> Result<(), ContextError> {
    if !set.has_async_faults() {
        return Ok(());
    }
    set_msr(vcpu, ENABLE, 0)?;
    set_msr(vcpu, ACKNOWLEDGE, 1)
}
