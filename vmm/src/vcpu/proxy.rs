//! A vCPU that is resident elsewhere: parked in KVM_RUN, so that whatever is sent to it here is seen.
//!
//! Parked means `KVM_MP_STATE_UNINITIALIZED` with interrupts on: KVM_RUN blocks, and gives EAGAIN without having
//! run an instruction when something arrives. INIT and SIPI show in the MP state; interrupts are taken by
//! the stub one by one.

use std::time::{Duration, Instant};

use kvm_bindings::{
    kvm_debugregs, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::VcpuExit;
use tessera_migration::context::{self, set_apic_msr, ApicContext, ApicMsr, VcpuContext};

use super::core::{Interrupted, VcpuCore, VcpuError};
use super::stub;
use super::surroundings::{Interrupt, Surroundings};

/// x2APIC software enable with spurious vector 255.
const SPURIOUS_ENABLED: u64 = 0x1ff;
/// Linux sends SIPI 10 ms after INIT at the latest; a slow host may take its time.
const SIPI_WAIT: Duration = Duration::from_secs(3);
/// How often the wait for SIPI looks.
const SIPI_POLL: Duration = Duration::from_micros(200);
/// More exits than vectors that can be pending at once mean that something is wrong.
const DRAIN_EXITS_MAX: usize = 4096;

/// What a proxy waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// Anything.
    Parked,
    /// SIPI after INIT, since then.
    Sipi(Instant),
}

/// Makes a vCPU that never ran here, or that could not be written, a proxy.
pub fn install(core: &mut VcpuCore) -> Result<Waiting, VcpuError> {
    core.context(context::disown_async_faults(&core.fd, &core.msrs))?;
    rearm(core)?;
    Ok(Waiting::Parked)
}

/// Makes a captured vCPU a proxy, and relays what had arrived for it.
pub fn take_over(
    core: &mut VcpuCore,
    captured: &VcpuContext,
    around: &dyn Surroundings,
) -> Result<Waiting, VcpuError> {
    core.context(context::disown_async_faults(&core.fd, &core.msrs))?;
    core.context(context::release_timer(&core.fd, captured))?;
    core.context(context::eoi_everything(&core.fd, &captured.apic))?;
    enable_apic(core, captured.apic.enabled())?;
    core.call("KVM_SET_DEBUGREGS", core.fd.set_debug_regs(&kvm_debugregs::default()))?;
    let sregs = stub::sregs(&captured.sregs);
    core.set_registers(&sregs, &stub::idle_regs(core.id.index()))?;
    let id = core.id;
    drain(core, &mut |interrupt| around.relay(id, interrupt))?;
    Ok(Waiting::Parked)
}

/// Waits until something arrives or the thread is kicked; relays what arrived.
pub fn step(core: &mut VcpuCore, waiting: Waiting, around: &dyn Surroundings) -> Result<Waiting, VcpuError> {
    if let Waiting::Sipi(since) = waiting {
        return await_sipi(core, since, around);
    }
    match core.run()? {
        Err(Interrupted::Kicked) => Ok(Waiting::Parked),
        Err(Interrupted::Woken) => woken(core, around),
        Ok(exit) => {
            let what = format!("{exit:?} of a parked proxy");
            Err(core.unexpected(what))
        }
    }
}

fn woken(core: &mut VcpuCore, around: &dyn Surroundings) -> Result<Waiting, VcpuError> {
    match core.mp_state()? {
        KVM_MP_STATE_UNINITIALIZED => {
            let id = core.id;
            drain(core, &mut |interrupt| around.relay(id, interrupt))?;
            Ok(Waiting::Parked)
        }
        KVM_MP_STATE_INIT_RECEIVED => {
            around.relay(core.id, Interrupt::Init);
            // Not KVM_RUN: it would start the guest's code here when SIPI comes.
            Ok(Waiting::Sipi(Instant::now()))
        }
        _ => {
            around.relay(core.id, Interrupt::Init);
            started(core, around)
        }
    }
}

fn await_sipi(core: &mut VcpuCore, since: Instant, around: &dyn Surroundings) -> Result<Waiting, VcpuError> {
    if core.mp_state()? == KVM_MP_STATE_INIT_RECEIVED {
        if since.elapsed() < SIPI_WAIT {
            std::thread::sleep(SIPI_POLL);
            return Ok(Waiting::Sipi(since));
        }
        rearm(core)?;
        return Ok(Waiting::Parked);
    }
    started(core, around)
}

