//! One guest on one host, with nothing but KVM below: what the boot path, the CPUID and the devices do by
//! themselves, without page ownership and without proxies. NUMA nodes are as for a guest of several hosts.
//!
//! `one_host KERNEL INITRAMFS|- MEMORY_MIB VCPUS_PER_NODE[,VCPUS_PER_NODE...] [COMMAND LINE]`
//!
//! The guest's console goes to standard output. With ONE_HOST_WATCH=SECONDS in the environment, each vCPU says where it
//! is every so many seconds. Exit status: 0 after power-off, reset and a payload that passed.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kvm_bindings::{
    kvm_enable_cap, kvm_msi, kvm_userspace_memory_region, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API,
    KVM_MAX_CPUID_ENTRIES, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use tessera_devices::pci::PciRoot;
use tessera_devices::{GuestEnd, Msi, MsiSink, Platform, PlatformEvents};
use tessera_dsm::NodeId;
use tessera_vmm::boot::{self, entry, BootSpec, BootVcpu};
use tessera_vmm::cpuid::{self, VcpuTopology};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The VM takes interrupts from the devices.
struct Vm(VmFd);

impl MsiSink for Vm {
    fn send(&self, msi: Msi) {
        let (address_lo, address_hi) = (msi.address as u32, (msi.address >> 32) as u32);
        let message = kvm_msi { address_lo, address_hi, data: msi.data, ..Default::default() };
        match self.0.signal_msi(message) {
            Ok(1..) => {}
            other => eprintln!("one_host: {msi:x?} was not delivered: {other:?}"),
        }
    }
}

/// The process is the guest's terminal.
struct Terminal;

impl PlatformEvents for Terminal {
    fn console(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        // Nobody is left to be told when standard output is gone.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    fn guest_end(&self, end: GuestEnd) {
        eprintln!("one_host: {end:?}");
        exit(match end {
            GuestEnd::PowerOff | GuestEnd::Reset => 0,
            GuestEnd::Panic => 101,
            GuestEnd::PayloadExit(status) => status.min(255) as i32,
        });
    }
}

struct Arguments {
    kernel: String,
    initramfs: Option<String>,
    memory_mib: u64,
    vcpus_per_node: Vec<u32>,
    cmdline: String,
}

fn arguments() -> Result<Arguments> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initramfs, memory, vcpus, cmdline @ ..] = &given[..] else {
        return Err("usage: one_host KERNEL INITRAMFS|- MEMORY_MIB VCPUS[,VCPUS...] [COMMAND LINE]".into());
    };
    Ok(Arguments {
        kernel: kernel.clone(),
        initramfs: (initramfs != "-").then(|| initramfs.clone()),
        memory_mib: memory.parse()?,
        vcpus_per_node: vcpus.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
        cmdline: cmdline.join(" "),
    })
}

fn create_vm(kvm: &Kvm, memory: &GuestMemoryMmap) -> Result<VmFd> {
    let vm = kvm.create_vm()?;
    vm.set_tss_address(tessera_abi::mmio::TSS as usize)?;
    vm.set_identity_map_address(tessera_abi::mmio::IDENTITY_MAP)?;
    let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [24, 0, 0, 0], ..Default::default() };
    vm.enable_cap(&split)?;
    let api = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    let x2apic =
        kvm_enable_cap { cap: KVM_CAP_X2APIC_API, args: [api.into(), 0, 0, 0], ..Default::default() };
    vm.enable_cap(&x2apic)?;
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let start = region.start_addr();
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start.0,
            memory_size: region.len(),
            userspace_addr: memory.get_host_address(start)? as u64,
        };
        // SAFETY: `memory` lives until the process ends and its mappings do not move.
        unsafe { vm.set_user_memory_region(slot) }?;
    }
    Ok(vm)
}

/// One element of a string instruction at a time: KVM hands over all of them at once, but no device here is
/// wider than four bytes and only byte-wide ones are written with strings.
fn elements(data: &[u8]) -> usize {
    if data.len() > 4 {
        1
    } else {
        data.len().max(1)
    }
}

fn run(mut vcpu: VcpuFd, platform: &Platform) {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                let element = elements(data);
                data.chunks_mut(element).for_each(|data| platform.pio_read(port, data));
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                data.chunks(elements(data)).for_each(|data| platform.pio_write(port, data));
            }
            Ok(VcpuExit::MmioRead(gpa, data)) => platform.mmio_read(gpa, data),
            Ok(VcpuExit::MmioWrite(gpa, data)) => platform.mmio_write(gpa, data),
            Ok(VcpuExit::IoapicEoi(vector)) => platform.ioapic_eoi(vector),
            Err(error) if error.errno() == libc::EINTR => {
                eprintln!("one_host: kicked: {}", vcpu_state(&vcpu));
            }
            Err(error) if error.errno() == libc::EAGAIN => {}
            Ok(exit) => fail(&format!("{exit:?}"), &vcpu_state(&vcpu)),
            Err(error) => fail(&format!("KVM_RUN: {error}"), &vcpu_state(&vcpu)),
        }
    }
}

