//! KVM calls that kvm-ioctls does not wrap on x86: vCPU device attributes (the TSC offset) and the number of
//! the boot processor.

use std::os::fd::AsRawFd;

use kvm_bindings::{kvm_device_attr, KVMIO, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

mod nr {
    #![allow(missing_docs, reason = "the macro leaves no place for it; the numbers are those of linux/kvm.h")]
    use super::*;
    ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
    ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
    ioctl_io_nr!(KVM_SET_BOOT_CPU_ID, KVMIO, 0x78);
}
use nr::{KVM_GET_DEVICE_ATTR, KVM_SET_BOOT_CPU_ID, KVM_SET_DEVICE_ATTR};

fn tsc_offset_attr(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: value as u64,
    }
}

/// Sets what KVM adds to the host's TSC to give the guest's (KVM vCPU device attribute `KVM_VCPU_TSC_OFFSET`,
/// in ticks, wrapping).
///
/// # Errors
/// The kernel's, such as ENXIO where it has no such attribute (before 5.16).
pub fn set_tsc_offset(vcpu: &VcpuFd, offset_ticks: u64) -> Result<(), errno::Error> {
    let mut value = offset_ticks;
    let attr = tsc_offset_attr(&raw mut value);
    // SAFETY: the file is a vCPU, `attr` is what the call takes, and `value` that it points to lives on.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attr) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

/// Reads what [`set_tsc_offset`] sets, in ticks.
///
/// # Errors
/// The kernel's.
pub fn tsc_offset(vcpu: &VcpuFd) -> Result<u64, errno::Error> {
    let mut value = 0u64;
    let attr = tsc_offset_attr(&raw mut value);
    // SAFETY: the file is a vCPU, `attr` is what the call takes; the kernel writes eight bytes to `value`.
    match unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attr) } {
        0 => Ok(value),
        _ => Err(errno::Error::last()),
    }
}

/// Says which vCPU id is the boot processor (KVM API 4.41); only before any vCPU is made.
///
/// # Errors
/// The kernel's.
pub fn set_boot_cpu_id(vm: &VmFd, id: u32) -> Result<(), errno::Error> {
    // SAFETY: the file is a VM; the call takes a plain number.
    match unsafe { ioctl_with_val(&vm.as_raw_fd(), KVM_SET_BOOT_CPU_ID(), id.into()) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}
