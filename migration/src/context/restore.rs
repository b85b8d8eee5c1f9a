//! Writing a vCPU.

use kvm_bindings::{kvm_mp_state, Xsave, KVM_VCPUEVENT_VALID_NMI_PENDING};
use kvm_ioctls::VcpuFd;

use super::{call, msrs, ContextError, VcpuContext, MSRS_MAX};

/// Writes `context` into a vCPU that rests (its last exit finished, nothing in service in its APIC but what the
/// context has in service). Only its own thread may call this.
///
/// Order: segments and control registers (with them the APIC base) before what depends on modes; XCRS before
/// the extended state that they allow; the APIC's registers before the timer's deadline, which is the last
/// MSR of the list, and before asynchronous page faults, which interrupt through it; events after all that may change them; MP_STATE at the end.
///
/// # Errors
/// When KVM refuses a write, or the context cannot be of this host's kind. The vCPU is then in no state to run.
pub fn restore(vcpu: &VcpuFd, context: &VcpuContext, xsave_bytes: usize) -> Result<(), ContextError> {
    if context.msrs.len() > MSRS_MAX {
        return Err(ContextError::TooMany { what: "MSRs", got: context.msrs.len(), max: MSRS_MAX });
    }
    call("KVM_SET_SREGS", vcpu.set_sregs(&context.sregs))?;
    call("KVM_SET_REGS", vcpu.set_regs(&context.regs))?;
    // A CPU without XSAVE has no XCRs, and KVM refuses to set none.
    if context.xcrs.nr_xcrs > 0 {
        call("KVM_SET_XCRS", vcpu.set_xcrs(&context.xcrs))?;
    }
    write_xsave(vcpu, &context.xsave, xsave_bytes)?;
    call("KVM_SET_DEBUGREGS", vcpu.set_debug_regs(&context.debug))?;
    context.apic.restore(vcpu)?;
    msrs::write(vcpu, &context.msrs)?;
    context.async_faults.restore(vcpu)?;
    let mut events = context.events;
    // A pending NMI of this vCPU is not ours to overwrite.
    events.flags &= !KVM_VCPUEVENT_VALID_NMI_PENDING;
    call("KVM_SET_VCPU_EVENTS", vcpu.set_vcpu_events(&events))?;
    call("KVM_SET_MP_STATE", vcpu.set_mp_state(kvm_mp_state { mp_state: context.mp_state }))
}

/// Writes the extended state, zeros after what came.
fn write_xsave(vcpu: &VcpuFd, bytes: &[u8], xsave_bytes: usize) -> Result<(), ContextError> {
    let room = xsave_bytes.max(4096);
    let too_big = || ContextError::Xsave { got: bytes.len(), room };
    if bytes.len() > room {
        return Err(too_big());
    }
    let mut area = Xsave::new(room.saturating_sub(4096).div_ceil(4)).map_err(|_| too_big())?;
    let word = |at: usize| {
        let byte = |i: usize| bytes.get(at + i).copied().unwrap_or(0);
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    };
    // SAFETY: only the plain words of the area are written, not its length.
    let fixed = unsafe { &mut area.as_mut_fam_struct().xsave.region };
    for (i, target) in fixed.iter_mut().enumerate() {
        *target = word(4 * i);
    }
    for (i, target) in area.as_mut_slice().iter_mut().enumerate() {
        *target = word(4096 + 4 * i);
    }
    // SAFETY: the area has the size that KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) gave, or 4096 where that is 0.
    call("KVM_SET_XSAVE", unsafe { vcpu.set_xsave2(&area) })
}
