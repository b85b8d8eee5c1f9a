//! Where each vCPU is, as far as this node knows. Readers are on the interrupt path: no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use tessera_dsm::NodeId;
use tessera_migration::handover::Epoch;
use tessera_migration::VcpuId;

/// A vCPU's stay at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Where.
    pub node: NodeId,
    /// The number of the stay.
    pub epoch: Epoch,
}

/// Where each vCPU is. A stale place does no harm: whoever gets what is not for it relays it on.
#[derive(Debug)]
pub struct Places {
    /// Epoch in the upper 56 bits, node in the lower 8.
    words: Vec<AtomicU64>,
}

impl Places {
    /// The first places, in epoch 0.
    pub fn new(nodes: impl Iterator<Item = NodeId>) -> Self {
        Places { words: nodes.map(|node| AtomicU64::new(node.0.into())).collect() }
    }

    /// Where `vcpu` is taken to be.
    ///
    /// # Panics
    /// If there is no such vCPU; numbers from outside are checked where they enter.
    pub fn get(&self, vcpu: VcpuId) -> Place {
        let word = self.words[vcpu.index()].load(Ordering::Acquire);
        Place { node: NodeId(word as u8), epoch: Epoch(word >> 8) }
    }

    /// Notes a stay; an older one than the one known changes nothing. `true` if it was news.
    pub fn set(&self, vcpu: VcpuId, node: NodeId, epoch: Epoch) -> bool {
        let word = &self.words[vcpu.index()];
        let new = epoch.0 << 8 | u64::from(node.0);
        // Of two places in one epoch the later news counts: a move that was refused after the commit.
        let update = |old: u64| (old >> 8 <= epoch.0 && old != new).then_some(new);
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    /// How many vCPUs there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_news_changes_nothing() {
        let places = Places::new([NodeId(0), NodeId(1)].into_iter());
        let vcpu = VcpuId(1);
        assert!(places.set(vcpu, NodeId(2), Epoch(5)));
        assert!(!places.set(vcpu, NodeId(0), Epoch(4)));
        assert_eq!(places.get(vcpu), Place { node: NodeId(2), epoch: Epoch(5) });
        assert!(places.set(vcpu, NodeId(1), Epoch(5)), "a refused move goes back in its own epoch");
        assert_eq!(places.get(VcpuId(0)).node, NodeId(0));
    }
}
