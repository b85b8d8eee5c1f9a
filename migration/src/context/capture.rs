//! Reading a stopped vCPU.

use kvm_bindings::{kvm_vcpu_events, Xsave, KVM_MP_STATE_INIT_RECEIVED};
use kvm_ioctls::VcpuFd;

use super::apic::{set_msr, ApicMsr};
use super::msrs::{self, TSC_DEADLINE};
use super::{call, set_apic_msr, ApicContext, AsyncFaultContext, ContextError, MsrSet, VcpuContext};

/// Reads everything that travels. The vCPU must have finished its last exit (KVM_RUN once more with
/// `immediate_exit`, KVM API 5, "kvm_run"), and only its own thread may call this.
///
/// Order: MP_STATE first, since reading it accepts pending INIT and SIPI; the APIC before the timer's
/// deadline; events last, since the reads before may change them.
///
/// # Errors
/// When KVM refuses a read, and [`ContextError::Starting`] between INIT and SIPI.
pub fn capture(vcpu: &VcpuFd, set: &MsrSet, xsave_bytes: usize) -> Result<VcpuContext, ContextError> {
    let mp_state = call("KVM_GET_MP_STATE", vcpu.get_mp_state())?.mp_state;
    if mp_state == KVM_MP_STATE_INIT_RECEIVED {
        return Err(ContextError::Starting);
    }
    let regs = call("KVM_GET_REGS", vcpu.get_regs())?;
    let sregs = call("KVM_GET_SREGS", vcpu.get_sregs())?;
    let xcrs = call("KVM_GET_XCRS", vcpu.get_xcrs())?;
    let xsave = read_xsave(vcpu, xsave_bytes)?;
    let debug = call("KVM_GET_DEBUGREGS", vcpu.get_debug_regs())?;
    let mut msrs = set.read(vcpu)?;
    // The deadline travels as the last of the registers, so that it is written last (a deadline that is past
    // fires at once, and must find the timer's vector in place).
    msrs.extend(msrs::read(vcpu, &[TSC_DEADLINE])?);
    let apic = ApicContext::from_kvm(&call("KVM_GET_LAPIC", vcpu.get_lapic())?);
    let async_faults = AsyncFaultContext::capture(vcpu, set)?;
    let mut events = call("KVM_GET_VCPU_EVENTS", vcpu.get_vcpu_events())?;
    events.nmi.pending = 0;
    Ok(VcpuContext { regs, sregs, xcrs, xsave, debug, events, msrs, apic, async_faults, mp_state })
}

/// Stops the captured vCPU's timer and takes its interrupted work from it, so that nothing of what travels
/// happens here as well. A pending NMI stays: the proxy's stub takes it and relays it.
///
/// A timer that fires between the capture and this call has done no harm: its deadline travels as one that
/// is past, and what it left pending here is cleared with it.
///
/// # Errors
/// When KVM refuses a write.
pub fn release_timer(vcpu: &VcpuFd, context: &VcpuContext) -> Result<(), ContextError> {
    // Where the APIC is not in deadline mode KVM ignores the first, else the second.
    set_msr(vcpu, TSC_DEADLINE, 0)?;
    set_apic_msr(vcpu, ApicMsr::TimerInitial, 0)?;
    let nothing = kvm_vcpu_events { flags: 0, ..Default::default() };
    let events = kvm_vcpu_events { smi: context.events.smi, ..nothing };
    call("KVM_SET_VCPU_EVENTS", vcpu.set_vcpu_events(&events))
}

/// Reads the extended state and cuts the zeros at its end.
fn read_xsave(vcpu: &VcpuFd, bytes: usize) -> Result<Vec<u8>, ContextError> {
    let extra_words = bytes.saturating_sub(4096).div_ceil(4);
    let Ok(mut area) = Xsave::new(extra_words) else {
        return Err(ContextError::Xsave { got: bytes, room: 4096 });
    };
    // SAFETY: the area has the size that KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) gave, or 4096 where that is 0.
    call("KVM_GET_XSAVE2", unsafe { vcpu.get_xsave2(&mut area) })?;
    let words = area.as_fam_struct_ref();
    let mut out: Vec<u8> = words.xsave.region.iter().flat_map(|word| word.to_le_bytes()).collect();
    out.extend(area.as_slice().iter().flat_map(|word| word.to_le_bytes()));
    let used = out.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    out.truncate(used);
    Ok(out)
}
