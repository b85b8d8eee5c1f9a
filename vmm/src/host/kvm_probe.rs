//! Opens KVM and userfaultfd as a worker will, to learn before the start whether that works.

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};

use super::{KvmFacts, KvmKind, KvmProblem};

/// What a machine cannot do without, with the words for its absence.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::SplitIrqchip, "a split irqchip"),
    (Cap::MpState, "KVM_GET_MP_STATE"),
    (Cap::VcpuEvents, "KVM_GET_VCPU_EVENTS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SignalMsi, "KVM_SIGNAL_MSI"),
];

/// The facts about KVM, or why it cannot be used. `kind` is what the modules say.
pub(super) fn probe(kind: KvmKind) -> Result<KvmFacts, KvmProblem> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmProblem::Missing,
        libc::EACCES | libc::EPERM => KvmProblem::Permission,
        _ => KvmProblem::Other(error.to_string()),
    })?;
    if let Some((_, lacking)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        return Err(KvmProblem::Lacks((*lacking).into()));
    }
    let other = |what: &str, error: kvm_ioctls::Error| KvmProblem::Other(format!("{what}: {error}"));
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| other("KVM_GET_SUPPORTED_CPUID", error))?;
    let vm = kvm.create_vm().map_err(|error| other("KVM_CREATE_VM", error))?;
    let vcpu = vm.create_vcpu(0).map_err(|error| other("KVM_CREATE_VCPU", error))?;
    let tsc_khz = vcpu.get_tsc_khz().map_err(|error| other("KVM_GET_TSC_KHZ", error))?;
    Ok(KvmFacts { kind, tsc_khz, cpuid: cpuid.as_slice().to_vec() })
}

/// Why a worker could not track pages, if it could not. The faults of KVM itself must be seen too, so
/// user-mode-only tracking is not enough.
pub(super) fn tracking_problem() -> Option<String> {
    // SAFETY: the system call takes no pointers; the result is checked before it is used as a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd >= 0 {
        // SAFETY: the descriptor was just made and nobody else has it.
        unsafe { libc::close(fd as libc::c_int) };
        return None;
    }
    let refused = std::io::Error::last_os_error();
    if std::fs::File::options().read(true).write(true).open("/dev/userfaultfd").is_ok() {
        return None;
    }
    Some(match refused.raw_os_error() {
        Some(libc::EPERM) => "its user may not use userfaultfd: give it access to /dev/userfaultfd, or run \
             `sysctl vm.unprivileged_userfaultfd=1`"
            .into(),
        Some(libc::ENOSYS) => "its kernel has no userfaultfd: use one built with CONFIG_USERFAULTFD".into(),
        _ => format!("userfaultfd cannot be opened: {refused}"),
    })
}
