//! A vCPU that runs here: one KVM_RUN, and what its exit asks for.

use kvm_ioctls::VcpuExit;
use tessera_devices::GuestEnd;

use super::core::{Interrupted, VcpuCore, VcpuError};
use super::surroundings::{DeviceAccess, Surroundings};

/// What came of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// An exit was dealt with; run on.
    Exit,
    /// There was no exit: a kick, or a state in which nothing runs.
    Interrupted,
    /// The guest is over.
    Ended(GuestEnd),
}

/// Runs the guest until its next exit and deals with it.
pub fn step(core: &mut VcpuCore, around: &dyn Surroundings) -> Result<Step, VcpuError> {
    let id = core.id;
    let problem = match core.run()? {
        Err(Interrupted::Kicked | Interrupted::Woken) => return Ok(Step::Interrupted),
        Ok(VcpuExit::IoIn(port, data)) => {
            around.device_read(id, DeviceAccess::Port(port), data);
            return Ok(Step::Exit);
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            around.device_write(id, DeviceAccess::Port(port), data);
            return Ok(Step::Exit);
        }
        Ok(VcpuExit::MmioRead(gpa, data)) if !around.is_ram(gpa) => {
            around.device_read(id, DeviceAccess::Memory(gpa), data);
            return Ok(Step::Exit);
        }
        Ok(VcpuExit::MmioWrite(gpa, data)) if !around.is_ram(gpa) => {
            around.device_write(id, DeviceAccess::Memory(gpa), data);
            return Ok(Step::Exit);
        }
        // A page fault that userfaultfd did not get: a write would be lost in silence if it were served as a
        // device's.
        Ok(VcpuExit::MmioRead(gpa, _) | VcpuExit::MmioWrite(gpa, _)) => {
            format!("device access inside RAM at {gpa:#x}: the page was not delivered")
        }
        Ok(VcpuExit::IoapicEoi(vector)) => {
            around.end_of_interrupt(vector);
            return Ok(Step::Exit);
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Ok(Step::Exit),
        // A triple fault resets a PC.
        Ok(VcpuExit::Shutdown) => return Ok(Step::Ended(GuestEnd::Reset)),
        Ok(VcpuExit::InternalError) => "KVM internal error (an instruction that KVM cannot emulate?)".into(),
        Ok(exit) => format!("{exit:?}"),
    };
    Err(core.unexpected(problem))
}

/// Lets KVM finish what the last exit left open, so that the registers may be read: with `immediate_exit`
/// KVM_RUN completes it without entering the guest. An access in several pieces gives an exit for each.
pub fn finish(core: &mut VcpuCore, around: &dyn Surroundings) -> Result<(), VcpuError> {
    /// An x86 access has at most a handful of pieces (KVM_MAX_MMIO_FRAGMENTS is 2; string I/O some more).
    const PIECES_MAX: usize = 64;
    for _ in 0..PIECES_MAX {
        core.request_finish();
        match step(core, around) {
            Ok(Step::Interrupted) => {
                core.clear_kick();
                return Ok(());
            }
            Ok(Step::Exit | Step::Ended(_)) => {}
            Err(error) => {
                core.clear_kick();
                return Err(error);
            }
        }
    }
    Err(core.unexpected("an access without end"))
}