/// SIPI was accepted: its vector stands in CS.
fn started(core: &mut VcpuCore, around: &dyn Surroundings) -> Result<Waiting, VcpuError> {
    let vector = (core.sregs()?.cs.base >> 12) as u8;
    around.relay(core.id, Interrupt::Sipi(vector));
    rearm(core)?;
    Ok(Waiting::Parked)
}

/// Puts the stub's registers in place after a reset, and parks.
fn rearm(core: &mut VcpuCore) -> Result<(), VcpuError> {
    let sregs = stub::sregs(&core.sregs()?);
    core.set_registers(&sregs, &stub::idle_regs(core.id.index()))?;
    enable_apic(core, false)?;
    core.set_mp_state(KVM_MP_STATE_UNINITIALIZED)
}

/// A proxy's APIC must take everything; nothing can have been pending in one that was off.
fn enable_apic(core: &VcpuCore, already: bool) -> Result<(), VcpuError> {
    if !already {
        core.context(set_apic_msr(&core.fd, ApicMsr::Spurious, SPURIOUS_ENABLED))?;
    }
    core.context(set_apic_msr(&core.fd, ApicMsr::Tpr, 0))
}

/// Takes every pending interrupt with the stub, then parks.
pub fn drain(core: &mut VcpuCore, taken: &mut dyn FnMut(Interrupt)) -> Result<(), VcpuError> {
    core.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
    for _ in 0..DRAIN_EXITS_MAX {
        match stub_exit(core)? {
            StubExit::Took(interrupt) => taken(interrupt),
            StubExit::Idle => {
                finish(core)?;
                return core.set_mp_state(KVM_MP_STATE_UNINITIALIZED);
            }
        }
    }
    Err(core.unexpected("interrupts without end in a proxy"))
}

/// Brings `vectors` (ascending) into service in this proxy's APIC, as they were where the vCPU was captured:
/// the stub takes each and does not end it. Others that it takes on the way are given to `others`.
pub fn raise(
    core: &mut VcpuCore,
    apic: &ApicContext,
    around: &dyn Surroundings,
) -> Result<Vec<Interrupt>, VcpuError> {
    let mut others = Vec::new();
    if apic.in_service.is_empty() {
        return Ok(others);
    }
    core.set_mp_state(KVM_MP_STATE_RUNNABLE)?;
    for &vector in &apic.in_service {
        around.inject_here(core.id, Interrupt::Fixed(vector));
        let mut exits = 0;
        loop {
            exits += 1;
            match stub_exit(core)? {
                StubExit::Took(Interrupt::Fixed(taken)) if taken == vector => break,
                StubExit::Took(interrupt) => others.push(interrupt),
                StubExit::Idle => {}
            }
            if exits > DRAIN_EXITS_MAX {
                return Err(core.unexpected(format!("vector {vector} that does not come into service")));
            }
        }
        finish(core)?;
        let mut regs = core.call("KVM_GET_REGS", core.fd.get_regs())?;
        regs.rip = stub::KEEP_AT;
        core.call("KVM_SET_REGS", core.fd.set_regs(&regs))?;
    }
    Ok(others)
}

enum StubExit {
    Took(Interrupt),
    Idle,
}

/// Runs the stub to its next word.
fn stub_exit(core: &mut VcpuCore) -> Result<StubExit, VcpuError> {
    loop {
        let what = match core.run()? {
            Ok(VcpuExit::IoOut(stub::PORT_IDLE, _)) => return Ok(StubExit::Idle),
            Ok(VcpuExit::IoOut(stub::PORT_VECTOR, &[stub::NMI_VECTOR])) => {
                return Ok(StubExit::Took(Interrupt::Nmi));
            }
            Ok(VcpuExit::IoOut(stub::PORT_VECTOR, &[vector])) if vector >= 16 => {
                return Ok(StubExit::Took(Interrupt::Fixed(vector)));
            }
            // The end of a level-triggered interrupt that is still in service where the vCPU now is.
            Ok(VcpuExit::IoapicEoi(_)) => continue,
            Err(Interrupted::Kicked) => None,
            Err(Interrupted::Woken) => continue,
            Ok(exit) => Some(format!("{exit:?} of a proxy's stub")),
        };
        match what {
            // The letter that came with the kick is read when the stub is done.
            None => core.clear_kick(),
            Some(what) => return Err(core.unexpected(what)),
        }
    }
}

/// Lets KVM finish the last exit, so that registers may be read and set.
fn finish(core: &mut VcpuCore) -> Result<(), VcpuError> {
    core.request_finish();
    let outcome = match core.run()? {
        Err(_) => None,
        Ok(exit) => Some(format!("{exit:?} when a stub's exit was finished")),
    };
    core.clear_kick();
    outcome.map_or(Ok(()), |what| Err(core.unexpected(what)))
}