fn vcpu_state(vcpu: &VcpuFd) -> String {
    let regs = vcpu.get_regs().unwrap_or_default();
    let sregs = vcpu.get_sregs().unwrap_or_default();
    format!("RIP {:#x} RSP {:#x} CR2 {:#x} CR3 {:#x}", regs.rip, regs.rsp, sregs.cr2, sregs.cr3)
}

/// With ONE_HOST_WATCH=SECONDS in the environment, each vCPU says where it is every so often.
fn watch_period() -> Result<Option<Duration>> {
    let Ok(seconds) = std::env::var("ONE_HOST_WATCH") else { return Ok(None) };
    extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), ignore)?;
    Ok(Some(Duration::from_secs(seconds.parse()?)))
}

fn kick_for_ever(threads: &[thread::JoinHandle<()>], period: Duration) -> ! {
    loop {
        thread::sleep(period);
        for thread in threads {
            // The thread is there until the process ends.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

fn fail(exit_reason: &str, state: &str) -> ! {
    eprintln!("one_host: {exit_reason}: {state}");
    exit(102)
}

fn start() -> Result<()> {
    let arguments = arguments()?;
    let layout = boot::layout_for(arguments.memory_mib << 20, arguments.vcpus_per_node.len())?;
    let ranges: Vec<(GuestAddress, usize)> = layout
        .regions()
        .iter()
        .map(|region| (GuestAddress(region.start.gpa()), (region.pages << 12) as usize))
        .collect();
    // The guest uses it until the process ends.
    let memory: &'static GuestMemoryMmap = Box::leak(Box::new(GuestMemoryMmap::from_ranges(&ranges)?));

    let kvm = Kvm::new()?;
    let vm = Arc::new(Vm(create_vm(&kvm, memory)?));
    let platform = Platform::new(vm.clone(), Arc::new(Terminal));
    let platform = Arc::new(platform.with_pci(PciRoot::default(), boot::pci_window(&layout))?);
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let levelled = cpuid::levelled(&[supported.as_slice().to_vec()])?;
    let ids: Vec<(u32, NodeId)> = cpuid::apic_ids(&arguments.vcpus_per_node)?;
    let mut vcpus = Vec::new();
    for &(id, _) in &ids {
        vcpus.push(vm.0.create_vcpu(id.into())?);
    }
    let tsc_khz = vcpus.first().ok_or("no vCPU")?.get_tsc_khz()?;
    for (vcpu, &(id, _)) in vcpus.iter().zip(&ids) {
        vcpu.set_cpuid2(&cpuid::for_vcpu(&levelled, &VcpuTopology::new(id, &ids, tsc_khz))?)?;
        entry::set_initial_msrs(vcpu)?;
        vcpu.set_sregs(&entry::waiting_sregs(vcpu.get_sregs()?))?;
        // KVM delivers nothing to a local APIC that was never set.
        vcpu.set_lapic(&vcpu.get_lapic()?)?;
    }

    let initramfs = arguments.initramfs.as_deref().map(|path| boot::open("initramfs", Path::new(path)));
    let spec = BootSpec {
        kernel: boot::open("kernel", Path::new(&arguments.kernel))?,
        initramfs: initramfs.transpose()?,
        cmdline: boot::cmdline::compose(
            &arguments.cmdline,
            &boot::cmdline::Guest { tsc_khz, vcpus: ids.len(), hosts: 1 },
        ),
        vcpus: ids.iter().map(|&(apic_id, node)| BootVcpu { apic_id, node }).collect(),
    };
    let image = boot::load(memory, &layout, &spec)?;
    vcpus[0].set_sregs(&entry::initial_sregs(vcpus[0].get_sregs()?, &image.entry))?;
    vcpus[0].set_regs(&entry::initial_regs(&image.entry))?;

    let watch = watch_period()?;
    let threads: Vec<_> = vcpus
        .into_iter()
        .map(|vcpu| {
            let platform = platform.clone();
            thread::spawn(move || run(vcpu, &platform))
        })
        .collect();
    if let Some(period) = watch {
        kick_for_ever(&threads, period);
    }
    for thread in threads {
        thread.join().map_err(|_| "a vCPU's thread panicked")?;
    }
    Ok(())
}

fn main() {
    if let Err(error) = start() {
        eprintln!("one_host: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            eprintln!("  because: {cause}");
            source = cause.source();
        }
        exit(100);
    }
}
