//! The floor below every remote page fault: a payload with one vCPU whose memory is filled by the plainest handler that
//! there can be, a thread that waits, reads a fault, and copies a page.
//!
//! `tessera-floor PAYLOAD MEMORY_MIB [COMMAND LINE]`. The payload's console goes to standard output. Exit status: 0 when
//! the payload passed.

mod filler;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{channel, Sender};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use kvm_ioctls::Kvm;
use tessera_devices::GuestEnd;
use tessera_dsm::memory::NodeMemory;
use tessera_dsm::NodeId;
use tessera_migration::VcpuId;
use tessera_vmm::boot::{self, BootSpec, BootVcpu};
use tessera_vmm::cpuid;
use tessera_vmm::machine::{Machine, MachineEvents, MachineSpec, PeerLost, PeerMessage, PeerSink, VcpuSpec};

use filler::Filler;

/// No payload that is measured takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// The one vCPU.
const VCPU: VcpuSpec = VcpuSpec { apic_id: 0, node: NodeId(0) };

/// Prints what the payload says, and tells how it ended.
struct Terminal(Sender<Result<GuestEnd, String>>);

impl MachineEvents for Terminal {
    fn console(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        // Nobody is left to be told when standard output is gone.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    fn guest_end(&self, end: GuestEnd) {
        // The first end counts; after it nobody listens.
        let _ = self.0.send(Ok(end));
    }

    fn failed(&self, why: String) {
        let _ = self.0.send(Err(why));
    }

    fn placed(&self, _: VcpuId, _: NodeId) {}
}

/// There are no other nodes.
struct Alone;

impl PeerSink for Alone {
    fn send(&self, to: NodeId, _: PeerMessage) -> Result<(), PeerLost> {
        Err(PeerLost(to))
    }
}

fn run(payload: &Path, memory_mib: u64, words: &str) -> Result<GuestEnd> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?.as_slice().to_vec();
    let tsc_khz = kvm.create_vm()?.create_vcpu(0)?.get_tsc_khz()?;
    let layout = boot::layout_for(memory_mib << 20, 1)?;
    let memory = NodeMemory::new(layout.clone())?;
    let spec = BootSpec {
        kernel: File::open(payload).with_context(|| format!("cannot open {}", payload.display()))?,
        initramfs: None,
        cmdline: format!("apic={} tsc_khz={tsc_khz} {words}", VCPU.apic_id),
        vcpus: vec![BootVcpu { apic_id: VCPU.apic_id, node: VCPU.node }],
    };
    let image = boot::load(&memory.alias_view(), &layout, &spec)?;
    let machine_spec = MachineSpec {
        me: VCPU.node,
        // As a machine of several: then a vCPU waits for its pages itself.
        nodes: 2,
        layout,
        vcpus: vec![VCPU],
        cpuid: cpuid::levelled(&[supported])?,
        tsc_khz,
        tsc_offset_ticks: -(tessera_vmm::kvm::host_tsc() as i64),
    };
    let (tell, told) = channel();
    let machine = Machine::new(machine_spec, &memory, Arc::new(Alone), Arc::new(Terminal(tell)))?;
    machine.set_entry(&image.entry)?;
    let _filler = Filler::start(&memory)?;
    machine.start()?;
    let end = told.recv_timeout(LIMIT).context("the payload does not end")?;
    machine.quit();
    machine.join();
    end.map_err(anyhow::Error::msg)
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match &given[..] {
        [payload, memory, words @ ..] => memory
            .parse()
            .with_context(|| format!("{memory} is no number of MiB"))
            .and_then(|mib| run(Path::new(payload), mib, &words.join(" ")))
            .and_then(|end| match end {
                GuestEnd::PayloadExit(0) => Ok(()),
                other => bail!("the payload ended with {other:?}"),
            }),
        _ => Err(anyhow::anyhow!("usage: tessera-floor PAYLOAD MEMORY_MIB [COMMAND LINE]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tessera-floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}
