//! The local APIC as it travels (SDM 3A chapter 11, x2APIC: 11.12).

use kvm_bindings::{kvm_lapic_state, kvm_msr_entry, Msrs};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{call, ContextError};

/// An x2APIC register, by its MSR number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ApicMsr {
    /// Task priority.
    Tpr = 0x808,
    /// End of interrupt.
    Eoi = 0x80b,
    /// Spurious vector and software enable.
    Spurious = 0x80f,
    /// Timer's local vector entry.
    LvtTimer = 0x832,
    /// Thermal sensor's.
    LvtThermal = 0x833,
    /// Performance counters'.
    LvtPerformance = 0x834,
    /// LINT0's.
    LvtLint0 = 0x835,
    /// LINT1's.
    LvtLint1 = 0x836,
    /// Error's.
    LvtError = 0x837,
    /// Timer's initial count.
    TimerInitial = 0x838,
    /// Timer's divide configuration.
    TimerDivide = 0x83e,
}

/// LVT timer mode bits: 00 one-shot, 01 periodic, 10 TSC deadline (SDM 3A figure 11-8).
const TIMER_MODE_SHIFT: u32 = 17;
const TIMER_MODE_ONE_SHOT: u32 = 0;

/// The registers that are restored as plain values, in the order in which they must be written: the software
/// enable first, since a disabled APIC forces every local vector entry to masked.
const PLAIN: [ApicMsr; 9] = [
    ApicMsr::Spurious,
    ApicMsr::TimerDivide,
    ApicMsr::LvtTimer,
    ApicMsr::LvtThermal,
    ApicMsr::LvtPerformance,
    ApicMsr::LvtLint0,
    ApicMsr::LvtLint1,
    ApicMsr::LvtError,
    ApicMsr::Tpr,
];

/// The local APIC, without its request register.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ApicContext {
    /// The values of the registers in the order of `PLAIN`.
    registers: [u32; 9],
    /// Vectors in service, ascending.
    pub in_service: Vec<u8>,
    /// What to load into the timer's initial count; 0 when it does not count.
    timer_count: u32,
}

/// Reads a 32-bit register from KVM's image of the APIC page.
pub fn lapic_register(state: &kvm_lapic_state, msr: u32) -> u32 {
    // Register N of the x2APIC MSR range stands at byte 16 * N of the page.
    let at = ((msr - 0x800) as usize) << 4;
    let bytes: [u8; 4] = std::array::from_fn(|i| state.regs.get(at + i).map_or(0, |&c| c as u8));
    u32::from_le_bytes(bytes)
}

impl ApicContext {
    /// Takes what travels from KVM's image of the APIC.
    pub fn from_kvm(state: &kvm_lapic_state) -> Self {
        let mut registers = [0; 9];
        for (value, msr) in registers.iter_mut().zip(PLAIN) {
            *value = lapic_register(state, msr as u32);
        }
        // The in-service register is eight words from 0x810.
        let in_service = (0..=255u8)
            .filter(|&vector| {
                let word = lapic_register(state, 0x810 + u32::from(vector) / 32);
                word & (1 << (vector % 32)) != 0
            })
            .collect();
        let mode = (lapic_register(state, ApicMsr::LvtTimer as u32) >> TIMER_MODE_SHIFT) & 3;
        let initial = lapic_register(state, ApicMsr::TimerInitial as u32);
        let current = lapic_register(state, 0x839);
        // A one-shot timer goes on with what is left of it (at least one tick, or it would never fire);
        // a periodic one starts its period anew.
        let timer_count = match (mode, initial, current) {
            (_, 0, _) => 0,
            (TIMER_MODE_ONE_SHOT, _, 0) => 0,
            (TIMER_MODE_ONE_SHOT, _, left) => left,
            (_, initial, _) => initial,
        };
        ApicContext { registers, in_service, timer_count }
    }

    /// Whether the guest has switched the APIC on (spurious vector register, bit 8).
    pub fn enabled(&self) -> bool {
        self.registers[0] & 0x100 != 0
    }

    /// Writes all but the in-service vectors, which the caller has put in place.
    ///
    /// # Errors
    /// When KVM refuses a register.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), ContextError> {
        for (value, msr) in self.registers.into_iter().zip(PLAIN) {
            set_apic_msr(vcpu, msr, value.into())?;
        }
        if self.timer_count != 0 {
            set_apic_msr(vcpu, ApicMsr::TimerInitial, self.timer_count.into())?;
        }
        Ok(())
    }
}

/// Writes one x2APIC register from the host's side, as a WRMSR of the guest would.
///
/// # Errors
/// When KVM refuses it, with EINVAL for a register that it does not have.
pub fn set_apic_msr(vcpu: &VcpuFd, msr: ApicMsr, value: u64) -> Result<(), ContextError> {
    set_msr(vcpu, msr as u32, value)
}

/// Ends every interrupt in service, so that the proxy's stub can take whatever is pending.
///
/// # Errors
/// When KVM refuses.
pub fn eoi_everything(vcpu: &VcpuFd, apic: &ApicContext) -> Result<(), ContextError> {
    for _ in &apic.in_service {
        set_apic_msr(vcpu, ApicMsr::Eoi, 0)?;
    }
    Ok(())
}

/// Writes one MSR.
pub(crate) fn set_msr(vcpu: &VcpuFd, index: u32, value: u64) -> Result<(), ContextError> {
    let entry = kvm_msr_entry { index, data: value, ..Default::default() };
    let Ok(list) = Msrs::from_entries(&[entry]) else {
        return Err(ContextError::Msr { index, value });
    };
    match call("KVM_SET_MSRS", vcpu.set_msrs(&list))? {
        1 => Ok(()),
        _ => Err(ContextError::Msr { index, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(values: &[(u32, u32)]) -> kvm_lapic_state {
        let mut state = kvm_lapic_state::default();
        for &(msr, value) in values {
            let at = ((msr - 0x800) as usize) << 4;
            for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
                state.regs[at + i] = byte as _;
            }
        }
        state
    }

    #[test]
    fn in_service_vectors_are_found_in_order() {
        let state = image(&[(0x811, 1 << 3), (0x817, 1 << 31 | 1)]);
        assert_eq!(ApicContext::from_kvm(&state).in_service, [35, 224, 255]);
    }

    #[test]
    fn one_shot_timer_keeps_what_is_left() {
        let one_shot = image(&[(0x838, 1000), (0x839, 7)]);
        assert_eq!(ApicContext::from_kvm(&one_shot).timer_count, 7);
        let fired = image(&[(0x838, 1000), (0x839, 0)]);
        assert_eq!(ApicContext::from_kvm(&fired).timer_count, 0, "a timer that fired must not fire again");
        let periodic = image(&[(0x832, 1 << 17), (0x838, 1000), (0x839, 7)]);
        assert_eq!(ApicContext::from_kvm(&periodic).timer_count, 1000);
    }

    #[test]
    fn software_enable_is_seen() {
        assert!(ApicContext::from_kvm(&image(&[(0x80f, 0x1ff)])).enabled());
        assert!(!ApicContext::from_kvm(&image(&[(0x80f, 0xff)])).enabled());
    }
}
