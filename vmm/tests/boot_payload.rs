//! A bare-metal ELF goes through the loader, the entry registers and the platform on this machine's KVM.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use kvm_bindings::{kvm_userspace_memory_region, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use tessera_devices::{GuestEnd, Msi, MsiSink, Platform, PlatformEvents};
use tessera_dsm::NodeId;
use tessera_vmm::boot::{self, entry, BootSpec, BootVcpu};
use tessera_vmm::cpuid::{self, VcpuTopology};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MEMORY_BYTES: u64 = 16 << 20;
const LOAD_AT: u64 = 2 << 20;
/// Far more exits than the payload makes.
const EXITS_MAX: usize = 1000;

/// Prints "hi", checks what it was promised, and exits with 0 if all of it is true.
///
/// ```text
/// mov al, 'h' ; out 0xe9, al ; mov al, 'i' ; out 0xe9, al
/// push rsi ; pop rbx                         the stack works
/// mov eax, [rbx + 0x202] ; xor eax, "HdrS"   RSI is the zero page
/// mov ecx, [rbx + 0x228] ; xor ecx, 0x20000  which points to the command line
/// or eax, ecx
/// out 0xf4, eax ; hlt
/// ```
const CODE: &[u8] = &[
    0xb0, b'h', 0xe6, 0xe9, 0xb0, b'i', 0xe6, 0xe9, 0x56, 0x5b, 0x8b, 0x83, 0x02, 0x02, 0x00, 0x00, 0x35,
    b'H', b'd', b'r', b'S', 0x8b, 0x8b, 0x28, 0x02, 0x00, 0x00, 0x81, 0xf1, 0x00, 0x00, 0x02, 0x00, 0x09,
    0xc8, 0xe7, 0xf4, 0xf4,
];

#[derive(Default)]
struct Heard {
    console: Mutex<Vec<u8>>,
    end: Mutex<Option<GuestEnd>>,
}

impl PlatformEvents for Heard {
    fn console(&self, bytes: &[u8]) {
        self.console.lock().unwrap().extend(bytes);
    }

    fn guest_end(&self, end: GuestEnd) {
        *self.end.lock().unwrap() = Some(end);
    }
}

impl MsiSink for Heard {
    fn send(&self, _msi: Msi) {}
}

/// A static ELF64 executable of one segment with `code` at [`LOAD_AT`].
fn elf(code: &[u8]) -> File {
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for value in [LOAD_AT, 64, 0] {
        image.extend(value.to_le_bytes());
    }
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    image.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for value in [120, LOAD_AT, LOAD_AT, code.len() as u64, code.len() as u64, 0x1000] {
        image.extend(value.to_le_bytes());
    }
    image.extend(code);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image).unwrap();
    file
}

/// A VM with the local APIC in the kernel and one vCPU.
fn machine(kvm: &Kvm, memory: &GuestMemoryMmap) -> (VmFd, VcpuFd) {
    let vm = kvm.create_vm().unwrap();
    vm.set_tss_address(tessera_abi::mmio::TSS as usize).unwrap();
    let split = kvm_bindings::kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
        args: [24, 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&split).unwrap();
    let slot = kvm_userspace_memory_region {
        memory_size: MEMORY_BYTES,
        userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
        ..Default::default()
    };
    // SAFETY: the caller keeps `memory` for longer than the VM.
    unsafe { vm.set_user_memory_region(slot) }.unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    (vm, vcpu)
}

#[test]
fn a_payload_is_loaded_entered_heard_and_ended() {
    let kvm = Kvm::new().expect("this test needs /dev/kvm");
    assert!(kvm.check_extension(Cap::SplitIrqchip));
    let layout = boot::layout_for(MEMORY_BYTES, 1).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES as usize)]).unwrap();
    let spec = BootSpec {
        kernel: elf(CODE),
        initramfs: None,
        cmdline: String::from("a=b"),
        vcpus: vec![BootVcpu { apic_id: 0, node: NodeId(0) }],
    };
    let image = boot::load(&memory, &layout, &spec).unwrap();

    let (_vm, mut vcpu) = machine(&kvm, &memory);
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let levelled = cpuid::levelled(&[supported.as_slice().to_vec()]).unwrap();
    let all = cpuid::apic_ids(&[1]).unwrap();
    let topology = VcpuTopology::new(0, &all, vcpu.get_tsc_khz().unwrap());
    vcpu.set_cpuid2(&cpuid::for_vcpu(&levelled, &topology).unwrap()).unwrap();
    entry::set_initial_msrs(&vcpu).unwrap();
    vcpu.set_sregs(&entry::initial_sregs(vcpu.get_sregs().unwrap(), &image.entry)).unwrap();
    vcpu.set_regs(&entry::initial_regs(&image.entry)).unwrap();
    assert_eq!(vcpu.get_sregs().unwrap().apic_base & 0xd00, 0xd00, "KVM took the x2APIC mode");

    let heard = Arc::new(Heard::default());
    let platform = Platform::new(heard.clone(), heard.clone());
    for _ in 0..EXITS_MAX {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => platform.pio_write(port, data),
            Ok(VcpuExit::IoIn(port, data)) => platform.pio_read(port, data),
            Ok(exit) => panic!("{exit:?}"),
            Err(error) => assert!(matches!(error.errno(), libc::EINTR | libc::EAGAIN), "{error}"),
        }
        if heard.end.lock().unwrap().is_some() {
            break;
        }
    }
    assert_eq!(*heard.end.lock().unwrap(), Some(GuestEnd::PayloadExit(0)));
    assert_eq!(*heard.console.lock().unwrap(), b"hi");
}
