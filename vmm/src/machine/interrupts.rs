//! Bringing interrupts to vCPUs wherever they run.
//!
//! No route need be exact. What a node injects for a vCPU that is not resident there is taken by its proxy
//! and relayed; what reaches a node that the vCPU has just left is relayed again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tessera_devices::{Msi, MsiSink};
use tessera_dsm::NodeId;
use tessera_migration::VcpuId;

use super::message::{PeerMessage, PeerSink};
use super::places::Places;
use super::stats::InterruptStats;
use crate::kvm::Vm;
use crate::vcpu::Interrupt;

const MSI_ADDRESS: u64 = 0xfee0_0000;
/// MSI address bit 2: logical destination mode (SDM 3A 11.11.1).
const LOGICAL: u64 = 1 << 2;
/// MSI data bits 8-10: delivery mode.
const MODE_SHIFT: u32 = 8;
const MODE_NMI: u32 = 4 << MODE_SHIFT;
const MODE_INIT: u32 = 5 << MODE_SHIFT;
const MODE_STARTUP: u32 = 6 << MODE_SHIFT;
/// MSI data bit 14: assert.
const ASSERT: u32 = 1 << 14;
/// MSI data bit 15 and above: level-triggered.
const LEVEL: u32 = 1 << 15;

/// The interrupt side of a machine.
pub struct Interrupts {
    pub(super) vm: Arc<Vm>,
    pub(super) me: NodeId,
    pub(super) apic_ids: Vec<u32>,
    pub(super) places: Arc<Places>,
    pub(super) peers: Arc<dyn PeerSink>,
    pub(super) relayed: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// The message that brings `interrupt` to one APIC id (SDM 3A 11.11; with KVM_CAP_X2APIC_API's 32-bit ids the
/// upper bits of the id stand in the upper half of the address).
fn msi(apic_id: u32, interrupt: Interrupt) -> Msi {
    let address = MSI_ADDRESS | u64::from(apic_id & 0xff) << 12 | u64::from(apic_id & !0xff) << 32;
    let data = match interrupt {
        Interrupt::Fixed(vector) => vector.into(),
        Interrupt::Nmi => MODE_NMI | ASSERT,
        Interrupt::Init => MODE_INIT | ASSERT,
        Interrupt::Sipi(page) => MODE_STARTUP | ASSERT | u32::from(page),
    };
    Msi { address, data }
}

impl Interrupts {
    /// Puts an interrupt into this node's local APIC of `vcpu`, resident or proxy.
    pub fn inject_here(&self, vcpu: VcpuId, interrupt: Interrupt) {
        self.signal(msi(self.apic_ids[vcpu.index()], interrupt));
    }

    /// Sends what a proxy took to where its vCPU is.
    pub fn relay(&self, vcpu: VcpuId, interrupt: Interrupt) {
        let to = self.places.get(vcpu).node;
        if to == self.me {
            // It has just come: the proxy took this on its way to becoming resident.
            return self.inject_here(vcpu, interrupt);
        }
        self.relayed.fetch_add(1, Ordering::Relaxed);
        if self.peers.send(to, PeerMessage::Interrupt(vcpu, interrupt)).is_err() {
            // The loss of a peer ends the guest; whoever noticed reports it.
            tracing::debug!(%vcpu, ?interrupt, %to, "not relayed: the peer is lost");
        }
    }

    /// Takes what a peer relayed.
    pub fn receive(&self, vcpu: VcpuId, interrupt: Interrupt) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.inject_here(vcpu, interrupt);
    }

    /// How many interrupts went which way.
    pub fn stats(&self) -> InterruptStats {
        InterruptStats {
            relayed: self.relayed.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn signal(&self, msi: Msi) {
        match self.vm.signal_msi(msi) {
            Ok(true) => {}
            // No APIC took it: there is none with that id, or the guest has switched it off.
            Ok(false) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(?msi, "no local APIC took this interrupt");
            }
            Err(error) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(?msi, %error, "an interrupt could not be delivered");
            }
        }
    }

    /// The vCPU that a device's interrupt goes to, if it is a plain one for one vCPU.
    fn single_target(&self, msi: Msi) -> Option<(VcpuId, u8)> {
        if msi.address & LOGICAL != 0 || msi.data & (LEVEL | 7 << MODE_SHIFT) != 0 {
            return None;
        }
        let apic_id = (msi.address >> 12 & 0xff) as u32 | (msi.address >> 32) as u32 & !0xff;
        let index = self.apic_ids.iter().position(|&id| id == apic_id)?;
        Some((VcpuId(u16::try_from(index).ok()?), msi.data as u8))
    }
}

impl MsiSink for Interrupts {
    /// Straight to the node where the vCPU is, where that is plain; else to this node's APICs, whose proxies
    /// relay it.
    fn send(&self, msi: Msi) {
        match self.single_target(msi) {
            Some((vcpu, vector)) if self.places.get(vcpu).node != self.me => {
                self.relay(vcpu, Interrupt::Fixed(vector));
            }
            _ => self.signal(msi),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_apic_and_the_mode() {
        let fixed = msi(0x1_23, Interrupt::Fixed(0x41));
        assert_eq!(fixed, Msi { address: 0x0000_0100_fee2_3000, data: 0x41 });
        assert_eq!(msi(3, Interrupt::Init).data, 0x4500);
        assert_eq!(msi(3, Interrupt::Sipi(0x9a)).data, 0x469a);
        assert_eq!(msi(3, Interrupt::Nmi).data, 0x4400);
    }
}
