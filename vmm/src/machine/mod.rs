//! One node's machine: KVM, every vCPU of the guest, and on the home node the devices.
//!
//! [`Machine::new`] builds it at rest, [`Machine::start`] lets it run. From then on the control connections
//! feed it with [`Machine::deliver`], and it speaks through [`PeerSink`] and [`MachineEvents`].

mod build;
mod devices;
mod interrupts;
mod message;
mod moves;
mod pause;
mod places;
mod remote_io;
mod shared;
mod spec;
mod stats;

pub use build::MachineError;
pub use devices::{DeviceError, HomeDevices};
pub use message::{MachineEvents, PeerLost, PeerMessage, PeerSink};
pub use moves::MoveReport;
pub use pause::StillRuns;
pub use spec::{MachineSpec, VcpuSpec};
pub use stats::{Blackouts, InterruptStats, MachineStats, VcpuStatus};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tessera_devices::pci::FunctionReport;
use tessera_dsm::pager::TableCache;
use tessera_dsm::NodeId;
use tessera_migration::VcpuId;

use crate::vcpu::{self, Mail, Mailbox, VcpuCore, VcpuPlace};
use shared::Shared;

/// One node's machine.
pub struct Machine {
    shared: Arc<Shared>,
    /// The vCPUs until [`Machine::start`] gives each to its thread.
    resting: Mutex<Vec<VcpuCore>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    quitting: AtomicBool,
    tables: Mutex<Option<Box<dyn TableCache>>>,
}

impl Machine {
    /// Starts every vCPU's thread: the residents run, the others stand in.
    ///
    /// # Errors
    /// When no thread can be made; those that were are told to quit.
    pub fn start(&self) -> Result<(), MachineError> {
        let cores = std::mem::take(&mut *lock(&self.resting));
        for core in cores {
            let (id, mailbox) = (core.id, Arc::clone(self.shared.mailbox(core.id)));
            let here = self.shared.places.get(id).node == self.shared.me;
            let place = if here { VcpuPlace::Here } else { VcpuPlace::Elsewhere };
            let around = Arc::clone(&self.shared) as Arc<dyn vcpu::Surroundings>;
            match vcpu::spawn(core, place, mailbox, around) {
                Ok(thread) => lock(&self.threads).push(thread),
                Err(source) => {
                    self.quit();
                    return Err(MachineError::Thread { vcpu: id, source });
                }
            }
        }
        Ok(())
    }

    /// Takes a peer's message. Never waits for the guest.
    pub fn deliver(&self, from: NodeId, message: PeerMessage) {
        self.shared.deliver(from, message);
    }

    /// A peer is gone for good: moves to and from it fail.
    pub fn peer_lost(&self, peer: NodeId) {
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Lost(peer));
        }
        self.shared.remote.give_up();
    }

    /// From now on this node takes no vCPU (with the reason), or takes them again.
    pub fn close(&self, reason: Option<&str>) {
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Close(reason.map(str::to_owned)));
        }
    }

    /// Types `bytes` on the guest's console; returns how many it took. Only on the home node.
    pub fn console_input(&self, bytes: &[u8]) -> usize {
        self.shared.platform.as_ref().map_or(0, |platform| platform.console_input(bytes))
    }

    /// Presses the guest's power button. Only on the home node.
    pub fn press_power_button(&self) {
        if let Some(platform) = &self.shared.platform {
            platform.press_power_button();
        }
    }

    /// The devices on the PCI bus by place, and what of their work crossed hosts. None but on the home node.
    pub fn device_reports(&self) -> Vec<(usize, FunctionReport)> {
        self.shared.platform.as_ref().map_or_else(Vec::new, |platform| platform.reports())
    }

    /// Where each vCPU is, and how it fares here.
    pub fn vcpus(&self) -> Vec<VcpuStatus> {
        self.shared.vcpu_statuses()
    }

    /// The vCPU whose thread has this number (gettid).
    pub fn vcpu_of_thread(&self, number: u32) -> Option<VcpuId> {
        let is_its = |mailbox: &Arc<Mailbox>| mailbox.kicker().thread_number() == Some(number);
        let index = self.shared.mailboxes.iter().position(is_its)?;
        Some(VcpuId(index as u16))
    }

    /// What this node's machine has done.
    pub fn stats(&self) -> MachineStats {
        self.shared.stats()
    }

    /// Tells every vCPU's thread to end. Threads that wait for a page end once the pager has let them go.
    pub fn quit(&self) {
        self.quitting.store(true, Ordering::SeqCst);
        self.shared.quiet();
        for mailbox in &self.shared.mailboxes {
            mailbox.post(Mail::Quit);
        }
        if let Some(platform) = &self.shared.platform {
            platform.quit();
        }
        self.shared.remote.give_up();
    }

    /// Waits until the threads of every vCPU and every device have ended; after [`Machine::quit`] and the pager's stop.
    pub fn join(&self) {
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A thread that panicked has reported it by its message; there is nothing to add here.
            let _ = thread.join();
        }
        if let Some(platform) = &self.shared.platform {
            platform.join();
        }
    }

    fn mailbox(&self, vcpu: VcpuId) -> Option<&Arc<Mailbox>> {
        self.shared.mailboxes.get(vcpu.index())
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("node", &self.shared.me).finish_non_exhaustive()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.quit();
        self.join();
    }
}

/// Locks; what the locks here guard is whole after every statement, so that a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
